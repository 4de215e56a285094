#include "core/arena.h"

#include <sys/mman.h>
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

Arena::Arena(size_t reserveBytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (reserveBytes == 0) reserveBytes = 2 * page * static_cast<size_t>(sysconf(_SC_PHYS_PAGES));
  // Where address space is limited (ulimit -v, strict overcommit) less is reserved.
  for (size_t size = roundUp(reserveBytes, page); size >= std::min(kSmallestReserve, reserveBytes);
       size /= 2) {
    void* base =
        mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base != MAP_FAILED) {
      base_ = static_cast<std::byte*>(base);
      capacity_ = size / kAlignment * kAlignment;
      free_[0] = capacity_;
      return;
    }
  }
  fail(Code::OutOfMemory, "Out of memory: could not reserve ", reserveBytes,
       " bytes of address space for the step arena; raise the limit on virtual memory (ulimit -v)");
}

Arena::~Arena() { munmap(base_, capacity_); }

size_t Arena::take(size_t size) {
  std::lock_guard lock(mutex_);
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (it->second < size) continue;
    const size_t offset = it->first;
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
  std::memset(result.raw(), 0, result.bytes());
  return result;
}

void Arena::trim() {
  std::lock_guard lock(mutex_);
  if (free_.empty()) return;
  const auto last = std::prev(free_.end());
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t begin = roundUp(last->first, page);
  if (begin < last->first + last->second)
    madvise(base_ + begin, last->first + last->second - begin, MADV_DONTNEED);
}

}  // namespace duet
