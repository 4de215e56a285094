// Attention on the CPU: one task per sequence and head, a block of query rows at a time. All
// products go through one register-blocked kernel C (+)= A B whose right side has unit stride;
// A may be read along either axis, so only K and V (forward) are ever transposed.
#include "ops/attention.h"

#include <omp.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "core/philox.h"
#include "ops/kernels.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {
namespace {

constexpr int64_t kQueryBlock = 48;

#if defined(__AVX512F__)
constexpr int kRows = 8, kVectors = 3;
#elif defined(__AVX2__)
constexpr int kRows = 4, kVectors = 3;
#else
constexpr int kRows = 4, kVectors = 2;
#endif

int64_t roundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// C[R x V*lanes] (+)= A[R x K] B[K x V*lanes]; A element (r, k) at a[r * aRow + k * aColumn].
template <int R, int V>
inline void tile(int64_t depth, const float* a, int64_t aRow, int64_t aColumn, const float* b, int64_t bRow, float* c,
                 int64_t cRow, bool accumulate) {
  Vec sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = accumulate ? loadVec(c + r * cRow + v * kLanes) : Vec{};
  for (int64_t k = 0; k < depth; ++k) {
    Vec right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = loadVec(b + k * bRow + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec left = fillVec(a[r * aRow + k * aColumn]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) storeVec(c + r * cRow + v * kLanes, sum[r][v]);
}

template <int R>
inline void rowsOf(int64_t n, int64_t depth, const float* a, int64_t aRow, int64_t aColumn, const float* b,
                   int64_t bRow, float* c, int64_t cRow, bool accumulate) {
  int64_t j = 0;
  for (; j + kVectors * kLanes <= n; j += kVectors * kLanes)
    tile<R, kVectors>(depth, a, aRow, aColumn, b + j, bRow, c + j, cRow, accumulate);
  if (kVectors > 2 && j + 2 * kLanes <= n) {
    tile<R, 2>(depth, a, aRow, aColumn, b + j, bRow, c + j, cRow, accumulate);
    j += 2 * kLanes;
  }
  for (; j < n; j += kLanes) tile<R, 1>(depth, a, aRow, aColumn, b + j, bRow, c + j, cRow, accumulate);
}

// n is a multiple of kLanes (buffers are padded to it).
void multiply(int64_t m, int64_t n, int64_t depth, const float* a, int64_t aRow, int64_t aColumn, const float* b,
              int64_t bRow, float* c, int64_t cRow, bool accumulate) {
  int64_t i = 0;
  for (; i + kRows <= m; i += kRows)
    rowsOf<kRows>(n, depth, a + i * aRow, aRow, aColumn, b, bRow, c + i * cRow, cRow, accumulate);
  for (; i < m; ++i) rowsOf<1>(n, depth, a + i * aRow, aRow, aColumn, b, bRow, c + i * cRow, cRow, accumulate);
}

/// Scratch for every thread, taken before the parallel region so that running out of memory is an
/// error and not the end of the process.
struct Scratch {
  float* data;
  int64_t each;
  explicit Scratch(int64_t count) : each(roundUp(count + 256, 16)) {
    data = static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(each * omp_get_max_threads()) * 4));
    if (!data) fail(Code::Internal, "Out of memory: attention needs ", each * 4, " bytes of scratch a thread");
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

/// Rows of one head as f32, `width` >= headSize columns with zeros behind.
template <typename T>
void copyHead(const HeadMatrix& m, int64_t row, int64_t rows, int64_t head, int64_t size, float* to, int64_t width) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* from = static_cast<const T*>(m.data) + (row + r) * m.stride + head * size;
    float* out = to + r * width;
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) out[i] = readAs(from, i);
    for (int64_t i = size; i < width; ++i) out[i] = 0.0f;
  }
}

/// The transpose: size x rows, row stride `width` >= rows with zeros behind.
template <typename T>
void copyHeadTransposed(const HeadMatrix& m, int64_t row, int64_t rows, int64_t head, int64_t size, float* to,
                        int64_t width) {
  for (int64_t i = 0; i < size; ++i)
    for (int64_t r = rows; r < width; ++r) to[i * width + r] = 0.0f;
  for (int64_t r = 0; r < rows; ++r) {
    const T* from = static_cast<const T*>(m.data) + (row + r) * m.stride + head * size;
    for (int64_t i = 0; i < size; ++i) to[i * width + r] = readAs(from, i);
  }
}

template <typename T>
void storeHead(const HeadMatrix& m, int64_t row, int64_t rows, int64_t head, int64_t size, const float* from,
               int64_t width) {
  for (int64_t r = 0; r < rows; ++r) {
    T* to = static_cast<T*>(m.data) + (row + r) * m.stride + head * size;
    const float* in = from + r * width;
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) writeAs(to, i, in[i]);
  }
}

/// Keep factors of one row of probabilities: 0 or 1 / (1 - p).
void dropoutRow(const AttentionShape& s, int64_t head, int64_t queryRow, int64_t keys, float* factors) {
  const Philox generator{s.seed, s.stream};
  const uint64_t line = static_cast<uint64_t>(queryRow * s.heads + head) << 20;  // up to 4M keys a row
  const float kept = 1.0f / (1.0f - s.dropout);
  for (int64_t j = 0; j < keys; j += 4) {
    const auto words = generator.words(line + static_cast<uint64_t>(j / 4));
    for (int64_t i = 0; i < 4 && j + i < keys; ++i)
      factors[j + i] = Philox::uniform(words[static_cast<size_t>(i)]) >= s.dropout ? kept : 0.0f;
  }
}

void hideKeys(const uint8_t* mask, float* row, int64_t keys) {
  if (!mask) return;
  for (int64_t j = 0; j < keys; ++j)
    if (!mask[j]) row[j] = -std::numeric_limits<float>::infinity();
}

int64_t longest(const AttentionShape& s) {
  int64_t keys = 0;
  for (int64_t i = 0; i < s.sequences; ++i) {
    const int64_t n = s.spans[i].keyEnd - s.spans[i].keyBegin;
    keys = n > keys ? n : keys;
  }
  return keys;
}

template <typename T>
void forwardAs(const AttentionForward& c) {
  const AttentionShape& s = c.shape;
  const int64_t size = s.headSize, wide = roundUp(size, kLanes), most = roundUp(longest(s), kLanes);
  const float factor = 1.0f / std::sqrt(static_cast<float>(size));
  const Scratch all(size * most + most * wide + kQueryBlock * (2 * wide + most) + most);
#pragma omp parallel
  {
    Share scratch(all);
    float* kTransposed = scratch.take(size * most);
    float* v = scratch.take(most * wide);
    float* q = scratch.take(kQueryBlock * wide);
    float* out = scratch.take(kQueryBlock * wide);
    float* scores = scratch.take(kQueryBlock * most);
    float* keep = scratch.take(most);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < s.sequences * s.heads; ++task) {
      const AttentionSpan& span = s.spans[task / s.heads];
      const int64_t head = task % s.heads, keys = span.keyEnd - span.keyBegin, width = roundUp(keys, kLanes);
      if (span.queryEnd == span.queryBegin) continue;
      copyHeadTransposed<T>(c.k, span.keyBegin, keys, head, size, kTransposed, width);
      copyHead<T>(c.v, span.keyBegin, keys, head, size, v, wide);
      for (int64_t row = span.queryBegin; row < span.queryEnd; row += kQueryBlock) {
        const int64_t rows = span.queryEnd - row < kQueryBlock ? span.queryEnd - row : kQueryBlock;
        copyHead<T>(c.q, row, rows, head, size, q, wide);
        multiply(rows, width, size, q, wide, 1, kTransposed, width, scores, width, false);
        for (int64_t r = 0; r < rows; ++r) {
          float* line = scores + r * width;
          hideKeys(s.keyMask ? s.keyMask + span.keyBegin : nullptr, line, keys);
          float top = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : top)
          for (int64_t j = 0; j < keys; ++j) top = line[j] > top ? line[j] : top;
          float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
          for (int64_t j = 0; j < keys; ++j) {
            line[j] = fastExp((line[j] - top) * factor);
            sum += line[j];
          }
          const float inverse = 1.0f / sum;
#pragma omp simd
          for (int64_t j = 0; j < keys; ++j) line[j] *= inverse;
          if (c.logSum) c.logSum[(row + r) * s.heads + head] = top * factor + std::log(sum);
          if (s.dropout > 0.0f) {
            dropoutRow(s, head, row + r, keys, keep);
            for (int64_t j = 0; j < keys; ++j) line[j] *= keep[j];
          }
        }
        multiply(rows, wide, keys, scores, width, 1, v, wide, out, wide, false);
        storeHead<T>(c.out, row, rows, head, size, out, wide);
      }
    }
  }
}

// With P the probabilities and D = P o M / (1 - p) after dropout:
//   dV = D^T dO,  dD = dO V^T,  dP = dD o M / (1 - p),
//   dS = P o (dP - rowsum(P o dP)),  dQ = dS K / sqrt(d),  dK = dS^T Q / sqrt(d).
template <typename T>
void backwardAs(const AttentionBackward& c) {
  const AttentionShape& s = c.shape;
  const int64_t size = s.headSize, wide = roundUp(size, kLanes), most = roundUp(longest(s), kLanes);
  const float factor = 1.0f / std::sqrt(static_cast<float>(size));
  const Scratch all(2 * size * most + 3 * most * wide + kQueryBlock * (3 * wide + 2 * most) + most);
#pragma omp parallel
  {
    Share scratch(all);
    float* kTransposed = scratch.take(size * most);
    float* vTransposed = scratch.take(size * most);
    float* k = scratch.take(most * wide);
    float* dk = scratch.take(most * wide);
    float* dv = scratch.take(most * wide);
    float* q = scratch.take(kQueryBlock * wide);
    float* dOut = scratch.take(kQueryBlock * wide);
    float* dq = scratch.take(kQueryBlock * wide);
    float* p = scratch.take(kQueryBlock * most);
    float* dp = scratch.take(kQueryBlock * most);
    float* keep = scratch.take(most);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < s.sequences * s.heads; ++task) {
      const AttentionSpan& span = s.spans[task / s.heads];
      const int64_t head = task % s.heads, keys = span.keyEnd - span.keyBegin, width = roundUp(keys, kLanes);
      copyHeadTransposed<T>(c.k, span.keyBegin, keys, head, size, kTransposed, width);
      copyHeadTransposed<T>(c.v, span.keyBegin, keys, head, size, vTransposed, width);
      copyHead<T>(c.k, span.keyBegin, keys, head, size, k, wide);
      std::memset(dk, 0, static_cast<size_t>(keys * wide) * 4);
      std::memset(dv, 0, static_cast<size_t>(keys * wide) * 4);
      for (int64_t row = span.queryBegin; row < span.queryEnd; row += kQueryBlock) {
        const int64_t rows = span.queryEnd - row < kQueryBlock ? span.queryEnd - row : kQueryBlock;
        copyHead<T>(c.q, row, rows, head, size, q, wide);
        copyHead<T>(c.dOut, row, rows, head, size, dOut, wide);
        multiply(rows, width, size, q, wide, 1, kTransposed, width, p, width, false);
        multiply(rows, width, size, dOut, wide, 1, vTransposed, width, dp, width, false);
        for (int64_t r = 0; r < rows; ++r) {
          float* line = p + r * width;
          float* gradient = dp + r * width;
          const float logSum = c.logSum[(row + r) * s.heads + head];
          hideKeys(s.keyMask ? s.keyMask + span.keyBegin : nullptr, line, keys);
          if (s.dropout > 0.0f) {
            dropoutRow(s, head, row + r, keys, keep);
            for (int64_t j = 0; j < keys; ++j) gradient[j] *= keep[j];
          }
          float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
          for (int64_t j = 0; j < keys; ++j) {
            line[j] = fastExp(line[j] * factor - logSum);
            dot += line[j] * gradient[j];
          }
#pragma omp simd
          for (int64_t j = 0; j < keys; ++j) gradient[j] = line[j] * (gradient[j] - dot) * factor;
          if (s.dropout > 0.0f)
            for (int64_t j = 0; j < keys; ++j) line[j] *= keep[j];
        }
        multiply(rows, wide, keys, dp, width, 1, k, wide, dq, wide, false);
        storeHead<T>(c.dq, row, rows, head, size, dq, wide);
        multiply(keys, wide, rows, dp, 1, width, q, wide, dk, wide, true);
        multiply(keys, wide, rows, p, 1, width, dOut, wide, dv, wide, true);
      }
      storeHead<T>(c.dk, span.keyBegin, keys, head, size, dk, wide);
      storeHead<T>(c.dv, span.keyBegin, keys, head, size, dv, wide);
    }
  }
}

void forward(const AttentionForward& c) { c.dtype == DType::bf16 ? forwardAs<bf16>(c) : forwardAs<float>(c); }
void backward(const AttentionBackward& c) { c.dtype == DType::bf16 ? backwardAs<bf16>(c) : backwardAs<float>(c); }

}  // namespace

AttentionKernels attentionKernels() { return {forward, backward}; }

}  // namespace duet::cpu::DUET_ISA
