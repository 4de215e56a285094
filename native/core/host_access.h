// A tensor's numbers for code of the host: where they are when they lie in its memory, else by way of a
// buffer.
#pragma once

#include <vector>

#include "core/memory.h"
#include "core/tensor.h"

namespace duet {

/// work(float*) writes all numbers of an f32 tensor.
template <typename Work>
void fillOnHost(const Tensor& tensor, Work&& work) {
  if (currentMemory().onHost) {
    work(tensor.f32());
    return;
  }
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  work(values.data());
  currentMemory().copyIn(tensor.raw(), values.data(), tensor.bytes());
}

/// What work(const float*) makes of the numbers of an f32 tensor.
template <typename Work>
auto readOnHost(const Tensor& tensor, Work&& work) {
  if (currentMemory().onHost) return work(static_cast<const float*>(tensor.f32()));
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  currentMemory().copyOut(values.data(), tensor.f32(), tensor.bytes());
  return work(static_cast<const float*>(values.data()));
}

/// The numbers of an f32 tensor.
inline std::vector<float> valuesOf(const Tensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  currentMemory().copyOut(values.data(), tensor.f32(), tensor.bytes());
  return values;
}

/// Numbers of the host as a tensor of this thread's device.
inline void copyIn(const Tensor& to, const float* values) {
  currentMemory().copyIn(to.f32(), values, to.bytes());
}

inline void copy(const Tensor& to, const Tensor& from) {
  currentMemory().copy(to.raw(), from.raw(), from.bytes());
}

}  // namespace duet
