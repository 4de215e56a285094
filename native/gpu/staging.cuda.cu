// Lists and inputs on their way to the device: copied into pinned memory first, because only from there a
// copy goes on while the host does. The pinned memory is a ring; a part of it is filled again when the copies
// from it are done.
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "gpu/stream.h"

namespace duet::gpu {
namespace {

class Staging {
 public:
  Staging() {
    for (Part& part : parts_) part = {pinnedBytes(stagingBytes()), makeEvent(), false};
  }

  void copyIn(std::byte* to, const std::byte* from, size_t bytes) {
    const std::lock_guard lock(mutex_);
    while (bytes > 0) {
      if (filled_ == stagingBytes()) next();
      const size_t size = bytes < stagingBytes() - filled_ ? bytes : stagingBytes() - filled_;
      std::byte* there = parts_[at_].bytes + filled_;
      std::memcpy(there, from, size);
      copyInLater(to, there, size);
      constexpr size_t aligned = 256;
      filled_ += (size + aligned - 1) / aligned * aligned;
      to += size;
      from += size;
      bytes -= size;
    }
  }

 private:
  struct Part {
    std::byte* bytes;
    Event copied;
    bool used;
  };

  void next() {
    recordEvent(parts_[at_].copied);
    parts_[at_].used = true;
    at_ = (at_ + 1) % parts_.size();
    if (parts_[at_].used) waitForEvent(parts_[at_].copied);
    filled_ = 0;
  }

  std::mutex mutex_;
  std::array<Part, 4> parts_;
  size_t at_ = 0, filled_ = 0;
};

Staging& staging() {
  static std::mutex mutex;
  static auto& rings = *new std::map<int, std::unique_ptr<Staging>>;  // outlives every thread
  const std::lock_guard lock(mutex);
  std::unique_ptr<Staging>& ring = rings[deviceInUse()];
  if (!ring) ring = std::make_unique<Staging>();
  return *ring;
}

}  // namespace

void stage(void* to, const void* from, size_t bytes) {
  if (bytes > 0) staging().copyIn(static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes);
}

}  // namespace duet::gpu
