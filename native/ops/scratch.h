// Scratch memory of the CPU kernels.
#pragma once

#include <omp.h>

#include <cstdlib>

#include "core/error.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {

inline int64_t roundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

/// Scratch for every thread, taken before the parallel region so that running out of memory is an
/// error and not the end of the process.
struct Scratch {
  float* data;
  int64_t each;
  explicit Scratch(int64_t count) : each(roundUp(count + 256, 16)) {
    data = static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(each * omp_get_max_threads()) * 4));
    if (!data)
      fail(Code::OutOfMemory, "Out of memory: a kernel needs ", each * 4, " bytes of scratch a thread");
  }
  ~Scratch() { std::free(data); }
};

/// Hands out one thread's share.
struct Share {
  float* next;
  explicit Share(const Scratch& scratch) : next(scratch.data + scratch.each * omp_get_thread_num()) {}
  float* take(int64_t count) {
    float* result = next;
    next += roundUp(count, 16);
    return result;
  }
};

/// Zeroed scratch that all threads share.
struct Zeros {
  float* data;
  explicit Zeros(int64_t count)
      : data(static_cast<float*>(std::calloc(static_cast<size_t>(count > 0 ? count : 1), sizeof(float)))) {
    if (!data) fail(Code::OutOfMemory, "Out of memory: a kernel needs ", count * 4, " bytes of scratch");
  }
  ~Zeros() { std::free(data); }
  Zeros(const Zeros&) = delete;
  Zeros& operator=(const Zeros&) = delete;
};

}  // namespace duet::cpu::DUET_ISA
