#include "nn/embedding.h"

#include <algorithm>

#include "ops/kernels.h"

namespace duet {

namespace {

/// The system maps a wide neighbourhood of every row that is read from a file: of a large vocabulary soon all
/// of it. So tables larger than this are read a few rows at a time, and their pages given back in between.
constexpr size_t kLargeTable = size_t{8} << 20;
constexpr int64_t kRowsOfLargeTable = 4;

}  // namespace

Var embed(Context& context, std::vector<EmbeddingInput> inputs, int64_t rows, int64_t width) {
  Tape& tape = context.tape;
  std::vector<EmbeddingTerm> terms;
  bool tracked = false;
  int64_t atOnce = std::max<int64_t>(rows, 1);
  require(width > 0, "Expected embedding tables of at least one column");
  for (const EmbeddingInput& input : inputs) {
    require(input.table->value.columns() == width, "Expected tables of ", width, " columns but ",
            input.table->name, " is ", input.table->value.shape().text());
    const int64_t entries = input.table->value.elements() / width;
    require(static_cast<int64_t>(input.index.size()) == rows, "Expected ", rows, " indices for ",
            input.table->name, " but received ", input.index.size());
    for (int32_t entry : input.index)
      require(entry < entries, "Expected indices below ", entries, " for ", input.table->name,
              " but received ", entry);
    terms.push_back(
        {input.table->f32(), input.index.data(), input.weight.empty() ? nullptr : input.weight.data()});
    tracked = tracked || input.table->trainable;
    if (input.table->borrowed && input.table->value.bytes() > kLargeTable) atOnce = kRowsOfLargeTable;
  }
  Tensor y = tape.empty({rows, width});
  for (int64_t row = 0; row < rows; row += atOnce) {
    const int64_t count = std::min(atOnce, rows - row);
    backend().embedding.forward(terms.data(), static_cast<int64_t>(terms.size()), y.f32() + row * width,
                                count, width);
    for (const EmbeddingInput& input : inputs) input.table->dropPages();
    for (EmbeddingTerm& term : terms) {
      term.index += count;
      if (term.weight) term.weight += count;
    }
  }
  if (!tape.recording() || !tracked) return {y, -1};
  const Var result = tape.track(y);
  const int made = result.slot;
  auto kept = std::make_shared<std::vector<EmbeddingInput>>(std::move(inputs));
  tape.record([&tape, made, kept, rows, width] {
    const Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    for (const EmbeddingInput& input : *kept) {
      if (!input.table->trainable) continue;
      bool accumulate;
      float* target = input.table->gradientTarget(accumulate);
      if (!accumulate) currentMemory().zero(target, input.table->gradient.bytes());
      backend().embedding.backward(input.index.data(), input.weight.empty() ? nullptr : input.weight.data(),
                                   dy.f32(), target, rows, width);
    }
  });
  return result;
}

Var gatherRows(Context& context, const Var& x, std::shared_ptr<const std::vector<int32_t>> index) {
  Tape& tape = context.tape;
  const int64_t rows = static_cast<int64_t>(index->size()), width = x.value.columns();
  for (int32_t row : *index)
    require(row >= 0 && row < x.value.rowCount(), "Row ", row, " is not in ", x.value.shape().text());
  Tensor y = tape.empty({rows, width});
  backend().elementwise.gatherRows(x.value.f32(), index->data(), y.raw(), rows, width * 4);
  if (!tape.recording() || !x.tracked()) return {y, -1};
  const Var result = tape.track(y);
  const int made = result.slot;
  const int slot = x.slot;
  const Shape shape = x.value.shape();
  tape.record([&tape, made, slot, shape, index, rows, width] {
    const Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    bool accumulate;
    Tensor dx = tape.target(slot, shape, DType::f32, accumulate);
    if (!accumulate) currentMemory().zero(dx.raw(), dx.bytes());
    backend().elementwise.addRows(dy.f32(), index->data(), dx.f32(), rows, width);
  });
  return result;
}

Var addRows(Context& context, const Var& base, const Var& x,
            std::shared_ptr<const std::vector<int32_t>> index) {
  Tape& tape = context.tape;
  const int64_t rows = x.value.rowCount(), width = x.value.columns();
  require(base.value.columns() == width, "Expected rows of ", base.value.columns(), " columns but received ",
          x.value.shape().text());
  require(static_cast<int64_t>(index->size()) == rows, "Expected ", rows, " row numbers but received ",
          index->size());
  for (int32_t row : *index)
    require(row >= 0 && row < base.value.rowCount(), "Row ", row, " is not in ", base.value.shape().text());
  backend().elementwise.addRows(x.value.f32(), index->data(), base.value.f32(), rows, width);
  if (!tape.recording() || (!base.tracked() && !x.tracked())) return {base.value, -1};
  const Var result = tape.track(base.value);
  const int made = result.slot;
  const int baseSlot = base.slot, added = x.slot;
  tape.record([&tape, made, baseSlot, added, index, rows, width] {
    const Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    if (added >= 0) {
      Tensor part = tape.empty({rows, width});
      backend().elementwise.gatherRows(dy.f32(), index->data(), part.raw(), rows, width * 4);
      tape.give(added, part);
    }
    tape.give(baseSlot, dy);
  });
  return result;
}

}  // namespace duet
