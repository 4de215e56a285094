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
  /// @param bytes of the tensor; it takes `size`
  ArenaStorage(std::shared_ptr<Arena> arena, size_t offset, size_t size, size_t bytes)
      : arena_(std::move(arena)), offset_(offset) {
    bytes_ = arena_->base_ + offset;
    size_ = size;
    if (arena_->memory_.lend) arena_->memory_.lend(bytes_, bytes, size);
  }
  ~ArenaStorage() override {
    if (arena_->memory_.takeBack) arena_->memory_.takeBack(bytes_, size_);
    arena_->give(offset_, size_);
  }

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
      free_ = FreeList(capacity_);
      return;
    }
  }
  fail(Code::OutOfMemory, "Out of memory: could not reserve ", reserveBytes,
       " bytes of address space for the step arena; raise the limit on virtual memory (ulimit -v)");
}

Arena::~Arena() { memory_.forsake(base_, reserved_); }

size_t Arena::take(size_t size) {
  std::lock_guard lock(mutex_);
  const size_t offset = free_.take(size);
  if (offset == FreeList::kNone)
    fail(Code::OutOfMemory, "Out of memory: a step needs ", size, " more bytes but the arena of ", capacity_,
         " bytes has no such run left; use a smaller batch");
  if (offset + size > backed_) {
    try {
      memory_.back(base_, backed_, offset + size);
    } catch (...) {
      free_.give(offset, size);
      throw;
    }
    backed_ = offset + size;
  }
  live_ += size;
  peak_ = std::max(peak_, live_);
  return offset;
}

void Arena::give(size_t offset, size_t size) {
  std::lock_guard lock(mutex_);
  live_ -= size;
  free_.give(offset, size);
}

Tensor Arena::empty(const Shape& shape, DType dtype) {
  const size_t size = std::max<size_t>(static_cast<size_t>(shape.elements()) * sizeOf(dtype), 1);
  const size_t rounded = roundUp(size + memory_.redzone, kAlignment);
  const size_t offset = take(rounded);
  return Tensor(std::make_shared<ArenaStorage>(shared_from_this(), offset, rounded, size), 0, shape, dtype);
}

Tensor Arena::zeros(const Shape& shape, DType dtype) {
  Tensor result = empty(shape, dtype);
  memory_.zero(result.raw(), result.bytes());
  return result;
}

}  // namespace duet
