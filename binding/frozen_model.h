// What the JavaScript classes of frozen networks (text encoders, the autoencoder) share: weights from files,
// jobs on the compute queue, cancel, dispose and the bytes that V8 is told of.
//
// `Network` has load(paths), parameterBytes() and arenaPeakBytes().
#pragma once

#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "binding/convert.h"
#include "binding/errors.h"
#include "binding/job.h"
#include "ops/device.h"

namespace duet::binding {

struct FrozenOptions {
  Device device;
  DType compute = DType::f32;
  int threads = 0;
};
/// Of { device?: string, compute?: 'fp32' | 'tf32' | 'bf16' }: where, and in what type activations are.
std::pair<Device, DType> toDeviceAndCompute(const Named& named);

/// { device?: string, compute?: 'fp32' | 'tf32' | 'bf16', threads?: number }
FrozenOptions toFrozenOptions(const Named& named);

template <typename Class, typename Network>
class FrozenModel : public Napi::ObjectWrap<Class> {
 public:
  explicit FrozenModel(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Class>(info) {}
  ~FrozenModel() override { reportMemory(0); }

  Napi::Value load(const Napi::CallbackInfo& info) {
    return guardPromise(info.Env(), [&] {
      std::vector<std::string> paths;
      for (const Named& path : toList(argument(info, 0, "paths"))) paths.push_back(toPath(path));
      return run(
          info, {}, [paths = std::move(paths)](Network& network) { network.load(paths); }, nothing);
    });
  }

  Napi::Value memory(const Napi::CallbackInfo& info) {
    return guard(info.Env(), [&]() -> Napi::Value {
      const auto object = Napi::Object::New(info.Env());
      const Shared& shared = *this->shared();
      object.Set("parameterBytes", Napi::Number::New(info.Env(), static_cast<double>(shared.parameterBytes)));
      object.Set("arenaPeakBytes", Napi::Number::New(info.Env(), static_cast<double>(shared.arenaPeakBytes)));
      return object;
    });
  }

  /// Every call of this model that has not settled rejects with CANCELLED.
  Napi::Value cancel(const Napi::CallbackInfo& info) {
    return guard(info.Env(), [&]() -> Napi::Value {
      for (Job* job : shared()->jobs) job->cancel();
      return info.Env().Undefined();
    });
  }

  /// Frees the memory, with the last job where some are under way.
  Napi::Value dispose(const Napi::CallbackInfo& info) {
    shared_.reset();
    reportMemory(0);
    return info.Env().Undefined();
  }

 protected:
  /// @param make gives the network
  template <typename Make>
  void start(const FrozenOptions& options, Make&& make) {
    const OnDevice scope(options.device);
    shared_ = std::make_shared<Shared>();
    shared_->device = options.device;
    shared_->network = make();
    shared_->threads = options.threads;
  }

  /// Runs `work(network)` as a job; the promise resolves to `result(env, outcome)`.
  template <typename Work, typename Result>
  Napi::Value run(const Napi::CallbackInfo& info, std::vector<Napi::Value> held, Work work, Result result) {
    const std::shared_ptr<Shared> shared = this->shared();
    held.push_back(info.This());  // `this` is there in `ended`
    const std::shared_ptr<Job> job = makeJob(
        [shared, work = std::move(work)] {
          const OnDevice scope(shared->device);
          struct Measure {
            Shared& shared;
            ~Measure() {
              shared.parameterBytes = shared.network->parameterBytes();
              shared.arenaPeakBytes = shared.network->arenaPeakBytes();
            }
          } measure{*shared};
          return work(*shared->network);
        },
        std::move(result));
    shared->jobs.insert(job.get());
    return Environment::of(info.Env())
        .start(
            job,
            {.threads = shared->threads, .held = std::move(held), .ended = [this, shared, job = job.get()] {
               shared->jobs.erase(job);
               if (shared_) reportMemory(shared->parameterBytes + shared->arenaPeakBytes);
             }});
  }

 private:
  /// Held by the JavaScript object and its jobs, so that dispose() in the middle of a job is safe.
  struct Shared {
    Device device;
    std::unique_ptr<Network> network;
    int threads = 0;
    std::set<Job*> jobs;  // on the JavaScript thread
    std::atomic<size_t> parameterBytes{0}, arenaPeakBytes{0};
  };

  const std::shared_ptr<Shared>& shared() const {
    require(shared_ != nullptr, "Expected a model in use but this one has been disposed; create a new one");
    return shared_;
  }

  void reportMemory(size_t bytes) {
    const auto now = static_cast<int64_t>(bytes);
    int64_t total;
    if (now != reportedBytes_) napi_adjust_external_memory(this->Env(), now - reportedBytes_, &total);
    reportedBytes_ = now;
  }

  std::shared_ptr<Shared> shared_;
  int64_t reportedBytes_ = 0;
};

}  // namespace duet::binding
