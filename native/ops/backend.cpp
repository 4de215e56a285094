// Chooses the CPU backend once: the best instruction set this machine has.
#include <cstdlib>
#include <cstring>
#include <utility>

#include "ops/kernels.h"

namespace duet {

namespace cpu {
#if defined(__x86_64__)
namespace avx512 {
const Backend& makeBackend();
}
namespace avx2 {
const Backend& makeBackend();
}
#endif
namespace generic {
const Backend& makeBackend();
}
}  // namespace cpu

namespace {

const Backend& choose() {
#if defined(__x86_64__)
  const char* wish = std::getenv("DUET_ISA");
  const bool known = !wish || std::strcmp(wish, "avx512") == 0 || std::strcmp(wish, "avx2") == 0 ||
                     std::strcmp(wish, "generic") == 0;
  require(known, "Expected avx512, avx2 or generic for DUET_ISA but received '", wish ? wish : "", "'");
  const auto allowed = [&](const char* name) { return !wish || std::strcmp(wish, name) == 0; };
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && allowed("avx512")) return cpu::avx512::makeBackend();
  if (avx2 && (allowed("avx2") || (wish && std::strcmp(wish, "avx512") == 0)))
    return cpu::avx2::makeBackend();
#endif
  return cpu::generic::makeBackend();
}

thread_local const Backend* replaced = nullptr;

}  // namespace

const Backend& backend() {
  if (replaced) return *replaced;
  static const Backend& chosen = choose();
  return chosen;
}

const Backend* replaceBackend(const Backend* other) { return std::exchange(replaced, other); }

}  // namespace duet
