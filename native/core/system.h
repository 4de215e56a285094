// What this machine offers: threads and instruction sets.
#pragma once

#include <string>

namespace duet {

constexpr int kMostThreads = 1024;

/// Threads used by the compute queue; 0 asks for the number of physical processors.
void setThreads(int count);
int threads();
/// The instruction set of the CPU kernels in use: "avx512", "avx2" or "generic".
/// DUET_ISA in the environment may choose a lesser one.
std::string isaName();
std::string oneDnnVersion();

}  // namespace duet
