#include "core/queue.h"

#include <omp.h>
#include <pthread.h>
#include <signal.h>

#include <cstdlib>
#include <system_error>
#include <thread>

#include "core/cancel.h"
#include "core/error.h"
#include "core/system.h"

namespace duet {

namespace {

constexpr int kMostExitHandlers = 32;

/// exit() takes apart, last one first, what libraries set up when they were first used. Work that runs
/// then must be stopped before. Registered again after the first pieces of work, this comes ahead of
/// whatever they have set up.
void shutDownAtExit() {
  std::atexit([] { ComputeQueue::instance().shutDown(); });
}

}  // namespace

ComputeQueue& ComputeQueue::instance() {
  static ComputeQueue* queue = new ComputeQueue;
  return *queue;
}

bool ComputeQueue::push(std::shared_ptr<QueuedWork> work) {
  {
    std::lock_guard lock(mutex_);
    if (ended_) return false;
    if (!started_) startThread();
    waiting_.push_back(std::move(work));
  }
  changed_.notify_all();
  return true;
}

void ComputeQueue::startThread() {
  // Signals belong to the threads of the host program, but for faults of this thread.
  sigset_t others, before;
  sigfillset(&others);
  for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigdelset(&others, fault);
  pthread_sigmask(SIG_SETMASK, &others, &before);
  try {
    std::thread(&ComputeQueue::loop, this).detach();
    started_ = true;
  } catch (const std::system_error& error) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    fail(Code::Internal, "Could not start the compute thread: ", error.what(),
         "; raise the limit on processes (ulimit -u)");
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  shutDownAtExit();
}

void ComputeQueue::loop() {
  pthread_setname_np(pthread_self(), "duet-compute");
  int exitHandlers = 1;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return !waiting_.empty(); });
    running_ = std::move(waiting_.front());
    waiting_.pop_front();
    const std::shared_ptr<QueuedWork> work = running_;
    lock.unlock();
    omp_set_num_threads(work->threads > 0 ? work->threads : threads());
    cancelFlag = &work->cancelled;
    work->run();
    work->run = nullptr;  // what it holds goes before stop() may return
    cancelFlag = nullptr;
    if (exitHandlers++ < kMostExitHandlers) shutDownAtExit();
    lock.lock();
    running_.reset();
    changed_.notify_all();
  }
}

void ComputeQueue::stopWhere(const std::function<bool(const QueuedWork&)>& matches) {
  std::deque<std::shared_ptr<QueuedWork>> dropped;  // destroyed after the lock
  std::unique_lock lock(mutex_);
  std::deque<std::shared_ptr<QueuedWork>> kept;
  for (auto& work : waiting_) (matches(*work) ? dropped : kept).push_back(std::move(work));
  waiting_ = std::move(kept);
  if (running_ && matches(*running_)) {
    running_->cancelled = true;
    changed_.wait(lock, [&] { return !running_ || !matches(*running_); });
  }
  lock.unlock();
}

void ComputeQueue::stop(const void* owner) {
  stopWhere([owner](const QueuedWork& work) { return work.owner == owner; });
}

void ComputeQueue::shutDown() {
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
  }
  stopWhere([](const QueuedWork&) { return true; });
}

}  // namespace duet
