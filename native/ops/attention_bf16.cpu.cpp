// Attention for processors that multiply pairs of bf16 into f32 sums (AVX-512 BF16). Same algorithm as
// attention.cpu.cpp; operands of the products (pair_product.h) are bf16, as under autocast, sums and softmax
// f32.
#include <cmath>
#include <utility>

#include "ops/attention_rows.h"
#include "ops/kernels.h"
#include "ops/scratch.h"

#if defined(__AVX512F__)
#include "ops/pair_product.h"
#endif

namespace duet::cpu::DUET_ISA {

#if defined(__AVX512F__)

namespace {

const bf16* headRow(const HeadMatrix& m, int64_t row, int64_t head, int64_t size) {
  return static_cast<const bf16*>(m.data) + row * m.stride + head * size;
}

enum class Side { queries, keys };

/// Fetches what a task - a sequence and a head - has of a matrix ahead of its use.
void fetchAhead(Ahead& ahead, const AttentionShape& s, int64_t task, const HeadMatrix& m, Side side) {
  if (task >= s.sequences * s.heads) return;
  const AttentionSpan& span = s.spans[task / s.heads];
  const auto [begin, end] =
      side == Side::keys ? std::pair(span.keyBegin, span.keyEnd) : std::pair(span.queryBegin, span.queryEnd);
  ahead.add(headRow(m, begin, task % s.heads, s.headSize), m.stride * 2, s.headSize * 2, end - begin);
}

/// A mask of the first `count` of 32 elements.
inline __mmask32 firstOf(int64_t count) { return count >= 32 ? ~0u : (1u << count) - 1; }

/// Indices of a permutation whose 16 words hold the elements `low` + i and `high` + i.
inline __m512i meeting(int low, int high) {
  const __m512i i = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  return _mm512_or_si512(_mm512_add_epi32(i, _mm512_set1_epi32(low)),
                         _mm512_slli_epi32(_mm512_add_epi32(i, _mm512_set1_epi32(high)), 16));
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
      const int64_t taken = words - w < 16 ? words - w : 16;
      const __mmask32 mask = firstOf(size - 2 * w);
      __m512i block[16];
      for (int64_t i = 0; i < 16; ++i)
        block[i] = r + i < rows ? _mm512_maskz_loadu_epi16(mask, headRow(m, row + r + i, head, size) + 2 * w)
                                : _mm512_setzero_si512();
      turnBlock(block);
      for (int64_t i = 0; i < taken; ++i) _mm512_storeu_si512(to + (w + i) * width + r, block[i]);
    }
}

/// Rows of a head as words along the head, rows x `stride`, and as pairs of neighbouring rows, (rows + 1) / 2
/// x `wide`; either may be null. Zeros behind the head and for a missing row.
void takeRows(const HeadMatrix& m, int64_t row, int64_t rows, int64_t head, int64_t size, Word* words,
              int64_t stride, Word* pairs, int64_t wide) {
  const __m512i low = meeting(0, 32), high = meeting(16, 48);
  for (int64_t r = 0; r < rows; r += 2) {
    const bool both = r + 1 < rows;
    const bf16* first = headRow(m, row + r, head, size);
    const bf16* second = both ? headRow(m, row + r + 1, head, size) : first;
    for (int64_t i = 0; i < size; i += 32) {
      const __mmask32 mask = firstOf(size - i);
      const __m512i a = _mm512_maskz_loadu_epi16(mask, first + i);
      const __m512i b = _mm512_maskz_loadu_epi16(both ? mask : 0, second + i);
      if (words) {
        _mm512_storeu_si512(words + r * stride + i / 2, a);
        if (both) _mm512_storeu_si512(words + (r + 1) * stride + i / 2, b);
      }
      if (pairs) {
        Word* to = pairs + r / 2 * wide + i;
        _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, low, b));
        if (i + 16 < wide) _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16(a, high, b));
      }
    }
  }
}

/// Rows of f32, times a factor a row if there are any, as bf16.
DUET_BF16 void giveRows(const HeadMatrix& m, int64_t row, int64_t rows, int64_t head, int64_t size,
                        const float* from, int64_t width, const float* factors = nullptr) {
  for (int64_t r = 0; r < rows; ++r) {
    bf16* to = static_cast<bf16*>(m.data) + (row + r) * m.stride + head * size;
    const __m512 factor = _mm512_set1_ps(factors ? factors[r] : 1.0f);
    const float* line = from + r * width;
    int64_t i = 0;
    for (; i + 32 <= size; i += 32)
      _mm512_storeu_si512(to + i,
                          (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(_mm512_loadu_ps(line + i + 16), factor),
                                                       _mm512_mul_ps(_mm512_loadu_ps(line + i), factor)));
    for (; i < size; i += 16)
      _mm256_mask_storeu_epi16(to + i, static_cast<__mmask16>(firstOf(size - i)),
                               (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(line + i), factor)));
  }
}

/// 2^x to about 2 ulp for x below 128; 0 below -150; NaN for NaN. The polynomial is a least-maximum fit of
/// relative error 8e-8.
inline __m512 powerOf2(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-200.0f), x);  // the second of the two if one is NaN
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(0.0013276471f);
  for (const float c : {0.009675541f, 0.05550713f, 0.2402212f, 0.69314694f, 1.0000001f})
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  return _mm512_scalef_ps(p, n);
}

constexpr float kLog2e = 1.44269504f;

/// Scores of some query rows become probabilities (after dropout) in bf16 but for a factor a row, which is
/// given back; keeps the log of the sum of exponentials.
DUET_BF16 void softmaxRows(const AttentionShape& s, const AttentionSpan& span, int64_t head, int64_t row,
                           int64_t rows, float* scores, int64_t width, float* keep, float* logSum, bf16* to,
                           float (&factors)[kQueryBlock]) {
  const int64_t keys = span.keyEnd - span.keyBegin;
  const float factor = s.bias ? 1.0f : s.scale;
  const __m512 toPowers = _mm512_set1_ps(factor * kLog2e);
  for (int64_t r = 0; r < rows; ++r) {
    float* line = scores + r * width;
    if (s.bias) addBias(s, head, row + r - span.queryBegin, line, keys);
    hideKeys(s, span, row + r, line, keys, width);
  }
  for (int64_t r = 0; r < rows; r += 2) {  // two at a time; the last of an odd number twice
    const int64_t pair[2] = {r, r + 1 < rows ? r + 1 : r};
    __m512 tops[2], sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (__m512& top : tops) top = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (int64_t j = 0; j < width; j += 16)
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i)
        tops[i] = _mm512_max_ps(tops[i], _mm512_loadu_ps(scores + pair[i] * width + j));
    float highest[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      highest[i] = _mm512_reduce_max_ps(tops[i]);
      tops[i] = _mm512_set1_ps(highest[i]);
      if (s.dropout > 0.0f) dropoutRow(s, head, row + pair[i], width, keep + i * width);
    }
    for (int64_t j = 0; j < width; j += 16)
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const __m512 below = _mm512_sub_ps(_mm512_loadu_ps(scores + pair[i] * width + j), tops[i]);
        __m512 e = powerOf2(_mm512_mul_ps(below, toPowers));
        sums[i] = _mm512_add_ps(sums[i], e);
        if (s.dropout > 0.0f) e = _mm512_mul_ps(e, _mm512_loadu_ps(keep + i * width + j));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + pair[i] * width + j),
                            (__m256i)_mm512_cvtneps_pbh(e));
      }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const float sum = _mm512_reduce_add_ps(sums[i]);
      factors[pair[i]] = 1.0f / sum;
      if (logSum) logSum[(row + pair[i]) * s.heads + head] = highest[i] * factor + std::log(sum);
    }
  }
}

/// From scores `p` and gradients `dp` of the probabilities of some rows: D (the probabilities after dropout)
/// in pairs of neighbouring rows, and dS both so and as words along a row.
DUET_BF16 void softmaxGradientRows(const AttentionShape& s, const AttentionSpan& span, int64_t head,
                                   int64_t row, int64_t rows, float* p, float* dp, int64_t width, float* keep,
                                   const float* logSums, Word* dPairs, bf16* ds, Word* dsPairs) {
  const int64_t keys = span.keyEnd - span.keyBegin;
  const __m512 factor = _mm512_set1_ps(s.scale), toPowers = _mm512_set1_ps(s.scale * kLog2e);
  const __m512i order = meeting(0, 16);
  if (rows % 2) {  // a row of nothing completes the last pair
    std::memset(p + rows * width, 0, static_cast<size_t>(width) * 4);
    std::memset(dp + rows * width, 0, static_cast<size_t>(width) * 4);
  }
  for (int64_t r = 0; r < rows; r += 2) {
    float *lines[2], *gradients[2];
    __m512 sums[2], dots[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t i = 0; i < 2; ++i) {
      lines[i] = p + (r + i) * width;
      gradients[i] = dp + (r + i) * width;
      const bool missing = r + i == rows;
      sums[i] = _mm512_set1_ps(missing ? std::numeric_limits<float>::infinity()
                                       : logSums[(row + r + i) * s.heads + head] * kLog2e);
      hideKeys(s, span, row + r + i, lines[i], keys, width);
      if (s.dropout > 0.0f) {
        float* kept = keep + i * width;
        dropoutRow(s, head, row + r + i, width, kept);
        for (int64_t j = 0; j < width; ++j) gradients[i][j] *= kept[j];
      }
    }
    for (int64_t j = 0; j < width; j += 16) {
      __m512 d[2];
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        d[i] = powerOf2(_mm512_fmsub_ps(_mm512_loadu_ps(lines[i] + j), toPowers, sums[i]));
        dots[i] = _mm512_fmadd_ps(d[i], _mm512_loadu_ps(gradients[i] + j), dots[i]);
        _mm512_storeu_ps(lines[i] + j, d[i]);
        if (s.dropout > 0.0f) d[i] = _mm512_mul_ps(d[i], _mm512_loadu_ps(keep + i * width + j));
      }
      const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(d[1], d[0]);
      _mm512_storeu_si512(dPairs + r / 2 * width + j, _mm512_permutexvar_epi16(order, both));
    }
    for (__m512& dot : dots) dot = _mm512_mul_ps(_mm512_set1_ps(_mm512_reduce_add_ps(dot)), factor);
    for (int64_t j = 0; j < width; j += 16) {
      __m512 d[2];
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i)
        d[i] = _mm512_mul_ps(_mm512_loadu_ps(lines[i] + j),
                             _mm512_fmsub_ps(_mm512_loadu_ps(gradients[i] + j), factor, dots[i]));
      const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(d[1], d[0]);
      _mm512_storeu_si512(dsPairs + r / 2 * width + j, _mm512_permutexvar_epi16(order, both));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(ds + r * width + j), _mm512_castsi512_si256(both));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(ds + (r + 1) * width + j),
                          _mm512_extracti64x4_epi64(both, 1));
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
  const int64_t size = s.headSize, half = (size + 1) / 2, stride = roundUp(half, 16),
                wide = roundUp(size, 16), most = roundUp(longest(s), 16);
  const Scratch all(half * most + most / 2 * wide + kQueryBlock * (stride + wide + most + most / 2) +
                    2 * most + 256);
#pragma omp parallel
  {
    Share share(all);
    Ahead ahead;
    Word* k = words(share, half * most);
    Word* v = words(share, most / 2 * wide);
    Word* q = words(share, kQueryBlock * stride);
    Word* p = words(share, kQueryBlock * most / 2);
    float* scores = share.take(kQueryBlock * most);
    float* out = share.take(kQueryBlock * wide);
    float* keep = share.take(2 * most);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < s.sequences * s.heads; ++task) {
      const AttentionSpan& span = s.spans[task / s.heads];
      const int64_t head = task % s.heads, keys = span.keyEnd - span.keyBegin, width = roundUp(keys, 16);
      if (span.queryEnd == span.queryBegin) continue;
      const int64_t next = task + omp_get_num_threads();
      ahead.clear();
      fetchAhead(ahead, s, task, c.out, Side::queries);
      fetchAhead(ahead, s, next, c.k, Side::keys);
      fetchAhead(ahead, s, next, c.v, Side::keys);
      fetchAhead(ahead, s, next, c.q, Side::queries);
      turnedWords(c.k, span.keyBegin, keys, head, size, k, width);
      takeRows(c.v, span.keyBegin, keys, head, size, nullptr, 0, v, wide);
      for (int64_t row = span.queryBegin; row < span.queryEnd; row += kQueryBlock) {
        const int64_t rows = span.queryEnd - row < kQueryBlock ? span.queryEnd - row : kQueryBlock;
        takeRows(c.q, row, rows, head, size, q, stride, nullptr, 0);
        pairProduct({rows, width, half, q, stride, 1, k, width, scores, width, false, ahead});
        float factors[kQueryBlock];
        softmaxRows(s, span, head, row, rows, scores, width, keep, c.logSum, reinterpret_cast<bf16*>(p),
                    factors);
        pairProduct({rows, wide, (keys + 1) / 2, p, width / 2, 1, v, wide, out, wide, false, ahead});
        giveRows(c.out, row, rows, head, size, out, wide, factors);
      }
    }
  }
}

void bf16DotBackward(const AttentionBackward& c) {
  const AttentionShape& s = c.shape;
  const int64_t size = s.headSize, half = (size + 1) / 2, stride = roundUp(half, 16),
                wide = roundUp(size, 16), most = roundUp(longest(s), 16);
  const Scratch all(2 * half * most + most / 2 * wide + 2 * most * wide +
                    kQueryBlock * (2 * stride + 2 * wide + 4 * most) + 2 * most + 512);
#pragma omp parallel
  {
    Share share(all);
    Ahead ahead;
    Word* kTurned = words(share, half * most);
    Word* vTurned = words(share, half * most);
    Word* kPairs = words(share, most / 2 * wide);
    float* dk = share.take(most * wide);
    float* dv = share.take(most * wide);
    Word* q = words(share, kQueryBlock * stride);
    Word* dOut = words(share, kQueryBlock * stride);
    Word* qPairs = words(share, kQueryBlock / 2 * wide);
    Word* dOutPairs = words(share, kQueryBlock / 2 * wide);
    float* p = share.take(kQueryBlock * most);
    float* dp = share.take(kQueryBlock * most);
    Word* ds = words(share, kQueryBlock * most / 2);
    Word* dPairs = words(share, kQueryBlock / 2 * most);
    Word* dsPairs = words(share, kQueryBlock / 2 * most);
    float* dq = share.take(kQueryBlock * wide);
    float* keep = share.take(2 * most);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < s.sequences * s.heads; ++task) {
      const AttentionSpan& span = s.spans[task / s.heads];
      const int64_t head = task % s.heads, keys = span.keyEnd - span.keyBegin, width = roundUp(keys, 16);
      const int64_t next = task + omp_get_num_threads();
      ahead.clear();
      fetchAhead(ahead, s, task, c.dq, Side::queries);
      fetchAhead(ahead, s, task, c.dk, Side::keys);
      fetchAhead(ahead, s, task, c.dv, Side::keys);
      fetchAhead(ahead, s, next, c.k, Side::keys);
      fetchAhead(ahead, s, next, c.v, Side::keys);
      fetchAhead(ahead, s, next, c.q, Side::queries);
      fetchAhead(ahead, s, next, c.dOut, Side::queries);
      turnedWords(c.k, span.keyBegin, keys, head, size, kTurned, width);
      turnedWords(c.v, span.keyBegin, keys, head, size, vTurned, width);
      takeRows(c.k, span.keyBegin, keys, head, size, nullptr, 0, kPairs, wide);
      std::memset(dk, 0, static_cast<size_t>(keys * wide) * 4);
      std::memset(dv, 0, static_cast<size_t>(keys * wide) * 4);
      for (int64_t row = span.queryBegin; row < span.queryEnd; row += kQueryBlock) {
        const int64_t rows = span.queryEnd - row < kQueryBlock ? span.queryEnd - row : kQueryBlock;
        const int64_t rowPairs = (rows + 1) / 2;
        takeRows(c.q, row, rows, head, size, q, stride, qPairs, wide);
        takeRows(c.dOut, row, rows, head, size, dOut, stride, dOutPairs, wide);
        pairProduct({rows, width, half, q, stride, 1, kTurned, width, p, width, false, ahead});
        pairProduct({rows, width, half, dOut, stride, 1, vTurned, width, dp, width, false, ahead});
        softmaxGradientRows(s, span, head, row, rows, p, dp, width, keep, c.logSum, dPairs,
                            reinterpret_cast<bf16*>(ds), dsPairs);
        pairProduct({keys, wide, rowPairs, dPairs, 1, width, dOutPairs, wide, dv, wide, true, ahead});
        pairProduct({rows, wide, (keys + 1) / 2, ds, width / 2, 1, kPairs, wide, dq, wide, false, ahead});
        pairProduct({keys, wide, rowPairs, dsPairs, 1, width, qPairs, wide, dk, wide, true, ahead});
        giveRows(c.dq, row, rows, head, size, dq, wide);
      }
      giveRows(c.dk, span.keyBegin, keys, head, size, dk, wide);
      giveRows(c.dv, span.keyBegin, keys, head, size, dv, wide);
    }
  }
}

#else

bool hasBf16Dot() { return false; }
void bf16DotForward(const AttentionForward&) {}
void bf16DotBackward(const AttentionBackward&) {}

#endif

}  // namespace duet::cpu::DUET_ISA
