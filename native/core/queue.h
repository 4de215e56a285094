// The native compute queue of device 'cpu': one thread for the whole process, whatever the number of
// models and JavaScript environments, so that OpenMP's team of threads exists once and the machine is
// never oversubscribed. Work runs in the order in which it was pushed.
//
// Every piece of work has an owner (a JavaScript environment). stop(owner) is what makes the end of an
// environment safe: afterwards nothing of that owner runs or will run.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

namespace duet {

struct QueuedWork {
  std::function<void()> run;  // must not throw
  const void* owner = nullptr;
  int threads = 0;  // for OpenMP; 0 takes what setThreads() says
  /// Seen by cancelPoint() inside run().
  std::atomic<bool> cancelled{false};
};

class ComputeQueue {
 public:
  /// The thread starts with the first piece of work. Never destroyed: it outlives every environment.
  static ComputeQueue& instance();

  /// False when the process is ending and the work will not run.
  bool push(std::shared_ptr<QueuedWork> work);

  /// Drops the owner's waiting work, cancels what runs and returns once it has come to its end.
  void stop(const void* owner);

  /// The same for all owners, for ever.
  void shutDown();

 private:
  ComputeQueue() = default;
  void loop();
  void startThread();
  void stopWhere(const std::function<bool(const QueuedWork&)>& matches);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<QueuedWork>> waiting_;
  std::shared_ptr<QueuedWork> running_;
  bool started_ = false;
  bool ended_ = false;
};

}  // namespace duet
