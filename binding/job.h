// The only asynchronous work in the package: a job does native work on another thread and settles a
// promise on the JavaScript thread that asked for it.
//
// Two lanes: `compute` is the process's one compute queue (jobs in order, see core/queue.h), `files` is
// libuv's pool, for reading, writing and preparing pictures beside the training.
//
// When an environment ends (worker.terminate(), process.exit() while a step runs) its jobs are cancelled,
// the running one is waited for, and their promises stay pending for ever.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <type_traits>
#include <utility>
#include <vector>

#include "binding/errors.h"
#include "binding/napi_setup.h"
#include "core/queue.h"

namespace duet::binding {

enum class Lane { compute, files };

struct JobOptions {
  Lane lane = Lane::compute;
  int threads = 0;  // 0: what setThreads() says
  /// Objects (typed arrays, the model) that stay alive until the job has ended.
  std::vector<Napi::Value> held = {};
  /// Called on the JavaScript thread when the job has ended, whatever came of it.
  std::function<void()> ended = {};
};

class Environment;

class Job : public std::enable_shared_from_this<Job> {
 public:
  virtual ~Job() = default;

  /// Stops the work at its next cancel point, or before it begins; the promise rejects with CANCELLED.
  void cancel() { queued_->cancelled = true; }

 protected:
  /// On the other thread.
  virtual void work() = 0;
  /// On the JavaScript thread, after work() succeeded.
  virtual Napi::Value result(Napi::Env env) = 0;

 private:
  friend class Environment;
  void execute() noexcept;
  void settle(Napi::Env env) noexcept;

  std::shared_ptr<QueuedWork> queued_ = std::make_shared<QueuedWork>();
  std::optional<Napi::Promise::Deferred> deferred_;
  Napi::ObjectReference held_;  // [the error to reject with, inputs ...]
  std::function<void()> ended_;
  std::optional<Failure> failure_;
  napi_async_work asyncWork_ = nullptr;
};

/// The jobs of one JavaScript environment: the main thread's or a worker's.
class Environment {
 public:
  /// Called once when the addon is loaded into an environment.
  static void install(Napi::Env env);
  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  explicit Environment(Napi::Env env);
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

  Napi::Promise start(std::shared_ptr<Job> job, JobOptions options);

  /// Cancels everything and waits for what runs.
  void close() noexcept;

 private:
  void startComputeWork(const std::shared_ptr<Job>& job, int threads);
  void startFileWork(const std::shared_ptr<Job>& job);
  void finished(std::shared_ptr<Job> job);  // on the compute thread
  void deliver();                           // on the JavaScript thread
  void end(const std::shared_ptr<Job>& job) noexcept;
  bool canRunJavaScript() const;

  Napi::Env env_;
  napi_threadsafe_function wake_ = nullptr;
  std::set<std::shared_ptr<Job>> jobs_;
  size_t queuedJobs_ = 0;  // of the compute lane; while there are any the event loop stays alive
  bool closed_ = false;
  std::mutex mutex_;
  std::deque<std::shared_ptr<Job>> finished_;
};

namespace detail {

template <typename Work, typename Result>
class LambdaJob final : public Job {
 public:
  LambdaJob(Work work, Result result) : work_(std::move(work)), result_(std::move(result)) {}

 private:
  using Outcome = std::invoke_result_t<Work>;
  void work() override {
    if constexpr (std::is_void_v<Outcome>) {
      work_();
    } else {
      outcome_.emplace(work_());
    }
  }
  Napi::Value result(Napi::Env env) override {
    if constexpr (std::is_void_v<Outcome>) {
      return result_(env);
    } else {
      return result_(env, std::move(*outcome_));
    }
  }

  Work work_;
  Result result_;
  std::optional<std::conditional_t<std::is_void_v<Outcome>, char, Outcome>> outcome_;
};

}  // namespace detail

/// A job whose promise resolves to `result(env, work())`, or `result(env)` when work() returns nothing.
template <typename Work, typename Result>
std::shared_ptr<Job> makeJob(Work work, Result result) {
  return std::make_shared<detail::LambdaJob<Work, Result>>(std::move(work), std::move(result));
}

template <typename Work, typename Result>
Napi::Promise startJob(Napi::Env env, JobOptions options, Work work, Result result) {
  return Environment::of(env).start(makeJob(std::move(work), std::move(result)), std::move(options));
}

/// The result of a job whose promise resolves to undefined.
inline Napi::Value nothing(Napi::Env env) { return env.Undefined(); }

}  // namespace duet::binding
