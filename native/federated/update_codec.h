// Shorter forms of an update for the way to the server. What is encoded is the difference value - received,
// which both ends can take from what the server sent; received + difference is what the server counts.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/philox.h"
#include "core/tensor.h"

namespace duet {

/// Values that share a scale (as in Dettmers et al., "8-bit Optimizers via Block-wise Quantization", arXiv
/// 2110.02861).
constexpr size_t kInt8Block = 256;

/// A difference as scale * (value - 128), one scale for every block of 256 values, value from 1 to 255.
struct Int8Update {
  std::vector<uint8_t> values;
  std::vector<float> scales;
};

/// scale = max |difference| / 127 over a block. Rounds to the nearest step, so a difference is off by at most
/// scale / 2; or, with a generator, up with a chance equal to the remainder (Alistarh et al., "QSGD", NeurIPS
/// 2017, arXiv 1610.02132): off by less than scale, and right on average to within 2^-24 steps. Where a scale
/// is below 2^-126, add 2^-142. Draws of value i are word i % 4 of block counter + i / 4. Throws NotFinite
/// naming the place of a difference that is not finite.
Int8Update encodeInt8(std::span<const float> values, std::span<const float> received,
                      const std::optional<Philox>& generator, uint64_t counter);
/// Throws Corrupt for a value 0, a scale that is negative or not finite, a sum that is not finite, and
/// lengths that do not fit.
std::vector<float> decodeInt8(std::span<const uint8_t> values, std::span<const float> scales,
                              std::span<const float> received);

bool allFinite(std::span<const float> values);

/// The difference rounded to the nearest bf16: off by at most 2^-8 of itself (or 2^-134, where it is below
/// 2^-126). Throws NotFinite naming the place of a difference that is not finite in bf16.
std::vector<bf16> encodeBf16(std::span<const float> values, std::span<const float> received);
/// Throws Corrupt for a sum that is not finite and lengths that do not fit.
std::vector<float> decodeBf16(std::span<const bf16> values, std::span<const float> received);

}  // namespace duet
