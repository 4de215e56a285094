// A dry run: the same code as ever runs, but kernels do nothing, so only memory is handed out, and what
// nobody touches costs none. It tells how much a pass would need before anything is computed.
#pragma once

#include "ops/kernels.h"

namespace duet {

/// While one lives, this thread's kernels compute nothing (and losses are 0).
class DryRun {
 public:
  DryRun();
  ~DryRun();
  DryRun(const DryRun&) = delete;
  DryRun& operator=(const DryRun&) = delete;

 private:
  const Backend* before_;
};

}  // namespace duet
