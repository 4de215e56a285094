// Multi-head attention over sequences of different lengths laid end to end:
// softmax(scale Q K^T + bias + mask) V per sequence and head (Vaswani et al. 2017, eq. 1, scale 1 / sqrt(d)).
// Scores exist only for a block of query rows at a time. Forward keeps one number a row and head
// (log of the sum of exponentials); backward recomputes the probabilities from it.
#pragma once

#include <vector>

#include "core/tensor.h"

namespace duet {

/// Query rows [queryBegin, queryEnd) attend to key rows [keyBegin, keyEnd).
struct AttentionSpan {
  int64_t queryBegin, queryEnd, keyBegin, keyEnd;
};

struct AttentionShape {
  const AttentionSpan* spans;
  int64_t sequences;
  int64_t heads, headSize;
  const uint8_t* keyMask;  // one a key row, 0 hides it; or null
  bool causal;             // query i of a sequence sees its keys 0 .. i
  float scale;             // of the scores, above 0
  const float* bias;       // heads x biasLength x biasLength (query, key) added to scaled scores; or null
  int64_t biasLength;      // at least the queries and keys of the longest sequence
  float dropout;           // probability; drawn from (seed, stream) and the place in the matrix
  uint64_t seed, stream;
};

/// A matrix seen by columns: element (row, head, i) at data[row * stride + head * headSize + i].
struct HeadMatrix {
  void* data;
  int64_t stride;
};

struct AttentionForward {
  AttentionShape shape;
  DType dtype;
  HeadMatrix q, k, v, out;
  float* logSum;  // query rows x heads, or null
};

struct AttentionBackward {
  AttentionShape shape;  // without bias
  DType dtype;
  HeadMatrix q, k, v, dOut;
  const float* logSum;
  HeadMatrix dq, dk, dv;  // all rows of all spans are written
};

struct AttentionKernels {
  void (*forward)(const AttentionForward&);
  void (*backward)(const AttentionBackward&);
};

}  // namespace duet
