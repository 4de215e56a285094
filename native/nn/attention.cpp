#include "nn/attention.h"

#include <algorithm>
#include <cmath>

#include "ops/kernels.h"

namespace duet {

namespace {

/// The matrix of `tensor` from column `column` on.
HeadMatrix columnsOf(const Tensor& tensor, int64_t column) {
  return {static_cast<std::byte*>(tensor.raw()) + static_cast<size_t>(column) * sizeOf(tensor.dtype()),
          tensor.columns()};
}

/// Gradients of keys are written span by span, so no two spans may share rows.
void checkApart(const AttentionLayout& layout, int64_t AttentionSpan::*begin, int64_t AttentionSpan::*end,
                const char* what) {
  std::vector<AttentionSpan> sorted = layout.spans;
  std::sort(sorted.begin(), sorted.end(),
            [&](const AttentionSpan& a, const AttentionSpan& b) { return a.*begin < b.*begin; });
  for (size_t i = 1; i < sorted.size(); ++i)
    require(sorted[i - 1].*end <= sorted[i].*begin,
            "Attention spans may not share rows but two of them share ", what, " row ", sorted[i].*begin);
}

void checkLayout(const AttentionLayout& layout, int64_t queryRows, int64_t keyRows, int64_t width) {
  require(layout.heads > 0 && width % layout.heads == 0, "Expected a width divisible by ", layout.heads,
          " heads but received ", width);
  for (const AttentionSpan& span : layout.spans)
    require(span.queryBegin >= 0 && span.queryBegin <= span.queryEnd && span.queryEnd <= queryRows &&
                span.keyBegin >= 0 && span.keyBegin < span.keyEnd && span.keyEnd <= keyRows,
            "An attention span lies outside its ", queryRows, " query and ", keyRows, " key rows");
  for (const AttentionSpan& span : layout.spans) {
    bool seen = layout.keyMask.empty() || span.queryBegin == span.queryEnd;
    for (int64_t row = span.keyBegin;
         row < span.keyEnd && !seen && row < static_cast<int64_t>(layout.keyMask.size()); ++row)
      seen = layout.keyMask[static_cast<size_t>(row)] != 0;
    require(seen, "Expected at least one visible key for query row ", span.queryBegin,
            " but the mask hides them all");
  }
  checkApart(layout, &AttentionSpan::queryBegin, &AttentionSpan::queryEnd, "query");
  checkApart(layout, &AttentionSpan::keyBegin, &AttentionSpan::keyEnd, "key");
  require(layout.keyMask.empty() || static_cast<int64_t>(layout.keyMask.size()) == keyRows,
          "Expected a key mask of ", keyRows, " rows but received ", layout.keyMask.size());
}

/// What a sequence's own places decide: the causal mask and the bias.
void checkPlaces(const AttentionLayout& layout) {
  const int64_t length = layout.bias.defined() ? layout.bias.columns() : 0;
  require(layout.scale >= 0.0f && std::isfinite(layout.scale),
          "Expected a positive scale of the scores but received ", layout.scale);
  if (layout.bias.defined())
    require(layout.bias.shape() == Shape({layout.heads, length, length}), "Expected a bias of [",
            layout.heads, ", L, L] but received ", layout.bias.shape().text());
  for (const AttentionSpan& span : layout.spans) {
    const int64_t queries = span.queryEnd - span.queryBegin, keys = span.keyEnd - span.keyBegin;
    require(!layout.causal || queries == keys,
            "Expected as many queries as keys for causal attention but received ", queries, " and ", keys);
    require(!layout.causal || layout.keyMask.empty() || layout.keyMask[static_cast<size_t>(span.keyBegin)],
            "Expected the first key of a causal sequence to be visible, but the mask hides key row ",
            span.keyBegin);
    require(!layout.bias.defined() || (queries <= length && keys <= length), "Expected a bias of at least ",
            std::max(queries, keys), " places but received ", length);
  }
}

int64_t covered(const AttentionLayout& layout) {
  int64_t rows = 0;
  for (const AttentionSpan& span : layout.spans) rows += span.queryEnd - span.queryBegin;
  return rows;
}

Tensor emptyOrZeros(Tape& tape, const Shape& shape, DType dtype, bool whole) {
  return whole ? tape.empty(shape, dtype) : tape.arena().zeros(shape, dtype);
}

Var attend(Context& context, const Var& q, const Var& kv, bool same,
           std::shared_ptr<const AttentionLayout> layout, float dropout) {
  Tape& tape = context.tape;
  const DType dtype = q.value.dtype();
  const int64_t width = kv.value.columns() / (same ? 3 : 2);
  const int64_t queryRows = q.value.rowCount(), keyRows = kv.value.rowCount();
  require(kv.value.columns() == width * (same ? 3 : 2), "Expected columns divisible by ", same ? 3 : 2,
          " but received ", kv.value.shape().text());
  require(dropout >= 0.0f && dropout < 1.0f, "Expected a dropout probability from 0 to below 1 but received ",
          dropout);
  require(same || q.value.columns() == width, "Expected queries of ", width, " columns but received ",
          q.value.shape().text());
  require(kv.value.dtype() == dtype, "Queries and keys differ in type");
  checkLayout(*layout, queryRows, keyRows, width);
  checkPlaces(*layout);
  const int64_t keyColumn = same ? width : 0;
  const bool tracked = tape.recording() && (q.tracked() || kv.tracked());
  const uint64_t stream = dropout > 0.0f && context.training ? context.stream++ : 0;

  AttentionShape shape{};
  shape.spans = layout->spans.data();
  shape.sequences = static_cast<int64_t>(layout->spans.size());
  shape.heads = layout->heads;
  shape.headSize = width / layout->heads;
  shape.keyMask = layout->keyMask.empty() ? nullptr : layout->keyMask.data();
  shape.causal = layout->causal;
  shape.scale = layout->scale > 0.0f ? layout->scale : 1.0f / std::sqrt(static_cast<float>(shape.headSize));
  shape.bias = layout->bias.defined() ? layout->bias.f32() : nullptr;
  shape.biasLength = layout->bias.defined() ? layout->bias.dim(-1) : 0;
  shape.dropout = context.training ? dropout : 0.0f;
  shape.seed = context.seed;
  shape.stream = stream;

  const bool whole = covered(*layout) == queryRows;
  Tensor out = emptyOrZeros(tape, {queryRows, width}, dtype, whole);
  const Tensor logSum = tracked ? tape.empty({queryRows, layout->heads}) : Tensor{};
  backend().attention.forward({shape, dtype, columnsOf(q.value, 0), columnsOf(kv.value, keyColumn),
                               columnsOf(kv.value, keyColumn + width), columnsOf(out, 0),
                               tracked ? logSum.f32() : nullptr});
  if (!tracked) return {out, -1};

  const Var result = tape.track(out);
  const int made = result.slot;
  const Tensor qValue = same ? Tensor{} : q.value, kvValue = kv.value;
  const int qSlot = q.slot, kvSlot = kv.slot;
  tape.record([&tape, made, qValue, kvValue, qSlot, kvSlot, same, layout, shape, dtype, width, keyColumn,
               logSum] {
    const Tensor dOut = tape.take(made);
    if (!dOut.defined()) return;
    if (layout->bias.defined())
      fail(Code::Unsupported,
           "Attention with a bias of its scores has no gradient; use it for frozen networks only");
    int64_t keyCovered = 0;
    for (const AttentionSpan& span : layout->spans) keyCovered += span.keyEnd - span.keyBegin;
    // Each sequence and head is copied out before its gradients are written, so they may take the place of
    // values that nobody else reads any more.
    const bool all = keyCovered == kvValue.rowCount() && (!same || covered(*layout) == kvValue.rowCount());
    const Tensor dkv = all && kvValue.unique() ? kvValue : emptyOrZeros(tape, kvValue.shape(), dtype, all);
    const Tensor dq =
        same ? dkv : emptyOrZeros(tape, qValue.shape(), dtype, covered(*layout) == qValue.rowCount());
    backend().attention.backward({shape, dtype, columnsOf(same ? kvValue : qValue, 0),
                                  columnsOf(kvValue, keyColumn), columnsOf(kvValue, keyColumn + width),
                                  columnsOf(dOut, 0), logSum.f32(), columnsOf(dq, 0),
                                  columnsOf(dkv, keyColumn), columnsOf(dkv, keyColumn + width)});
    if (!same) tape.give(qSlot, dq);
    tape.give(kvSlot, dkv);
  });
  return result;
}

}  // namespace

Var selfAttention(Context& context, const Var& qkv, std::shared_ptr<const AttentionLayout> layout,
                  float dropout) {
  return attend(context, qkv, qkv, true, std::move(layout), dropout);
}

Var crossAttention(Context& context, const Var& q, const Var& kv,
                   std::shared_ptr<const AttentionLayout> layout, float dropout) {
  return attend(context, q, kv, false, std::move(layout), dropout);
}

}  // namespace duet
