// Processors are counted as this process may use them: its affinity mask, two hyper-threads of one core
// as one, and not more than the CPU quota of its control group.
#include "core/system.h"

#include <oneapi/dnnl/dnnl.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "core/error.h"
#include "ops/kernels.h"

namespace duet {

namespace {

std::atomic<int> chosenThreads{0};

int readNumber(const std::string& path, int otherwise) {
  std::ifstream file(path);
  int value;
  return file >> value ? value : otherwise;
}

/// Processors of the control group's quota, rounded up; 0 when there is none.
int quotaProcessors() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return 0;
  try {
    return std::max(1, static_cast<int>(std::ceil(std::stod(quota) / period)));
  } catch (const std::exception&) {
    return 0;
  }
}

int physicalProcessors() {
  std::set<std::pair<int, int>> cores;
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &allowed)) continue;
      const std::string topology = str("/sys/devices/system/cpu/cpu", cpu, "/topology/");
      cores.insert(
          {readNumber(topology + "physical_package_id", 0), readNumber(topology + "core_id", -1 - cpu)});
    }
  }
  int count =
      cores.empty() ? static_cast<int>(std::thread::hardware_concurrency()) : static_cast<int>(cores.size());
  if (const int quota = quotaProcessors()) count = std::min(count, quota);
  return std::clamp(count, 1, kMostThreads);
}

}  // namespace

void setThreads(int count) {
  require(count >= 0 && count <= kMostThreads, "Expected integer between 0 and ", kMostThreads,
          " for threads but received ", count);
  chosenThreads = count;
}

int threads() {
  static const int processors = physicalProcessors();
  const int chosen = chosenThreads;
  return chosen > 0 ? chosen : processors;
}

std::string isaName() { return backend().name; }

std::string oneDnnVersion() {
  const dnnl_version_t* version = dnnl_version();
  return str(version->major, ".", version->minor, ".", version->patch);
}

}  // namespace duet
