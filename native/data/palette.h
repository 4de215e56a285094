// Making a palette smaller: pairwise nearest neighbour (Equitz 1989).
#pragma once

#include <cstdint>
#include <vector>

namespace duet {

/// A palette and the place of each old colour in it.
struct MergedPalette {
  std::vector<uint32_t> colors;
  std::vector<uint8_t> placeOf;
};

/// Merges the two colours (0xRRGGBB) whose union costs least until `wanted` are left: `counts` are the pixels
/// of each, the cost of a pair is n1 n2 / (n1 + n2) times their squared distance, and the union is their
/// weighted mean. At most 256 colours, `wanted` at least 1.
MergedPalette mergedPalette(const std::vector<uint32_t>& colors, const std::vector<int64_t>& counts,
                            int wanted);

}  // namespace duet
