#include "core/arena.h"

#include <unistd.h>

#include <algorithm>

namespace duet {

namespace {
constexpr size_t kAlignment = 64;
constexpr size_t kSmallestReserve = size_t{256} << 20;

size_t roundUp(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }
}  // namespace

class ArenaStorage final : public Storage {
 public:
  ArenaStorage(std::shared_ptr<Arena> arena, size_t offset, size_t size)
      : arena_(std::move(arena)), offset_(offset) {
    bytes_ = arena_->base_ + offset;
    size_ = size;
  }
  ~ArenaStorage() override { arena_->give(offset_, size_); }

 private:
  std::shared_ptr<Arena> arena_;
  size_t offset_;
};

std::shared_ptr<Arena> Arena::create(size_t reserveBytes) {
  return std::shared_ptr<Arena>(new Arena(reserveBytes));
}

Arena::Arena(size_t reserveBytes) : memory_(currentMemory()) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (reserveBytes == 0) reserveBytes = 2 * page * static_cast<size_t>(sysconf(_SC_PHYS_PAGES));
  // Where address space is limited (ulimit -v, strict overcommit) less is reserved.
  for (size_t size = roundUp(reserveBytes, page); size >= std::min(kSmallestReserve, reserveBytes);
       size /= 2) {
    base_ = memory_.reserve(size);
    if (base_) {
      reserved_ = size;
      capacity_ = size / kAlignment * kAlignment;
      free_[0] = capacity_;
      return;
    }
  }
  fail(Code::OutOfMemory, "Out of memory: could not reserve ", reserveBytes,
       " bytes of address space for the step arena; raise the limit on virtual memory (ulimit -v)");
}

Arena::~Arena() { memory_.forsake(base_, reserved_); }

size_t Arena::take(size_t size) {
  std::lock_guard lock(mutex_);
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (it->second < size) continue;
    const size_t offset = it->first;
    if (offset + size > backed_) {
      memory_.back(base_, backed_, offset + size);
      backed_ = offset + size;
    }
    const size_t rest = it->second - size;
    free_.erase(it);
    if (rest > 0) free_[offset + size] = rest;
    live_ += size;
    peak_ = std::max(peak_, live_);
    return offset;
  }
  fail(Code::OutOfMemory, "Out of memory: a step needs ", size, " more bytes but the arena of ", capacity_,
       " bytes has no such run left; use a smaller batch");
}

void Arena::give(size_t offset, size_t size) {
  std::lock_guard lock(mutex_);
  live_ -= size;
  auto next = free_.lower_bound(offset);
  if (next != free_.end() && offset + size == next->first) {
    size += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    auto previous = std::prev(next);
    if (previous->first + previous->second == offset) {
      previous->second += size;
      return;
    }
  }
  free_[offset] = size;
}

Tensor Arena::empty(const Shape& shape, DType dtype) {
  const size_t size = std::max<size_t>(static_cast<size_t>(shape.elements()) * sizeOf(dtype), 1);
  const size_t rounded = roundUp(size, kAlignment);
  const size_t offset = take(rounded);
  return Tensor(std::make_shared<ArenaStorage>(shared_from_this(), offset, rounded), 0, shape, dtype);
}

Tensor Arena::zeros(const Shape& shape, DType dtype) {
  Tensor result = empty(shape, dtype);
  memory_.zero(result.raw(), result.bytes());
  return result;
}

}  // namespace duet
