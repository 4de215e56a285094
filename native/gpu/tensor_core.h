// Tensor cores and asynchronous copies (PTX ISA, "Warp-level matrix instructions" and "cp.async"), for sm_80
// and newer. The emulation has functions of the same names.
//
// mma of a warp: C (16 x 8, f32) += A (16 x K) B (K x 8). With g = lane / 4 and t = lane % 4 a lane holds
//   C[g][2t], C[g][2t + 1], C[g + 8][2t], C[g + 8][2t + 1]
//   bf16, K = 16, two values a word, the first in the low half:
//     A[g][2t..], A[g + 8][2t..], A[g][2t + 8..], A[g + 8][2t + 8..];   B[2t..][g], B[2t + 8..][g]
//   tf32, K = 8, a word each:
//     A[g][t], A[g + 8][t], A[g][t + 4], A[g + 8][t + 4];               B[t][g], B[t + 4][g]
#pragma once

#include <cstdint>

namespace duet::gpu {

__device__ __forceinline__ void mmaBf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mmaTf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// An f32 rounded to tf32 (nearest, ties away from zero), as bits.
__device__ __forceinline__ uint32_t toTf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

/// Four 8 x 8 matrices of 16-bit values from shared memory: lanes 8 i to 8 i + 7 point to the eight rows of
/// matrix i. Word i of lane l holds elements [l / 4][2 (l % 4)] and the next of matrix i.
__device__ __forceinline__ void loadMatrices(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row))));
}

/// The same of the matrices turned: [2 (l % 4)][l / 4] and the one below.
__device__ __forceinline__ void loadMatricesTurned(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row))));
}

/// Starts a copy of 16 bytes from global to shared memory (both 16-byte aligned); only the first `valid`
/// bytes are read, the rest becomes 0. Seen by the thread itself after copyWait, by others after a barrier
/// behind that.
__device__ __forceinline__ void copyAsync16(void* to, const void* from, int valid = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(__cvta_generic_to_global(from)), "r"(valid)
               : "memory");
}

/// Ends a group of copies.
__device__ __forceinline__ void copyCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most `Pending` of this thread's groups are under way.
template <int Pending>
__device__ __forceinline__ void copyWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

}  // namespace duet::gpu
