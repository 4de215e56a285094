// Attention for processors that multiply pairs of bf16 into f32 sums (AVX-512 BF16). Same algorithm as
// attention.cpu.cpp; operands of the products are bf16, as under autocast, sums and softmax f32. A product's
// depth runs in pairs, one 32-bit word each: the left side is read as words, the right side has the two
// values of a pair side by side for every column.
#include "ops/attention_rows.h"
#include "ops/kernels.h"

#if defined(__AVX512F__)
#include <immintrin.h>
// GCC 12 takes the undefined upper halves inside these intrinsics for a mistake of ours (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace duet::cpu::DUET_ISA {

#if defined(__AVX512F__)

#define DUET_BF16 __attribute__((target("avx512bf16")))

namespace {

using Word = uint32_t;

template <int R, int V>
DUET_BF16 inline void tile(int64_t pairs, const Word* a, int64_t aRow, int64_t aColumn, const Word* b,
                           int64_t bRow, float* c, int64_t cRow, bool accumulate) {
  __m512 sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      sum[r][v] = accumulate ? _mm512_loadu_ps(c + r * cRow + v * 16) : _mm512_setzero_ps();
  for (int64_t k = 0; k < pairs; ++k) {
    __m512bh right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = (__m512bh)_mm512_loadu_si512(b + k * bRow + v * 16);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512bh left = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[r * aRow + k * aColumn]));
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], left, right[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) _mm512_storeu_ps(c + r * cRow + v * 16, sum[r][v]);
}

template <int R>
DUET_BF16 inline void rowsOf(int64_t n, int64_t pairs, const Word* a, int64_t aRow, int64_t aColumn,
                             const Word* b, int64_t bRow, float* c, int64_t cRow, bool accumulate) {
  int64_t j = 0;
  for (; j + 48 <= n; j += 48) tile<R, 3>(pairs, a, aRow, aColumn, b + j, bRow, c + j, cRow, accumulate);
  if (j + 32 <= n) {
    tile<R, 2>(pairs, a, aRow, aColumn, b + j, bRow, c + j, cRow, accumulate);
    j += 32;
  }
  for (; j < n; j += 16) tile<R, 1>(pairs, a, aRow, aColumn, b + j, bRow, c + j, cRow, accumulate);
}

/// C[m x n] (+)= A B over `pairs` pairs; n is a multiple of 16.
DUET_BF16 void multiply(int64_t m, int64_t n, int64_t pairs, const Word* a, int64_t aRow, int64_t aColumn,
                        const Word* b, int64_t bRow, float* c, int64_t cRow, bool accumulate) {
  int64_t i = 0;
  for (; i + 8 <= m; i += 8)
    rowsOf<8>(n, pairs, a + i * aRow, aRow, aColumn, b, bRow, c + i * cRow, cRow, accumulate);
  for (; i < m; ++i)
    rowsOf<1>(n, pairs, a + i * aRow, aRow, aColumn, b, bRow, c + i * cRow, cRow, accumulate);
}

const bf16* headRow(const HeadMatrix& m, int64_t row, int64_t head, int64_t size) {
  return static_cast<const bf16*>(m.data) + row * m.stride + head * size;
}

Word pairOf(bf16 low, bf16 high) { return static_cast<Word>(low.bits) | static_cast<Word>(high.bits) << 16; }

/// Rows of a head as words along the head: rows x `words`, an odd last element paired with 0.
void wordsOfRows(const HeadMatrix& m, int64_t row, int64_t rows, int64_t head, int64_t size, Word* to,
                 int64_t words) {
  for (int64_t r = 0; r < rows; ++r) {
    to[r * words + words - 1] = 0;
    std::memcpy(to + r * words, headRow(m, row + r, head, size), static_cast<size_t>(size) * 2);
  }
}

/// Turns a block of 16 x 16 words.
inline void turnBlock(__m512i (&v)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4;
       ++i) {  // v[4 i + j] now holds column j of every group of four, of rows 4 i to 4 i + 3
    v[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    v[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    v[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    v[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i low02 = _mm512_shuffle_i32x4(v[j], v[j + 4], 0x88),
                  low13 = _mm512_shuffle_i32x4(v[j], v[j + 4], 0xdd);
    const __m512i high02 = _mm512_shuffle_i32x4(v[j + 8], v[j + 12], 0x88),
                  high13 = _mm512_shuffle_i32x4(v[j + 8], v[j + 12], 0xdd);
    t[j] = _mm512_shuffle_i32x4(low02, high02, 0x88);
    t[j + 4] = _mm512_shuffle_i32x4(low13, high13, 0x88);
    t[j + 8] = _mm512_shuffle_i32x4(low02, high02, 0xdd);
    t[j + 12] = _mm512_shuffle_i32x4(low13, high13, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = t[i];
}

/// The same words turned: `words` x `width` (a multiple of 16), zeros behind the last row.
void turnedWords(const HeadMatrix& m, int64_t row, int64_t rows, int64_t head, int64_t size, Word* to,
                 int64_t width) {
  const int64_t words = (size + 1) / 2;
  for (int64_t r = 0; r < width; r += 16)
    for (int64_t w = 0; w < words; w += 16) {
      const int64_t elements = size - 2 * w < 32 ? size - 2 * w : 32, taken = words - w < 16 ? words - w : 16;
      const __mmask32 mask = static_cast<__mmask32>((uint64_t{1} << elements) - 1);
      __m512i block[16];
      for (int64_t i = 0; i < 16; ++i)
        block[i] = r + i < rows ? _mm512_maskz_loadu_epi16(mask, headRow(m, row + r + i, head, size) + 2 * w)
                                : _mm512_setzero_si512();
      turnBlock(block);
      for (int64_t i = 0; i < taken; ++i) _mm512_storeu_si512(to + (w + i) * width + r, block[i]);
    }
}

/// Pairs of neighbouring rows: (rows + 1) / 2 x `wide`, zeros behind the head and for a missing row.
void rowPairs(const HeadMatrix& m, int64_t row, int64_t rows, int64_t head, int64_t size, Word* to,
              int64_t wide) {
  for (int64_t r = 0; r < rows; r += 2) {
    const bf16* first = headRow(m, row + r, head, size);
    const bf16* second = r + 1 < rows ? headRow(m, row + r + 1, head, size) : nullptr;
    Word* out = to + r / 2 * wide;
    for (int64_t i = 0; i < size; ++i) out[i] = pairOf(first[i], second ? second[i] : bf16{0});
    for (int64_t i = size; i < wide; ++i) out[i] = 0;
  }
}

/// Zeros behind the keys of every row of a block.
void clearBehind(bf16* block, int64_t rows, int64_t keys, int64_t width) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = keys; j < width; ++j) block[r * width + j].bits = 0;
}

/// Rows x width of f32, times a factor a row, as bf16, element after element; columns from `keys` on are 0.
void rounded(const float* from, int64_t rows, int64_t keys, int64_t width, const float* factors,
             Word* words) {
  bf16* to = reinterpret_cast<bf16*>(words);
  for (int64_t r = 0; r < rows; ++r) {
    const float factor = factors[r];
#pragma omp simd
    for (int64_t j = 0; j < keys; ++j) writeAs(to + r * width, j, from[r * width + j] * factor);
  }
  clearBehind(to, rows, keys, width);
}

/// Pairs of neighbouring rows of a rounded block: (rows + 1) / 2 x width.
void blockRowPairs(const bf16* block, int64_t rows, int64_t width, Word* to) {
  const uint16_t* from = reinterpret_cast<const uint16_t*>(block);
  for (int64_t r = 0; r < rows; r += 2) {
    const uint16_t* first = from + r * width;
    const uint16_t* second = r + 1 < rows ? first + width : nullptr;
    Word* out = to + r / 2 * width;
    if (second) {
#pragma omp simd
      for (int64_t j = 0; j < width; ++j)
        out[j] = static_cast<Word>(first[j]) | static_cast<Word>(second[j]) << 16;
    } else {
      for (int64_t j = 0; j < width; ++j) out[j] = first[j];
    }
  }
}

Word* words(Share& share, int64_t count) { return reinterpret_cast<Word*>(share.take(count)); }

}  // namespace

bool hasBf16Dot() {
  static const bool has = __builtin_cpu_supports("avx512bf16");
  return has;
}

void bf16DotForward(const AttentionForward& c) {
  const AttentionShape& s = c.shape;
  const int64_t size = s.headSize, half = (size + 1) / 2, wide = roundUp(size, 16),
                most = roundUp(longest(s), 16);
  const Scratch all(half * most + most / 2 * wide + kQueryBlock * (half + wide + most + most / 2) + most +
                    256);
#pragma omp parallel
  {
    Share share(all);
    Word* k = words(share, half * most);
    Word* v = words(share, most / 2 * wide);
    Word* q = words(share, kQueryBlock * half);
    Word* p = words(share, kQueryBlock * most / 2);
    float* scores = share.take(kQueryBlock * most);
    float* out = share.take(kQueryBlock * wide);
    float* keep = share.take(most);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < s.sequences * s.heads; ++task) {
      const AttentionSpan& span = s.spans[task / s.heads];
      const int64_t head = task % s.heads, keys = span.keyEnd - span.keyBegin, width = roundUp(keys, 16);
      if (span.queryEnd == span.queryBegin) continue;
      turnedWords(c.k, span.keyBegin, keys, head, size, k, width);
      rowPairs(c.v, span.keyBegin, keys, head, size, v, wide);
      for (int64_t row = span.queryBegin; row < span.queryEnd; row += kQueryBlock) {
        const int64_t rows = span.queryEnd - row < kQueryBlock ? span.queryEnd - row : kQueryBlock;
        wordsOfRows(c.q, row, rows, head, size, q, half);
        multiply(rows, width, half, q, half, 1, k, width, scores, width, false);
        float factors[kQueryBlock];
        softmaxRows(s, span, head, row, rows, scores, width, keep, c.logSum, factors);
        rounded(scores, rows, keys, width, factors, p);
        multiply(rows, wide, (keys + 1) / 2, p, width / 2, 1, v, wide, out, wide, false);
        storeHead<bf16>(c.out, row, rows, head, size, out, wide);
      }
    }
  }
}

void bf16DotBackward(const AttentionBackward& c) {
  const AttentionShape& s = c.shape;
  const int64_t size = s.headSize, half = (size + 1) / 2, wide = roundUp(size, 16),
                most = roundUp(longest(s), 16);
  const Scratch all(2 * half * most + most / 2 * wide + 2 * most * wide +
                    kQueryBlock * (2 * half + 2 * wide + 4 * most) + most + 512);
#pragma omp parallel
  {
    Share share(all);
    Word* kTurned = words(share, half * most);
    Word* vTurned = words(share, half * most);
    Word* kPairs = words(share, most / 2 * wide);
    float* dk = share.take(most * wide);
    float* dv = share.take(most * wide);
    Word* q = words(share, kQueryBlock * half);
    Word* dOut = words(share, kQueryBlock * half);
    Word* qPairs = words(share, kQueryBlock / 2 * wide);
    Word* dOutPairs = words(share, kQueryBlock / 2 * wide);
    float* p = share.take(kQueryBlock * most);
    float* dp = share.take(kQueryBlock * most);
    bf16* d = reinterpret_cast<bf16*>(words(share, kQueryBlock * most / 2));
    bf16* ds = reinterpret_cast<bf16*>(words(share, kQueryBlock * most / 2));
    Word* pairs = words(share, kQueryBlock / 2 * most);
    float* dq = share.take(kQueryBlock * wide);
    float* keep = share.take(most);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < s.sequences * s.heads; ++task) {
      const AttentionSpan& span = s.spans[task / s.heads];
      const int64_t head = task % s.heads, keys = span.keyEnd - span.keyBegin, width = roundUp(keys, 16);
      turnedWords(c.k, span.keyBegin, keys, head, size, kTurned, width);
      turnedWords(c.v, span.keyBegin, keys, head, size, vTurned, width);
      rowPairs(c.k, span.keyBegin, keys, head, size, kPairs, wide);
      std::memset(dk, 0, static_cast<size_t>(keys * wide) * 4);
      std::memset(dv, 0, static_cast<size_t>(keys * wide) * 4);
      for (int64_t row = span.queryBegin; row < span.queryEnd; row += kQueryBlock) {
        const int64_t rows = span.queryEnd - row < kQueryBlock ? span.queryEnd - row : kQueryBlock;
        wordsOfRows(c.q, row, rows, head, size, q, half);
        wordsOfRows(c.dOut, row, rows, head, size, dOut, half);
        rowPairs(c.q, row, rows, head, size, qPairs, wide);
        rowPairs(c.dOut, row, rows, head, size, dOutPairs, wide);
        multiply(rows, width, half, q, half, 1, kTurned, width, p, width, false);
        multiply(rows, width, half, dOut, half, 1, vTurned, width, dp, width, false);
        softmaxGradientRows(s, span, head, row, rows, p, dp, width, keep, c.logSum, d, ds);
        blockRowPairs(d, rows, width, pairs);
        multiply(keys, wide, (rows + 1) / 2, pairs, 1, width, dOutPairs, wide, dv, wide, true);
        clearBehind(ds, rows, keys, width);
        multiply(rows, wide, (keys + 1) / 2, reinterpret_cast<const Word*>(ds), width / 2, 1, kPairs, wide,
                 dq, wide, false);
        blockRowPairs(ds, rows, width, pairs);
        multiply(keys, wide, (rows + 1) / 2, pairs, 1, width, qPairs, wide, dk, wide, true);
        storeHead<bf16>(c.dq, row, rows, head, size, dq, wide);
      }
      storeHead<bf16>(c.dk, span.keyBegin, keys, head, size, dk, wide);
      storeHead<bf16>(c.dv, span.keyBegin, keys, head, size, dv, wide);
    }
  }
}

#else

bool hasBf16Dot() { return false; }
void bf16DotForward(const AttentionForward&) {}
void bf16DotBackward(const AttentionBackward&) {}

#endif

}  // namespace duet::cpu::DUET_ISA
