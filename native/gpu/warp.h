// Sums and maxima over the threads of a warp and of a block. The order of additions depends on nothing but
// their number, so the bits are the same every time.
#pragma once

namespace duet::gpu {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;

template <typename T>
DUET_DEVICE T warpSum(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

DUET_DEVICE float warpMax(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, value, step);
    value = other > value ? other : value;
  }
  return value;
}

/// The sum over all threads of a block (a whole number of warps, at most 1024), given to each of them.
template <typename T>
DUET_DEVICE T blockSum(T value) {
  DUET_SHARED(T, partial, [kWarp]);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  value = warpSum(value);
  __syncthreads();  // whoever still reads the sum before this one
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  return warpSum(lane < warps ? partial[lane] : T(0));
}

DUET_DEVICE float blockMax(float value) {
  DUET_SHARED(float, partial, [kWarp]);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  value = warpMax(value);
  __syncthreads();
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  return warpMax(partial[lane < warps ? lane : 0]);
}

}  // namespace duet::gpu
