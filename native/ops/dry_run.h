// A dry run: the same code as ever runs, but kernels and copies do nothing and memory is no more than
// addresses of the host's. It tells how much a pass would need on a device before anything is computed.
#pragma once

#include "core/memory.h"
#include "ops/kernels.h"

namespace duet {

/// While one lives, this thread's kernels compute nothing (and losses are 0), and its tensors hold nothing.
class DryRun {
 public:
  DryRun();
  ~DryRun();
  DryRun(const DryRun&) = delete;
  DryRun& operator=(const DryRun&) = delete;

 private:
  const Backend* backendBefore_ = nullptr;
  const Memory* memoryBefore_ = nullptr;
};

}  // namespace duet
