#include "stickers/latents.h"

#include "core/host_access.h"

namespace duet {

namespace {

/// Calls visit(place in [B, C, F, H, W], place in the rows) for every element, in parallel over pictures.
template <typename Visit>
void eachElement(const PictureGrid& grid, int64_t channels, Visit visit) {
  const int64_t pixels = grid.pixels();
#pragma omp parallel for schedule(static)
  for (int64_t picture = 0; picture < grid.pictures(); ++picture) {
    const int64_t clip = picture / grid.frames, frame = picture % grid.frames;
    for (int64_t channel = 0; channel < channels; ++channel) {
      const int64_t plane = ((clip * channels + channel) * grid.frames + frame) * pixels;
      for (int64_t pixel = 0; pixel < pixels; ++pixel)
        visit(plane + pixel, (picture * pixels + pixel) * channels + channel);
    }
  }
}

}  // namespace

Tensor rowsOf(Arena& arena, std::span<const float> values, const PictureGrid& grid, int64_t channels) {
  require(static_cast<int64_t>(values.size()) == grid.rows() * channels, "Expected ", grid.clips, " x ",
          channels, " x ", grid.frames, " x ", grid.height, " x ", grid.width, " values but received ",
          values.size());
  const Tensor rows = arena.empty({grid.rows(), channels});
  const float* from = values.data();
  fillOnHost(rows, [&](float* to) {
    eachElement(grid, channels, [=](int64_t published, int64_t row) { to[row] = from[published]; });
  });
  return rows;
}

void publishedFrom(const Tensor& rows, const PictureGrid& grid, float* values) {
  readOnHost(rows, [&](const float* from) {
    eachElement(grid, rows.columns(), [=](int64_t published, int64_t row) { values[published] = from[row]; });
  });
}

}  // namespace duet
