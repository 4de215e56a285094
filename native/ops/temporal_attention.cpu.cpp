// One lane is one pixel of one clip: rows are transposed on their way in and out, a vector of columns of as
// many pixels as there are lanes at a time, and everything between is products of small matrices of vectors.
// Nothing is summed across lanes, so any number of frames and any head size takes the same path.
#include "ops/temporal_attention.h"

#include <cmath>
#include <limits>

#include "ops/kernels.h"
#include "ops/scratch.h"
#include "ops/simd.h"
#include "ops/transpose.h"

namespace duet::cpu::DUET_ISA {
namespace {

constexpr int kTileColumns = kLanes == 16 ? 4 : 2;  // what the registers hold beside four rows

template <int M, int N>
inline void productTile(int64_t count, const Vec* a, int64_t aRow, int64_t aStep, const Vec* b, int64_t bStep,
                        int64_t bColumn, Vec* c, int64_t cRow, bool accumulate) {
  Vec sum[M][N];
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < N; ++j) sum[i][j] = accumulate ? c[i * cRow + j] : Vec{};
  for (int64_t k = 0; k < count; ++k, a += aStep, b += bStep) {
    Vec right[N];
    for (int j = 0; j < N; ++j) right[j] = b[j * bColumn];
    for (int i = 0; i < M; ++i) {
      const Vec left = a[i * aRow];
      for (int j = 0; j < N; ++j) sum[i][j] += left * right[j];
    }
  }
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < N; ++j) c[i * cRow + j] = sum[i][j];
}

/// c[i, j] (+)= sum over k of a[i, k] b[k, j], lane by lane. Strides are in vectors; those of c's columns
/// are 1.
void product(int64_t rows, int64_t columns, int64_t count, const Vec* a, int64_t aRow, int64_t aStep,
             const Vec* b, int64_t bStep, int64_t bColumn, Vec* c, int64_t cRow, bool accumulate) {
  const auto line = [&](auto height, int64_t i) {
    constexpr int M = decltype(height)::value;
    int64_t j = 0;
    for (; j + kTileColumns <= columns; j += kTileColumns)
      productTile<M, kTileColumns>(count, a + i * aRow, aRow, aStep, b + j * bColumn, bStep, bColumn,
                                   c + i * cRow + j, cRow, accumulate);
    for (; j < columns; ++j)
      productTile<M, 1>(count, a + i * aRow, aRow, aStep, b + j * bColumn, bStep, bColumn, c + i * cRow + j,
                        cRow, accumulate);
  };
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) line(std::integral_constant<int, 4>{}, i);
  for (; i < rows; ++i) line(std::integral_constant<int, 1>{}, i);
}

/// As many pixels as there are lanes, and the heads that are worked on together: one, or as many small ones
/// as fill a vector.
template <typename T>
struct Pixels {
  const TemporalAttention& c;
  int64_t row[kLanes];       // of frame 0
  int64_t lanes;             // those in use; the others repeat the last
  int64_t heads;             // worked on together
  Vec *q, *k, *v, *g;        // frames x kLanes columns; g is the gradient of the output
  Vec* out;                  // frames x kLanes columns
  Vec *probability, *slope;  // heads x frames x frames
  Vec* hidden;               // frames: 0, or -infinity where the frame is no key

  int64_t width() const { return c.heads * c.size; }
  int64_t square() const { return c.frames * c.frames; }

  void place(int64_t first) {
    const int64_t all = c.clips * c.pixels;
    lanes = all - first < kLanes ? all - first : kLanes;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const int64_t index = first + (lane < lanes ? lane : lanes - 1), clip = index / c.pixels;
      row[lane] = clip * c.frames * c.pixels + index % c.pixels;
      for (int64_t f = 0; f < c.frames && c.keep; ++f)
        hidden[f][lane] = c.keep[clip * c.frames + f] ? 0.0f : -std::numeric_limits<float>::infinity();
    }
  }

  /// Columns [column, column + count) of every frame, transposed.
  void load(const void* from, int64_t stride, int64_t column, int64_t count, Vec* to) const {
    for (int64_t f = 0; f < c.frames; ++f, to += kLanes) {
      const T* in = static_cast<const T*>(from) + f * c.pixels * stride + column;
      Vec lines[kLanes];
      if (count == kLanes) {
#pragma GCC unroll 16
        for (int lane = 0; lane < kLanes; ++lane) {
          lines[lane] = loadVec(in + row[lane] * stride);
          __builtin_prefetch(in + row[lane] * stride + kLanes, 0, 2);  // what the next columns will ask for
        }
      } else {
        for (int lane = 0; lane < kLanes; ++lane) lines[lane] = loadSome(in + row[lane] * stride, count);
      }
      transpose(lines);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) to[i] = lines[i];
    }
  }

  void store(const Vec* from, int64_t stride, int64_t column, int64_t count, void* to,
             bool accumulate) const {
    for (int64_t f = 0; f < c.frames; ++f, from += kLanes) {
      T* out = static_cast<T*>(to) + f * c.pixels * stride + column;
      Vec lines[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) lines[i] = from[i];
      transpose(lines);
      if (count == kLanes && lanes == kLanes && !accumulate) {
#pragma GCC unroll 16
        for (int lane = 0; lane < kLanes; ++lane) storeVec(out + row[lane] * stride, lines[lane]);
        continue;
      }
      for (int64_t lane = 0; lane < lanes; ++lane) {
        T* line = out + row[lane] * stride;
        storeSome(line, accumulate ? loadSome(line, count) + lines[lane] : lines[lane], count);
      }
    }
  }

  /// Calls work(column, count, first) for every run of up to kLanes columns of the heads from `head` on.
  template <typename Work>
  void eachChunk(int64_t head, Work work) const {
    const int64_t columns = heads * c.size;
    for (int64_t begin = 0; begin < columns; begin += kLanes)
      work(head * c.size + begin, columns - begin < kLanes ? columns - begin : kLanes, begin == 0);
  }

  /// Calls work(h, offset, count) for every head that has columns in a chunk of `count`.
  template <typename Work>
  void eachHead(int64_t count, Work work) const {
    if (heads == 1) work(0, 0, count);
    for (int64_t h = 0; h < heads && heads > 1; ++h) work(h, h * c.size, c.size);
  }

  /// The probabilities of the heads from `head` on.
  void attend(int64_t head) const {
    const int64_t n = c.frames;
    eachChunk(head, [&](int64_t column, int64_t count, bool first) {
      load(c.qkv, 3 * width(), column, count, q);
      load(c.qkv, 3 * width(), width() + column, count, k);
      eachHead(count, [&](int64_t h, int64_t offset, int64_t size) {
        product(n, n, size, q + offset, kLanes, 1, k + offset, 1, kLanes, probability + h * square(), n,
                !first);
      });
    });
    const Vec scale = fillVec(1.0f / std::sqrt(static_cast<float>(c.size)));
    for (Vec* p = probability; p < probability + heads * square(); p += n) {
      Vec top = fillVec(-std::numeric_limits<float>::infinity());
      for (int64_t j = 0; j < n; ++j) {
        p[j] = c.keep ? p[j] * scale + hidden[j] : p[j] * scale;
        top = p[j] > top ? p[j] : top;
      }
      Vec sum{};
      for (int64_t j = 0; j < n; ++j) {
        float* e = reinterpret_cast<float*>(p + j);
        p[j] -= top;
#pragma omp simd
        for (int i = 0; i < kLanes; ++i) e[i] = fastExp(e[i]);
        sum += p[j];
      }
      const Vec share = fillVec(1.0f) / sum;
      for (int64_t j = 0; j < n; ++j) p[j] *= share;
    }
  }

  void forward(int64_t head) const {
    const int64_t n = c.frames;
    attend(head);
    eachChunk(head, [&](int64_t column, int64_t count, bool) {
      load(c.qkv, 3 * width(), 2 * width() + column, count, v);
      eachHead(count, [&](int64_t h, int64_t offset, int64_t size) {
        product(n, size, n, probability + h * square(), n, 1, v + offset, kLanes, 1, out + offset, kLanes,
                false);
      });
      store(out, width(), column, count, c.out, false);
    });
  }

  // dv = p^T do;  ds = p (do v^T - sum_j p do v^T) scale;  dq = ds k;  dk = ds^T q
  void backward(int64_t head) const {
    const int64_t n = c.frames, stride = 3 * width();
    attend(head);
    eachChunk(head, [&](int64_t column, int64_t count, bool first) {
      load(c.dout, width(), column, count, g);
      load(c.qkv, stride, 2 * width() + column, count, v);
      eachHead(count, [&](int64_t h, int64_t offset, int64_t size) {
        product(n, n, size, g + offset, kLanes, 1, v + offset, 1, kLanes, slope + h * square(), n, !first);
        product(n, size, n, probability + h * square(), 1, n, g + offset, kLanes, 1, out + offset, kLanes,
                false);
      });
      store(out, stride, 2 * width() + column, count, c.dqkv, c.accumulate);
    });
    const Vec scale = fillVec(1.0f / std::sqrt(static_cast<float>(c.size)));
    for (int64_t line = 0; line < heads * n; ++line) {
      const Vec* p = probability + line * n;
      Vec *s = slope + line * n, mean{};
      for (int64_t j = 0; j < n; ++j) mean += p[j] * s[j];
      for (int64_t j = 0; j < n; ++j) s[j] = p[j] * (s[j] - mean) * scale;
    }
    eachChunk(head, [&](int64_t column, int64_t count, bool) {
      load(c.qkv, stride, column, count, q);
      load(c.qkv, stride, width() + column, count, k);
      eachHead(count, [&](int64_t h, int64_t offset, int64_t size) {
        product(n, size, n, slope + h * square(), n, 1, k + offset, kLanes, 1, out + offset, kLanes, false);
      });
      store(out, stride, column, count, c.dqkv, c.accumulate);
      eachHead(count, [&](int64_t h, int64_t offset, int64_t size) {
        product(n, size, n, slope + h * square(), 1, n, q + offset, kLanes, 1, out + offset, kLanes, false);
      });
      store(out, stride, width() + column, count, c.dqkv, c.accumulate);
    });
  }
};

template <typename T>
void run(const TemporalAttention& c, bool back) {
  const int64_t together = c.size < kLanes ? kLanes / c.size : 1;
  const int64_t column = c.frames * kLanes, square = together * c.frames * c.frames;
  const Scratch scratch((5 * column + 2 * square + c.frames) * kLanes + 256);
  const int64_t batches = (c.clips * c.pixels + kLanes - 1) / kLanes;
#pragma omp parallel
  {
    Share share(scratch);
    const auto take = [&](int64_t count) { return reinterpret_cast<Vec*>(share.take(count * kLanes)); };
    Pixels<T> p{c,
                {},
                0,
                together,
                take(column),
                take(column),
                take(column),
                take(column),
                take(column),
                take(square),
                take(square),
                take(c.frames)};
#pragma omp for schedule(static)
    for (int64_t batch = 0; batch < batches; ++batch) {
      p.place(batch * kLanes);
      for (int64_t head = 0; head < c.heads; head += together) {
        p.heads = c.heads - head < together ? c.heads - head : together;
        back ? p.backward(head) : p.forward(head);
      }
    }
  }
}

void forward(const TemporalAttention& c) {
  c.dtype == DType::bf16 ? run<bf16>(c, false) : run<float>(c, false);
}

void backward(const TemporalAttention& c) {
  c.dtype == DType::bf16 ? run<bf16>(c, true) : run<float>(c, true);
}

}  // namespace

TemporalAttentionKernels temporalAttentionKernels() { return {forward, backward}; }

}  // namespace duet::cpu::DUET_ISA
