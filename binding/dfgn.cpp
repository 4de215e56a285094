// Class Dfgn: duet::StickerSession for JavaScript. Calls that compute are jobs on the compute queue.
#include <atomic>
#include <set>

#include "binding/convert.h"
#include "binding/dfgn_options.h"
#include "binding/dfgn_results.h"
#include "binding/errors.h"
#include "binding/exports.h"
#include "binding/job.h"
#include "binding/vilt_options.h"

namespace duet::binding {

namespace {

/// Shared by the JavaScript object and its jobs, so that dispose() in the middle of a step is safe: the
/// memory goes with the last job.
struct Network {
  Network(const DfgnConfig& config, const ViltOptions& options)
      : device(options.device), session(config, options.runtime), threads(options.threads) {
    measure();
  }

  void measure() {
    const DfgnMemory now = session.memory();
    parameterBytes = now.parameterBytes;
    trainingBytes = now.trainingBytes;
    arenaPeakBytes = now.arenaPeakBytes;
  }

  const Device device;
  StickerSession session;
  const int threads;
  std::set<Job*> jobs;  // on the JavaScript thread
  std::atomic<size_t> parameterBytes{0}, trainingBytes{0}, arenaPeakBytes{0};
};

class Dfgn final : public Napi::ObjectWrap<Dfgn> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit Dfgn(const Napi::CallbackInfo& info);
  ~Dfgn() override { reportMemory(0); }

 private:
  Napi::Value parameters(const Napi::CallbackInfo& info);
  Napi::Value load(const Napi::CallbackInfo& info);
  Napi::Value save(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  Napi::Value write(const Napi::CallbackInfo& info);
  Napi::Value startTraining(const Napi::CallbackInfo& info);
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value evaluate(const Napi::CallbackInfo& info);
  Napi::Value gradients(const Napi::CallbackInfo& info);
  Napi::Value optimizerState(const Napi::CallbackInfo& info);
  Napi::Value setOptimizerState(const Napi::CallbackInfo& info);
  Napi::Value steps(const Napi::CallbackInfo& info);
  Napi::Value setSteps(const Napi::CallbackInfo& info);
  Napi::Value swapAverages(const Napi::CallbackInfo& info);
  Napi::Value predict(const Napi::CallbackInfo& info);
  Napi::Value trace(const Napi::CallbackInfo& info);
  Napi::Value differentiate(const Napi::CallbackInfo& info);
  Napi::Value memory(const Napi::CallbackInfo& info);
  Napi::Value memoryPlan(const Napi::CallbackInfo& info);
  Napi::Value cancel(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  using Method = Napi::Value (Dfgn::*)(const Napi::CallbackInfo&);
  template <Method method>
  Napi::Value safely(const Napi::CallbackInfo& info) {
    return guard(info.Env(), [&] { return (this->*method)(info); });
  }
  template <Method method>
  Napi::Value promising(const Napi::CallbackInfo& info) {
    return guardPromise(info.Env(), [&] { return (this->*method)(info); });
  }

  const std::shared_ptr<Network>& network() const {
    require(network_ != nullptr,
            "Expected a network in use but this one has been disposed; create a new one");
    return network_;
  }

  /// Runs `work(session)` as a job; the promise resolves to `result(env, outcome)`.
  template <typename Work, typename Result>
  Napi::Value run(const Napi::CallbackInfo& info, std::vector<Napi::Value> held, Work work, Result result);
  void reportMemory(size_t bytes);

  std::shared_ptr<Network> network_;
  int64_t reportedBytes_ = 0;
};

using SpansByName = std::map<std::string, std::span<const float>>;

SpansByName toSpansByName(const Named& named, std::vector<Napi::Value>& held) {
  const std::vector<Named> entries = toEntries(named);
  SpansByName spans;
  for (const Named& entry : entries) {
    spans[entry.name] = toFloats({entry.value, "'" + entry.name + "'"});
    held.push_back(entry.value);
  }
  return spans;
}

Napi::Function Dfgn::define(Napi::Env env) {
  return DefineClass(env, "Dfgn",
                     {
                         InstanceMethod<&Dfgn::safely<&Dfgn::parameters>>("parameters"),
                         InstanceMethod<&Dfgn::promising<&Dfgn::load>>("load"),
                         InstanceMethod<&Dfgn::promising<&Dfgn::save>>("save"),
                         InstanceMethod<&Dfgn::promising<&Dfgn::read>>("read"),
                         InstanceMethod<&Dfgn::promising<&Dfgn::write>>("write"),
                         InstanceMethod<&Dfgn::promising<&Dfgn::startTraining>>("startTraining"),
                         InstanceMethod<&Dfgn::promising<&Dfgn::step>>("step"),
                         InstanceMethod<&Dfgn::promising<&Dfgn::evaluate>>("evaluate"),
                         InstanceMethod<&Dfgn::promising<&Dfgn::gradients>>("gradients"),
                         InstanceMethod<&Dfgn::promising<&Dfgn::optimizerState>>("optimizerState"),
                         InstanceMethod<&Dfgn::promising<&Dfgn::setOptimizerState>>("setOptimizerState"),
                         InstanceMethod<&Dfgn::promising<&Dfgn::steps>>("steps"),
                         InstanceMethod<&Dfgn::promising<&Dfgn::setSteps>>("setSteps"),
                         InstanceMethod<&Dfgn::promising<&Dfgn::swapAverages>>("swapAverages"),
                         InstanceMethod<&Dfgn::promising<&Dfgn::predict>>("predict"),
                         InstanceMethod<&Dfgn::promising<&Dfgn::trace>>("trace"),
                         InstanceMethod<&Dfgn::promising<&Dfgn::differentiate>>("differentiate"),
                         InstanceMethod<&Dfgn::safely<&Dfgn::memory>>("memory"),
                         InstanceMethod<&Dfgn::promising<&Dfgn::memoryPlan>>("memoryPlan"),
                         InstanceMethod<&Dfgn::safely<&Dfgn::cancel>>("cancel"),
                         InstanceMethod<&Dfgn::safely<&Dfgn::dispose>>("dispose"),
                     });
}

Dfgn::Dfgn(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Dfgn>(info) {
  guard(info.Env(), [&]() -> Napi::Value {
    const DfgnConfig config = toDfgnConfig(argument(info, 0, "shape"));
    const ViltOptions options = toViltOptions(argument(info, 1, "options"));
    const OnDevice scope(options.device);
    network_ = std::make_shared<Network>(config, options);
    reportMemory(network_->parameterBytes);
    return info.Env().Undefined();
  });
}

template <typename Work, typename Result>
Napi::Value Dfgn::run(const Napi::CallbackInfo& info, std::vector<Napi::Value> held, Work work,
                      Result result) {
  const std::shared_ptr<Network> network = this->network();
  // The JavaScript object lives as long as the job, so `this` is there in `ended`.
  held.push_back(info.This());
  const std::shared_ptr<Job> job = makeJob(
      [network, work = std::move(work)] {
        const OnDevice scope(network->device);
        if constexpr (std::is_void_v<decltype(work(network->session))>) {
          work(network->session);
          network->measure();
        } else {
          auto outcome = work(network->session);
          network->measure();
          return outcome;
        }
      },
      std::move(result));
  network->jobs.insert(job.get());
  return Environment::of(info.Env())
      .start(
          job,
          {.threads = network->threads, .held = std::move(held), .ended = [this, network, job = job.get()] {
             network->jobs.erase(job);
             if (network_)
               reportMemory(network->parameterBytes + network->trainingBytes + network->arenaPeakBytes);
           }});
}

/// Tells V8 how much memory hangs on this small object, for its decisions when to collect.
void Dfgn::reportMemory(size_t bytes) {
  const auto now = static_cast<int64_t>(bytes);
  int64_t total;
  if (now != reportedBytes_) napi_adjust_external_memory(Env(), now - reportedBytes_, &total);
  reportedBytes_ = now;
}

Napi::Value Dfgn::parameters(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto list = Napi::Array::New(env);
  for (const ParameterInfo& parameter : network()->session.parameters()) {
    const auto object = Napi::Object::New(env);
    object.Set("name", Napi::String::New(env, parameter.name));
    object.Set("shape", fromNumbers(env, parameter.shape.vector()));
    list.Set(list.Length(), object);
  }
  return list;
}

Napi::Value Dfgn::load(const Napi::CallbackInfo& info) {
  return run(
      info, {},
      [path = toPath(argument(info, 0, "path")),
       part = toPart(argument(info, 1, "part"))](StickerSession& session) { session.load(path, part); },
      nothing);
}

Napi::Value Dfgn::save(const Napi::CallbackInfo& info) {
  return run(
      info, {},
      [path = toPath(argument(info, 0, "path")),
       part = toPart(argument(info, 1, "part"))](StickerSession& session) { session.save(path, part); },
      nothing);
}

Napi::Value Dfgn::read(const Napi::CallbackInfo& info) {
  std::vector<std::string> names;
  for (const Named& name : toList(argument(info, 0, "names"))) names.push_back(toText(name));
  return run(
      info, {}, [names = std::move(names)](StickerSession& session) { return session.read(names); },
      fromFloatsByName);
}

Napi::Value Dfgn::write(const Napi::CallbackInfo& info) {
  std::vector<Napi::Value> held;
  SpansByName values = toSpansByName(argument(info, 0, "values"), held);
  return run(
      info, std::move(held), [values = std::move(values)](StickerSession& session) { session.write(values); },
      nothing);
}

Napi::Value Dfgn::startTraining(const Napi::CallbackInfo& info) {
  return run(
      info, {},
      [options = toDenoisingOptions(argument(info, 0, "options"))](StickerSession& session) {
        session.startTraining(options);
      },
      nothing);
}

Napi::Value Dfgn::step(const Napi::CallbackInfo& info) {
  std::vector<Napi::Value> held;
  std::vector<DenoisingInput> inputs = toDenoisingInputs(toList(argument(info, 0, "batches")), held);
  return run(
      info, std::move(held),
      [inputs = std::move(inputs)](StickerSession& session) {
        std::vector<DenoisingBatch> batches;
        for (const DenoisingInput& input : inputs) batches.push_back(input.view());
        return session.step(batches);
      },
      fromResult);
}

Napi::Value Dfgn::evaluate(const Napi::CallbackInfo& info) {
  std::vector<Napi::Value> held;
  DenoisingInput input = std::move(toDenoisingInputs({argument(info, 0, "batch")}, held).front());
  const int64_t drawStep = toInteger(argument(info, 1, "drawStep"), 0, int64_t{1} << 40);
  return run(
      info, std::move(held),
      [input = std::move(input), drawStep](StickerSession& session) {
        return session.evaluate(input.view(), drawStep);
      },
      fromResult);
}

Napi::Value Dfgn::gradients(const Napi::CallbackInfo& info) {
  return run(
      info, {}, [](StickerSession& session) { return session.gradients(); }, fromFloatsByName);
}

Napi::Value Dfgn::optimizerState(const Napi::CallbackInfo& info) {
  return run(
      info, {}, [](StickerSession& session) { return session.optimizerState(); }, fromFloatsByName);
}

Napi::Value Dfgn::setOptimizerState(const Napi::CallbackInfo& info) {
  std::vector<Napi::Value> held;
  SpansByName state = toSpansByName(argument(info, 0, "state"), held);
  return run(
      info, std::move(held),
      [state = std::move(state)](StickerSession& session) { session.setOptimizerState(state); }, nothing);
}

Napi::Value Dfgn::steps(const Napi::CallbackInfo& info) {
  return run(
      info, {}, [](StickerSession& session) { return session.steps(); },
      [](Napi::Env env, int64_t steps) -> Napi::Value {
        return Napi::Number::New(env, static_cast<double>(steps));
      });
}

Napi::Value Dfgn::setSteps(const Napi::CallbackInfo& info) {
  return run(
      info, {},
      [steps = toInteger(argument(info, 0, "steps"), 0, int64_t{1} << 40)](StickerSession& session) {
        session.setSteps(steps);
      },
      nothing);
}

Napi::Value Dfgn::swapAverages(const Napi::CallbackInfo& info) {
  return run(
      info, {}, [](StickerSession& session) { session.swapAverages(); }, nothing);
}

Napi::Value Dfgn::predict(const Napi::CallbackInfo& info) {
  std::vector<Napi::Value> held;
  PredictionInput input = toPredictionInput(argument(info, 0, "batch"), held);
  const Named scale = argument(info, 1, "guidance");
  const bool guided = scale.given();
  const float guidance = guided ? static_cast<float>(toNumber(scale, -1e6, 1e6)) : 0.0f;
  return run(
      info, std::move(held),
      [input = std::move(input), guided, guidance](StickerSession& session) {
        return session.predict(input.view(), guided ? &guidance : nullptr);
      },
      fromFloats);
}

Napi::Value Dfgn::trace(const Napi::CallbackInfo& info) {
  std::vector<Napi::Value> held;
  PredictionInput input = toPredictionInput(argument(info, 0, "batch"), held);
  return run(
      info, std::move(held),
      [input = std::move(input)](StickerSession& session) { return session.trace(input.view()); }, fromTrace);
}

Napi::Value Dfgn::differentiate(const Napi::CallbackInfo& info) {
  std::vector<Napi::Value> held;
  PredictionInput input = toPredictionInput(argument(info, 0, "batch"), held);
  const Named wanted = argument(info, 1, "target");
  const std::span<const float> target = toFloats(wanted);
  held.push_back(wanted.value);
  const Named option = argument(info, 2, "checkpoint");
  const bool checkpoint = option.given() && toBoolean(option);
  return run(
      info, std::move(held),
      [input = std::move(input), target, checkpoint](StickerSession& session) {
        return session.differentiate(input.view(), target, checkpoint);
      },
      fromDifferentiated);
}

Napi::Value Dfgn::memory(const Napi::CallbackInfo& info) {
  const auto object = Napi::Object::New(info.Env());
  const auto set = [&](const char* key, size_t bytes) {
    object.Set(key, Napi::Number::New(info.Env(), static_cast<double>(bytes)));
  };
  set("parameterBytes", network()->parameterBytes);
  set("trainingBytes", network()->trainingBytes);
  set("arenaPeakBytes", network()->arenaPeakBytes);
  return object;
}

Napi::Value Dfgn::memoryPlan(const Napi::CallbackInfo& info) {
  return run(
      info, {},
      [step = toPlannedStep(argument(info, 0, "step"))](StickerSession& session) {
        return session.memoryPlan(step);
      },
      fromPlan);
}

/// Every call of this network that has not settled rejects with CANCELLED; a running step stops between ops.
Napi::Value Dfgn::cancel(const Napi::CallbackInfo& info) {
  for (Job* job : network()->jobs) job->cancel();
  return info.Env().Undefined();
}

Napi::Value Dfgn::dispose(const Napi::CallbackInfo& info) {
  network_.reset();
  reportMemory(0);
  return info.Env().Undefined();
}

}  // namespace

Napi::Function defineDfgn(Napi::Env env) { return Dfgn::define(env); }

}  // namespace duet::binding
