// Memory of the device in the hands of the host: scratch, lists on their way to kernels, results on their way
// back.
#pragma once

#include <cstdint>
#include <type_traits>

#include "gpu/stream.h"

namespace duet::gpu {

/// Device memory for the kernels launched while this lives.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<T*>(takeScratch(static_cast<size_t>(count > 0 ? count : 1) * sizeof(T)))) {}
  ~Scratch() { giveScratch(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* data() const { return data_; }

 private:
  T* data_;
};

/// A list of the host's on the device. The list may change as soon as this is made.
template <typename T>
class Upload {
 public:
  Upload(const T* list, int64_t count) : there_(list ? count : 0), given_(list != nullptr) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (given_) stage(there_.data(), list, static_cast<size_t>(count) * sizeof(T));
  }
  /// Null where there was no list.
  const T* data() const { return given_ ? there_.data() : nullptr; }

 private:
  Scratch<T> there_;
  bool given_;
};

/// Values of the device, once everything before is done.
template <typename T>
void readBack(T* to, const T* from, int64_t count = 1) {
  copyOutNow(to, from, static_cast<size_t>(count) * sizeof(T));
}

}  // namespace duet::gpu
