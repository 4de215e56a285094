// softmax(q k^T / sqrt(size)) v over the frames of a clip, for every pixel and head on its own. Sequences are
// a few frames long, so nothing but the result is kept: backward computes the probabilities again.
#pragma once

#include "core/tensor.h"

namespace duet {

struct TemporalAttention {
  const void* qkv;  // clips x frames x pixels x (3 heads size): queries, keys, values
  DType dtype;
  int64_t clips, frames, pixels, heads, size;
  const uint8_t* keep;  // null, or clips x frames: 0 hides a frame as a key
  void* out;            // clips x frames x pixels x (heads size); forward only
  const void* dout;     // backward only
  void* dqkv;           // backward only, the type of qkv
  bool accumulate;      // dqkv +=
};

struct TemporalAttentionKernels {
  void (*forward)(const TemporalAttention&);
  void (*backward)(const TemporalAttention&);
};

}  // namespace duet
