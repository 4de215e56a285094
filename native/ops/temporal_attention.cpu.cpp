#include "ops/temporal_attention.h"

#include <cmath>
#include <limits>

#include "ops/kernels.h"
#include "ops/scratch.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {
namespace {

/// One sequence in f32: frames x (3 heads size), and what backward adds.
struct Sequence {
  int64_t frames, heads, size;
  const uint8_t* keep;
  float *qkv, *out, *dout, *dqkv, *probability, *slope;

  int64_t width() const { return heads * size; }

  /// probability[i, j] of one head.
  void softmax(int64_t head) const {
    const int64_t stride = 3 * width();
    const float scale = 1.0f / std::sqrt(static_cast<float>(size));
    for (int64_t i = 0; i < frames; ++i) {
      const float* q = qkv + i * stride + head * size;
      float* p = probability + i * frames;
      float top = -std::numeric_limits<float>::infinity();
      for (int64_t j = 0; j < frames; ++j) {
        const float* k = qkv + j * stride + width() + head * size;
        float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
        for (int64_t d = 0; d < size; ++d) dot += q[d] * k[d];
        p[j] = keep && !keep[j] ? -std::numeric_limits<float>::infinity() : dot * scale;
        top = p[j] > top ? p[j] : top;
      }
      float sum = 0.0f;
      for (int64_t j = 0; j < frames; ++j) {
        p[j] = fastExp(p[j] - top);
        sum += p[j];
      }
      for (int64_t j = 0; j < frames; ++j) p[j] /= sum;
    }
  }

  void forwardHead(int64_t head) const {
    softmax(head);
    for (int64_t i = 0; i < frames; ++i) {
      float* to = out + i * width() + head * size;
      for (int64_t d = 0; d < size; ++d) to[d] = 0.0f;
      for (int64_t j = 0; j < frames; ++j) {
        const float p = probability[i * frames + j];
        const float* v = qkv + j * 3 * width() + 2 * width() + head * size;
#pragma omp simd
        for (int64_t d = 0; d < size; ++d) to[d] += p * v[d];
      }
    }
  }

  // dv_j = sum_i p_ij do_i; ds_ij = p_ij (do_i . v_j - sum_j p_ij do_i . v_j) scale; dq_i = sum_j ds_ij k_j;
  // dk_j = sum_i ds_ij q_i
  void backwardHead(int64_t head) const {
    softmax(head);
    const int64_t stride = 3 * width();
    const float scale = 1.0f / std::sqrt(static_cast<float>(size));
    for (int64_t i = 0; i < frames; ++i) {
      const float* g = dout + i * width() + head * size;
      const float* p = probability + i * frames;
      float* s = slope + i * frames;
      float mean = 0.0f;
      for (int64_t j = 0; j < frames; ++j) {
        const float* v = qkv + j * stride + 2 * width() + head * size;
        float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
        for (int64_t d = 0; d < size; ++d) dot += g[d] * v[d];
        s[j] = dot;
        mean += p[j] * dot;
      }
      for (int64_t j = 0; j < frames; ++j) s[j] = p[j] * (s[j] - mean) * scale;
    }
    for (int64_t i = 0; i < frames; ++i) {
      float* dq = dqkv + i * stride + head * size;
      float *dk = dq + width(), *dv = dk + width();
      for (int64_t d = 0; d < size; ++d) dq[d] = dk[d] = dv[d] = 0.0f;
      for (int64_t j = 0; j < frames; ++j) {
        const float* q = qkv + j * stride + head * size;
        const float* k = q + width();
        const float* g = dout + j * width() + head * size;
        const float row = slope[i * frames + j], column = slope[j * frames + i],
                    p = probability[j * frames + i];
#pragma omp simd
        for (int64_t d = 0; d < size; ++d) {
          dq[d] += row * k[d];
          dk[d] += column * q[d];
          dv[d] += p * g[d];
        }
      }
    }
  }
};

template <typename T>
void load(const void* from, int64_t row, int64_t rowStep, int64_t rows, int64_t columns, float* to) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* in = static_cast<const T*>(from) + (row + r * rowStep) * columns;
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i) to[r * columns + i] = readAs(in, i);
  }
}

template <typename T>
void store(void* to, int64_t row, int64_t rowStep, int64_t rows, int64_t columns, const float* from,
           bool accumulate) {
  for (int64_t r = 0; r < rows; ++r) {
    T* out = static_cast<T*>(to) + (row + r * rowStep) * columns;
    const float* in = from + r * columns;
    if (accumulate) {
#pragma omp simd
      for (int64_t i = 0; i < columns; ++i) writeAs(out, i, readAs(out, i) + in[i]);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < columns; ++i) writeAs(out, i, in[i]);
    }
  }
}

template <typename T>
void run(const TemporalAttention& c, bool back) {
  const int64_t width = c.heads * c.size, frames = c.frames;
  const Scratch scratch(8 * frames * width + 2 * frames * frames + 128);
#pragma omp parallel
  {
    Share share(scratch);
    Sequence s{frames, c.heads, c.size, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
    s.qkv = share.take(frames * 3 * width);
    s.probability = share.take(frames * frames);
    if (back) {
      s.dout = share.take(frames * width);
      s.dqkv = share.take(frames * 3 * width);
      s.slope = share.take(frames * frames);
    } else {
      s.out = share.take(frames * width);
    }
#pragma omp for schedule(static)
    for (int64_t index = 0; index < c.clips * c.pixels; ++index) {
      const int64_t clip = index / c.pixels, row = clip * frames * c.pixels + index % c.pixels;
      s.keep = c.keep ? c.keep + clip * frames : nullptr;
      load<T>(c.qkv, row, c.pixels, frames, 3 * width, s.qkv);
      if (back) {
        load<T>(c.dout, row, c.pixels, frames, width, s.dout);
        for (int64_t head = 0; head < c.heads; ++head) s.backwardHead(head);
        store<T>(c.dqkv, row, c.pixels, frames, 3 * width, s.dqkv, c.accumulate);
      } else {
        for (int64_t head = 0; head < c.heads; ++head) s.forwardHead(head);
        store<T>(c.out, row, c.pixels, frames, width, s.out, false);
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
