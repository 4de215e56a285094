#include "gpu/hopper.h"

#include <cuda.h>

namespace duet::gpu {

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));

bool isHopper() {
  int device = 0, major = 0;
  check(cudaGetDevice(&device), "be asked for");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "describe itself");
  return major == 9;
}

namespace {

/// From the driver at run time, so that the plugin needs no library of it to load.
auto encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  check(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found),
      "find the driver's functions");
  if (found != cudaDriverEntryPointSuccess)
    fail(Code::Unsupported, "The NVIDIA driver has no cuTensorMapEncodeTiled; install a newer one");
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

}  // namespace

TensorMap tensorMapOf(const void* data, int64_t rows, int64_t columns, int64_t stride, int tileRows) {
  static const auto encode = encoder();
  TensorMap map{};
  const cuuint64_t size[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strideBytes[] = {static_cast<cuuint64_t>(2 * stride)};
  const cuuint32_t box[] = {kTileColumns, static_cast<cuuint32_t>(tileRows)};
  const cuuint32_t steps[] = {1, 1};
  const CUresult answer = encode(reinterpret_cast<CUtensorMap*>(map.bytes), CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                                 2, const_cast<void*>(data), size, strideBytes, box, steps,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (answer != CUDA_SUCCESS)
    fail(Code::Internal, "A matrix of ", rows, " x ", columns, ", rows ", stride,
         " apart, cannot be copied in tiles of ", tileRows, " rows (error ", static_cast<int>(answer), ")");
  return map;
}

}  // namespace duet::gpu
