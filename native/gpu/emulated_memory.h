// The emulated device's memory: one run of addresses that is closed unless the stream works.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>

#include "core/free_list.h"

namespace duet::gpu::emulation {

class DeviceMemory {
 public:
  static constexpr size_t kZone = 64;  // behind every block, at least
  static DeviceMemory& instance();

  /// Addresses of this device. @throws OutOfMemory
  std::byte* take(size_t size);
  void give(std::byte* block, size_t size);
  /// Counts memory that is put behind addresses. @throws OutOfMemory beyond DUET_EMULATED_BYTES
  void count(size_t bytes);
  void uncount(size_t bytes);
  size_t limit() const { return limit_; }
  size_t freeBytes();

  bool contains(const void* address) const {
    const auto* at = static_cast<const std::byte*>(address);
    return at >= base_ && at < base_ + size_;
  }

  // What follows is the stream's.
  void open();
  void close();
  /// `bytes` of the `size` at a place begin as NaN; the rest is what nobody may write to.
  void begin(std::byte* block, size_t bytes, size_t size);
  void end(std::byte* block);
  /// @throws Internal when something was written behind a block
  void checkZones() const;

 private:
  struct Block {
    size_t bytes, size;
  };
  DeviceMemory();

  std::byte* base_ = nullptr;
  size_t size_ = 0, limit_ = 0, counted_ = 0;
  std::byte* high_ = nullptr;  // nothing was ever taken from here on
  std::mutex mutex_;
  FreeList free_;
  std::map<std::byte*, Block> blocks_;
};

}  // namespace duet::gpu::emulation
