#include "models/vilt_plan.h"

#include <algorithm>

#include "core/host_access.h"

namespace duet {

namespace {

constexpr int64_t kRowUnit = 8;

int64_t wholeUnits(int64_t rows) { return (rows + kRowUnit - 1) / kRowUnit * kRowUnit; }
constexpr int32_t kImageModality = 1;

void checkBatch(const ViltConfig& c, const ViltBatch& b) {
  require(b.batch > 0, "Expected a batch of at least 1 sample but received ", b.batch);
  require(b.textLength > 0 && b.textLength <= c.maxPositionEmbeddings, "Expected 1 to ",
          c.maxPositionEmbeddings, " text tokens but received ", b.textLength, "; truncate the text");
  require(b.height >= c.patchSize && b.width >= c.patchSize, "Expected pictures of at least ", c.patchSize,
          " x ", c.patchSize, " pixels but received ", b.height, " x ", b.width);
  const auto tokens = static_cast<size_t>(b.batch * b.textLength);
  const auto pixels = static_cast<size_t>(b.batch * b.height * b.width);
  require(b.inputIds.size() == tokens && b.tokenTypeIds.size() == tokens && b.attentionMask.size() == tokens,
          "Expected inputIds, tokenTypeIds and attentionMask of ", tokens, " elements but received ",
          b.inputIds.size(), ", ", b.tokenTypeIds.size(), " and ", b.attentionMask.size());
  require(b.pixelValues.size() == pixels * static_cast<size_t>(c.channels), "Expected pixelValues of ",
          pixels * static_cast<size_t>(c.channels), " elements but received ", b.pixelValues.size());
  require(b.pixelMask.size() == pixels, "Expected pixelMask of ", pixels, " elements but received ",
          b.pixelMask.size());
  for (size_t i = 0; i < tokens; ++i) {
    require(b.inputIds[i] >= 0 && b.inputIds[i] < c.vocabSize, "Expected inputIds from 0 to ",
            c.vocabSize - 1, " but received ", b.inputIds[i], " in sample ",
            i / static_cast<size_t>(b.textLength), "; the tokenizer's vocabulary and the model's do not fit");
    require(b.tokenTypeIds[i] >= 0 && b.tokenTypeIds[i] < c.typeVocabSize, "Expected tokenTypeIds from 0 to ",
            c.typeVocabSize - 1, " but received ", b.tokenTypeIds[i]);
  }
}

/// The patches of one picture: which are real, and the size of the region they fill.
struct Grid {
  std::vector<uint8_t> valid;  // rows x columns
  int64_t filledRows = 0, filledColumns = 0;
  int64_t count = 0;
};

Grid gridOf(const ViltConfig& c, const ViltBatch& b, int64_t sample) {
  const int64_t rows = b.height / c.patchSize, columns = b.width / c.patchSize;
  Grid grid;
  grid.valid.resize(static_cast<size_t>(rows * columns));
  const uint8_t* mask = b.pixelMask.data() + sample * b.height * b.width;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      const bool real = mask[i * b.height / rows * b.width + j * b.width / columns] != 0;
      grid.valid[static_cast<size_t>(i * columns + j)] = real;
      grid.count += real;
      if (j == 0) grid.filledRows += real;
      if (i == 0) grid.filledColumns += real;
    }
  require(grid.count > 0, "Expected at least one real pixel in every picture but the mask of sample ", sample,
          " hides all patches");
  return grid;
}

void copyPatch(const ViltConfig& c, const ViltBatch& b, int64_t sample, int64_t row, int64_t column,
               float* out) {
  const int64_t p = c.patchSize;
  for (int64_t channel = 0; channel < c.channels; ++channel)
    for (int64_t y = 0; y < p; ++y) {
      const float* from = b.pixelValues.data() +
                          ((sample * c.channels + channel) * b.height + row * p + y) * b.width + column * p;
      std::memcpy(out + (channel * p + y) * p, from, static_cast<size_t>(p) * 4);
    }
}

/// Bilinear interpolation with aligned corners of the position table to the filled region.
struct Axis {
  int64_t low, high;
  float share;  // of high
};

Axis axisOf(int64_t index, int64_t count, int64_t grid) {
  if (count <= 1) return {0, std::min<int64_t>(1, grid - 1), 0.0f};
  const float source =
      static_cast<float>(grid - 1) / static_cast<float>(count - 1) * static_cast<float>(index);
  const int64_t low = std::min(static_cast<int64_t>(source), grid - 1);
  return {low, std::min(low + 1, grid - 1), source - static_cast<float>(low)};
}

class Builder {
 public:
  Builder(const ViltConfig& config, const ViltBatch& batch, Padding padding)
      : c_(config), b_(batch), keep_(padding == Padding::keep) {
    plan_.batch = batch.batch;
    plan_.textRow = std::make_shared<std::vector<int32_t>>();
    plan_.patchRow = std::make_shared<std::vector<int32_t>>();
  }

  ViltPlan build(Arena& arena) {
    checkBatch(c_, b_);
    int64_t most = 0;
    for (int64_t s = 0; s < b_.batch; ++s) {
      grids_.push_back(gridOf(c_, b_, s));
      most = std::max(most, grids_.back().count);
    }
    for (int64_t s = 0; s < b_.batch; ++s) addSample(s, most);
    plan_.tokensEach = keep_ ? rows_ / b_.batch : 0;
    plan_.rows = keep_ ? rows_ : wholeUnits(rows_);
    while (rows_ < plan_.rows) addRow(-1, true);
    const auto count = static_cast<int64_t>(plan_.patchRow->size());
    const int64_t size = c_.channels * c_.patchSize * c_.patchSize;
    plan_.patches = arena.empty({count, size});
    fillOnHost(plan_.patches, [&](float* patches) {
      for (int64_t i = 0; i < count; ++i)
        copyPatch(c_, b_, patchSample_[static_cast<size_t>(i)],
                  plan_.patchGridIndex[static_cast<size_t>(2 * i)],
                  plan_.patchGridIndex[static_cast<size_t>(2 * i + 1)], patches + i * size);
    });
    if (!keep_) plan_.keyMask.clear();
    return std::move(plan_);
  }

 private:
  void addRow(int32_t modality, bool real) {
    plan_.modality.push_back(modality);
    plan_.classToken.push_back(-1);
    for (int i = 0; i < 4; ++i) {
      plan_.positionIndex[i].push_back(-1);
      plan_.positionWeight[i].push_back(0.0f);
    }
    plan_.keyMask.push_back(real ? 1 : 0);
    ++rows_;
  }

  void position(int corner, int64_t entry, float weight) {
    plan_.positionIndex[corner].back() = static_cast<int32_t>(entry);
    plan_.positionWeight[corner].back() = weight;
  }

  void addSample(int64_t s, int64_t most) {
    plan_.firstRow.push_back(rows_);
    for (int64_t t = 0; t < b_.textLength; ++t) {
      const int64_t at = s * b_.textLength + t;
      const bool real = b_.attentionMask[static_cast<size_t>(at)] != 0;
      require(real || t > 0, "Expected the first text token of sample ", s,
              " to be real but the attention mask hides it; the pooled output is read from it");
      if (!real && !keep_) continue;
      plan_.word.push_back(b_.inputIds[static_cast<size_t>(at)]);
      plan_.type.push_back(b_.tokenTypeIds[static_cast<size_t>(at)]);
      plan_.position.push_back(static_cast<int32_t>(t));
      plan_.textRow->push_back(static_cast<int32_t>(rows_));
      addRow(0, real);
    }
    addRow(kImageModality, true);
    plan_.classToken.back() = 0;
    position(0, 0, 1.0f);
    addPatches(s, most);
    plan_.endRow.push_back(rows_);
  }

  void addPatches(int64_t s, int64_t most) {
    const Grid& grid = grids_[static_cast<size_t>(s)];
    const int64_t columns = b_.width / c_.patchSize;
    for (size_t i = 0; i < grid.valid.size(); ++i)
      if (grid.valid[i])
        addPatch(s, grid, static_cast<int64_t>(i) / columns, static_cast<int64_t>(i) % columns, true);
    if (!keep_) return;
    int64_t missing = most - grid.count;
    for (size_t i = 0; i < grid.valid.size() && missing > 0; ++i)
      if (!grid.valid[i]) {
        addPatch(s, grid, static_cast<int64_t>(i) / columns, static_cast<int64_t>(i) % columns, false);
        --missing;
      }
  }

  void addPatch(int64_t s, const Grid& grid, int64_t row, int64_t column, bool real) {
    plan_.patchRow->push_back(static_cast<int32_t>(rows_));
    plan_.patchGridIndex.push_back(static_cast<int32_t>(row));
    plan_.patchGridIndex.push_back(static_cast<int32_t>(column));
    patchSample_.push_back(s);
    addRow(kImageModality, real);
    if (row >= grid.filledRows || column >= grid.filledColumns) return;  // zeros outside the real region
    const int64_t g = c_.grid();
    const Axis y = axisOf(row, grid.filledRows, g), x = axisOf(column, grid.filledColumns, g);
    position(0, 1 + y.low * g + x.low, (1.0f - y.share) * (1.0f - x.share));
    position(1, 1 + y.low * g + x.high, (1.0f - y.share) * x.share);
    position(2, 1 + y.high * g + x.low, y.share * (1.0f - x.share));
    position(3, 1 + y.high * g + x.high, y.share * x.share);
  }

  const ViltConfig& c_;
  const ViltBatch& b_;
  const bool keep_;
  ViltPlan plan_;
  std::vector<Grid> grids_;
  std::vector<int64_t> patchSample_;
  int64_t rows_ = 0;
};

}  // namespace

ViltPlan samplesOf(const ViltPlan& plan, int64_t first, int64_t end) {
  const int64_t base = plan.firstRow[static_cast<size_t>(first)];
  ViltPlan part;
  part.batch = end - first;
  for (int64_t s = first; s < end; ++s) {
    part.firstRow.push_back(plan.firstRow[static_cast<size_t>(s)] - base);
    part.endRow.push_back(plan.endRow[static_cast<size_t>(s)] - base);
  }
  part.rows = std::min(wholeUnits(part.endRow.back()), plan.rows - base);
  return part;
}

ViltPlan planBatch(const ViltConfig& config, const ViltBatch& batch, Arena& arena, Padding padding) {
  return Builder(config, batch, padding).build(arena);
}

}  // namespace duet
