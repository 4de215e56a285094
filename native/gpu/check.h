#pragma once

#include <string>

namespace duet::gpu {

/// Runs one of the checks of check.cuda.cu. Sizes are fixed there.
void check(const char* what, const float* x, const float* y, float* out);

/// One of those of check_hopper.cuda.cu. @returns whether there is one of this name
bool checkHopper(const std::string& name, const float* x, const float* y, float* out);

}  // namespace duet::gpu
