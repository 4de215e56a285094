// Cancellation between ops: the queue that runs a job sets the flag of this thread; long native
// work calls cancelPoint() where it can stop without leaving anything half-written.
#pragma once

#include <atomic>

#include "core/error.h"

namespace duet {

inline thread_local const std::atomic<bool>* cancelFlag = nullptr;

inline void cancelPoint() {
  if (cancelFlag && cancelFlag->load(std::memory_order_relaxed))
    fail(Code::Cancelled, "The work was cancelled");
}

}  // namespace duet
