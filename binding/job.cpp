#include "binding/job.h"

#include "core/cancel.h"

namespace duet::binding {

namespace {

[[noreturn]] void failEnding() {
  fail(Code::Cancelled, "The work was cancelled because the process is ending");
}

}  // namespace

void Job::execute() noexcept {
  const std::atomic<bool>* before = std::exchange(cancelFlag, &queued_->cancelled);
  try {
    cancelPoint();
    work();
  } catch (...) {
    failure_ = currentFailure();
  }
  cancelFlag = before;
}

void Job::settle(Napi::Env env) noexcept {
  try {
    const Napi::HandleScope scope(env);
    if (!failure_) {
      try {
        deferred_->Resolve(result(env));
        return;
      } catch (const Napi::Error& error) {
        deferred_->Reject(error.Value());
        return;
      } catch (...) {
        failure_ = currentFailure();
      }
    }
    const Napi::Object error = held_.Value().Get(0u).As<Napi::Object>();
    fillError(error, *failure_);
    deferred_->Reject(error);
  } catch (...) {
    // Only an environment that has begun to end refuses these calls; nobody waits for the promise.
  }
}

void Environment::install(Napi::Env env) { env.SetInstanceData(new Environment(env)); }

Environment::Environment(Napi::Env env) : env_(env) {
  const auto check = [env](napi_status status) {
    if (status != napi_ok) throw Napi::Error::New(env);
  };
  const auto wake = [](napi_env env, napi_value, void* context, void*) {
    if (env) static_cast<Environment*>(context)->deliver();
  };
  check(napi_create_threadsafe_function(env, nullptr, nullptr, Napi::String::New(env, "duet"), 0, 1, nullptr,
                                        nullptr, this, wake, &wake_));
  check(napi_unref_threadsafe_function(env, wake_));
  // Hooks run last one first: this one before the thread-safe function's own.
  check(napi_add_env_cleanup_hook(
      env, [](void* data) { static_cast<Environment*>(data)->close(); }, this));
  // process.exit() on the main thread runs no hook, but it emits 'exit' first.
  const Napi::Value process = env.Global().Get("process");
  const Napi::Value listen =
      process.IsObject() ? process.As<Napi::Object>().Get("prependOnceListener") : process;
  if (listen.IsFunction()) {
    const auto close = Napi::Function::New(
        env, [](const Napi::CallbackInfo& info) { Environment::of(info.Env()).close(); }, "duetExit");
    listen.As<Napi::Function>().Call(process, {Napi::String::New(env, "exit"), close});
  }
}

Napi::Promise Environment::start(std::shared_ptr<Job> job, JobOptions options) {
  jobs_.insert(job);
  job->ended_ = std::move(options.ended);
  try {
    const Napi::Array holding = Napi::Array::New(env_, options.held.size() + 1);
    holding.Set(0u, Napi::Error::New(env_, "").Value());  // made here, for the caller's stack
    for (size_t i = 0; i < options.held.size(); ++i)
      holding.Set(static_cast<uint32_t>(i + 1), options.held[i]);
    job->held_ = Napi::Persistent(holding.As<Napi::Object>());
    if (closed_) failEnding();
    job->deferred_.emplace(Napi::Promise::Deferred::New(env_));
    const Napi::Promise promise = job->deferred_->Promise();
    if (options.lane == Lane::files) {
      startFileWork(job);
    } else {
      startComputeWork(job, options.threads);
    }
    return promise;
  } catch (...) {
    end(job);
    throw;
  }
}

void Environment::startComputeWork(const std::shared_ptr<Job>& job, int threads) {
  job->queued_->owner = this;
  job->queued_->threads = threads;
  // jobs_ keeps the job; it is let go of here, on the JavaScript thread, never on another one.
  job->queued_->run = [this, running = job.get()] {
    running->execute();
    finished(running->shared_from_this());
  };
  if (!ComputeQueue::instance().push(job->queued_)) failEnding();
  if (queuedJobs_++ == 0) napi_ref_threadsafe_function(env_, wake_);
}

void Environment::startFileWork(const std::shared_ptr<Job>& job) {
  const auto execute = [](napi_env, void* data) { static_cast<Job*>(data)->execute(); };
  const auto complete = [](napi_env rawEnv, napi_status status, void* data) {
    const Napi::Env env(rawEnv);
    Environment& environment = Environment::of(env);
    const std::shared_ptr<Job> job = static_cast<Job*>(data)->shared_from_this();
    napi_delete_async_work(env, std::exchange(job->asyncWork_, nullptr));
    if (status == napi_ok && !environment.closed_ && environment.canRunJavaScript()) job->settle(env);
    environment.end(job);
  };
  napi_status status = napi_create_async_work(env_, nullptr, Napi::String::New(env_, "duet"), execute,
                                              complete, job.get(), &job->asyncWork_);
  if (status == napi_ok) status = napi_queue_async_work(env_, job->asyncWork_);
  if (status != napi_ok) throw Napi::Error::New(env_);
}

void Environment::finished(std::shared_ptr<Job> job) {
  {
    std::lock_guard lock(mutex_);
    finished_.push_back(std::move(job));
  }
  napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
}

void Environment::deliver() {
  for (;;) {
    std::shared_ptr<Job> job;
    {
      std::lock_guard lock(mutex_);
      if (closed_ || finished_.empty()) return;
      job = std::move(finished_.front());
      finished_.pop_front();
    }
    if (canRunJavaScript()) job->settle(env_);
    end(job);
    if (--queuedJobs_ == 0) napi_unref_threadsafe_function(env_, wake_);
  }
}

void Environment::end(const std::shared_ptr<Job>& job) noexcept {
  try {
    const Napi::HandleScope scope(env_);
    if (job->ended_) job->ended_();
    job->held_.Reset();
  } catch (...) {
  }
  jobs_.erase(job);
}

void Environment::close() noexcept {
  if (closed_) return;
  closed_ = true;
  ComputeQueue::instance().stop(this);
  // Work on libuv's pool is Node's to wait for; it ends in `complete`.
  for (auto next = jobs_.begin(); next != jobs_.end();) {
    const std::shared_ptr<Job> job = *next++;
    if (!job->asyncWork_) end(job);
  }
  finished_.clear();
}

bool Environment::canRunJavaScript() const {
  napi_value global, object;
  return napi_get_global(env_, &global) == napi_ok &&
         napi_get_named_property(env_, global, "Object", &object) == napi_ok;
}

}  // namespace duet::binding
