// The step arena: memory for what lives no longer than a training step. One large run of address
// space is reserved once; blocks are handed out lowest address first and joined again when freed,
// so resident memory is the high-water mark of what was alive at one time, and a steady step
// asks the operating system (or the driver of a device) for nothing.
#pragma once

#include <memory>
#include <mutex>

#include "core/free_list.h"
#include "core/memory.h"
#include "core/tensor.h"

namespace duet {

class Arena : public std::enable_shared_from_this<Arena> {
 public:
  /// @param reserveBytes address space to reserve; 0 takes twice the physical memory.
  static std::shared_ptr<Arena> create(size_t reserveBytes = 0);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Uninitialised memory, 64-byte aligned; returns to the arena with the last tensor that holds it.
  Tensor empty(const Shape& shape, DType dtype = DType::f32);
  Tensor zeros(const Shape& shape, DType dtype = DType::f32);

  size_t liveBytes() const { return live_; }
  size_t peakBytes() const { return peak_; }
  void resetPeak() { peak_ = live_; }

 private:
  friend class ArenaStorage;
  explicit Arena(size_t reserveBytes);
  size_t take(size_t size);
  void give(size_t offset, size_t size);

  const Memory& memory_;
  std::mutex mutex_;
  std::byte* base_ = nullptr;
  size_t backed_ = 0;  // bytes from base_ on that have had memory behind them
  size_t capacity_ = 0, reserved_ = 0;
  FreeList free_;
  size_t live_ = 0;
  size_t peak_ = 0;
};

}  // namespace duet
