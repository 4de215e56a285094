// What a client may do to its update before it is sent: bound its norm and add Gaussian noise.
//
// The difference value - received is scaled, cut off towards zero to a whole number of steps of a grid, and a
// Gaussian number rounded to whole steps is added. Cutting off never makes a norm larger, and since the
// scaled difference lies on the grid, rounding the noise is the same as rounding their sum: what comes out is
// a function of the sum of the real numbers, and has its privacy. Every step of the grid can come from every
// value, so the low bits of a result say nothing of what went in (Mironov, "On significance of the least
// significant bits for differential privacy", CCS 2012).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace duet {

struct UpdateNoise {
  double factor;     // the difference is multiplied by it
  double grid;       // one step, a power of two; 0: neither grid nor noise
  double deviation;  // of the noise, in steps
};

/// received + factor * (values - received), or with a grid
/// received + grid * (trunc(factor * (values - received) / grid) + round(deviation * normal)).
/// `random` holds 16 uniform bytes for every two values, from which Box and Muller's transform makes two
/// normals with uniform numbers of 53 bits: none is farther from 0 than 8.57 deviations. Empty without a
/// grid. Throws InvalidArgument for lengths that do not fit.
std::vector<float> noisyUpdate(std::span<const float> values, std::span<const float> received,
                               std::span<const uint8_t> random, const UpdateNoise& noise);

}  // namespace duet
