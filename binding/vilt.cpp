// Class Vilt: duet::Session for JavaScript. Calls that compute are jobs on the compute queue; the few
// that only add parameters run at once, and only while no job of the model is under way.
#include <atomic>
#include <set>

#include "binding/convert.h"
#include "binding/errors.h"
#include "binding/exports.h"
#include "binding/job.h"
#include "binding/vilt_options.h"

namespace duet::binding {

namespace {

/// Shared by the JavaScript object and its jobs, so that dispose() in the middle of a step is safe: the
/// memory goes with the last job.
struct Model {
  Model(const ViltConfig& config, const ViltOptions& options)
      : device(options.device), session(config, options.runtime), threads(options.threads) {
    measure();
  }

  void measure() {
    parameterBytes = session.parameterBytes();
    arenaPeakBytes = session.arenaPeakBytes();
  }

  const Device device;
  Session session;
  const int threads;
  std::set<Job*> jobs;  // on the JavaScript thread
  std::atomic<size_t> parameterBytes{0}, arenaPeakBytes{0};
};

class Vilt final : public Napi::ObjectWrap<Vilt> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit Vilt(const Napi::CallbackInfo& info);
  ~Vilt() override { reportMemory(0); }

 private:
  Napi::Value parameters(const Napi::CallbackInfo& info);
  Napi::Value load(const Napi::CallbackInfo& info);
  Napi::Value addAdapters(const Napi::CallbackInfo& info);
  Napi::Value addHead(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  Napi::Value write(const Napi::CallbackInfo& info);
  Napi::Value startTraining(const Napi::CallbackInfo& info);
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value gradients(const Napi::CallbackInfo& info);
  Napi::Value optimizerState(const Napi::CallbackInfo& info);
  Napi::Value setOptimizerState(const Napi::CallbackInfo& info);
  Napi::Value evaluate(const Napi::CallbackInfo& info);
  Napi::Value hiddenStates(const Napi::CallbackInfo& info);
  Napi::Value memory(const Napi::CallbackInfo& info);
  Napi::Value cancel(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  using Method = Napi::Value (Vilt::*)(const Napi::CallbackInfo&);
  template <Method method>
  Napi::Value safely(const Napi::CallbackInfo& info) {
    return guard(info.Env(), [&] { return (this->*method)(info); });
  }
  template <Method method>
  Napi::Value promising(const Napi::CallbackInfo& info) {
    return guardPromise(info.Env(), [&] { return (this->*method)(info); });
  }

  const std::shared_ptr<Model>& model() const {
    require(model_ != nullptr, "Expected a model in use but this one has been disposed; create a new one");
    return model_;
  }
  /// For calls that must not meet a running job.
  Model& idleModel(const char* call) const {
    Model& found = *model();
    require(found.jobs.empty(), "Expected no work under way for ", call, " but ", found.jobs.size(),
            " calls of this model have not settled; await them first");
    return found;
  }

  /// Runs `work(session)` as a job; the promise resolves to `result(env, outcome)`.
  template <typename Work, typename Result>
  Napi::Value run(const Napi::CallbackInfo& info, std::vector<Napi::Value> held, Work work, Result result);
  void reportMemory(size_t bytes);

  std::shared_ptr<Model> model_;
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

Napi::Value fromStepResult(Napi::Env env, StepResult result) {
  const auto object = Napi::Object::New(env);
  const auto set = [env](Napi::Object target, const char* key, double value) {
    target.Set(key, Napi::Number::New(env, value));
  };
  set(object, "loss", result.loss);
  const auto rates = Napi::Array::New(env, result.learningRates.size());
  for (size_t i = 0; i < result.learningRates.size(); ++i) {
    rates.Set(static_cast<uint32_t>(i), Napi::Number::New(env, result.learningRates[i]));
  }
  object.Set("learningRates", rates);
  if (result.feddat) {
    const auto losses = Napi::Object::New(env);
    set(losses, "bce1", result.feddat->bce1);
    set(losses, "kl1", result.feddat->kl1);
    set(losses, "loss1", result.feddat->loss1);
    set(losses, "bce0", result.feddat->bce0);
    set(losses, "kl0", result.feddat->kl0);
    set(losses, "loss0", result.feddat->loss0);
    object.Set("feddat", losses);
  }
  if (result.bce) set(object, "bce", *result.bce);
  if (result.gradNorm) set(object, "gradNorm", *result.gradNorm);
  set(object, "correct", result.correct);
  const auto keep = [&](const char* key, std::vector<float>& values) {
    if (!values.empty()) object.Set(key, fromFloats(env, std::move(values)));
  };
  keep("logitsAll", result.logitsAll);
  keep("logits1", result.logits1);
  keep("logits0", result.logits0);
  keep("pooledAll", result.pooledAll);
  keep("pooled1", result.pooled1);
  keep("pooled0", result.pooled0);
  return object;
}

/// HiddenStates in memory of its own.
struct HostHiddenStates {
  std::vector<HostTensor> hiddenStates;
  HostTensor lastHiddenState, poolerOutput, attentionMask, patchIndex;

  explicit HostHiddenStates(const HiddenStates& from)
      : lastHiddenState(HostTensor::copyOf(from.lastHiddenState)),
        poolerOutput(HostTensor::copyOf(from.poolerOutput)),
        attentionMask(HostTensor::copyOf(from.attentionMask)),
        patchIndex(HostTensor::copyOf(from.patchIndex)) {
    for (const Tensor& state : from.hiddenStates) hiddenStates.push_back(HostTensor::copyOf(state));
  }
};

Napi::Value fromHiddenStates(Napi::Env env, HostHiddenStates states) {
  const auto layers = Napi::Array::New(env, states.hiddenStates.size());
  for (size_t i = 0; i < states.hiddenStates.size(); ++i) {
    layers.Set(static_cast<uint32_t>(i), fromHostTensor(env, std::move(states.hiddenStates[i])));
  }
  const auto object = Napi::Object::New(env);
  object.Set("hiddenStates", layers);
  object.Set("lastHiddenState", fromHostTensor(env, std::move(states.lastHiddenState)));
  object.Set("poolerOutput", fromHostTensor(env, std::move(states.poolerOutput)));
  object.Set("attentionMask", fromHostTensor(env, std::move(states.attentionMask)));
  object.Set("patchIndex", fromHostTensor(env, std::move(states.patchIndex)));
  return object;
}

Napi::Function Vilt::define(Napi::Env env) {
  return DefineClass(env, "Vilt",
                     {
                         InstanceMethod<&Vilt::safely<&Vilt::parameters>>("parameters"),
                         InstanceMethod<&Vilt::promising<&Vilt::load>>("load"),
                         InstanceMethod<&Vilt::safely<&Vilt::addAdapters>>("addAdapters"),
                         InstanceMethod<&Vilt::safely<&Vilt::addHead>>("addHead"),
                         InstanceMethod<&Vilt::promising<&Vilt::read>>("read"),
                         InstanceMethod<&Vilt::promising<&Vilt::write>>("write"),
                         InstanceMethod<&Vilt::promising<&Vilt::startTraining>>("startTraining"),
                         InstanceMethod<&Vilt::promising<&Vilt::step>>("step"),
                         InstanceMethod<&Vilt::promising<&Vilt::gradients>>("gradients"),
                         InstanceMethod<&Vilt::promising<&Vilt::optimizerState>>("optimizerState"),
                         InstanceMethod<&Vilt::promising<&Vilt::setOptimizerState>>("setOptimizerState"),
                         InstanceMethod<&Vilt::promising<&Vilt::evaluate>>("evaluate"),
                         InstanceMethod<&Vilt::promising<&Vilt::hiddenStates>>("hiddenStates"),
                         InstanceMethod<&Vilt::safely<&Vilt::memory>>("memory"),
                         InstanceMethod<&Vilt::safely<&Vilt::cancel>>("cancel"),
                         InstanceMethod<&Vilt::safely<&Vilt::dispose>>("dispose"),
                     });
}

Vilt::Vilt(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Vilt>(info) {
  guard(info.Env(), [&]() -> Napi::Value {
    const ViltConfig config = toViltConfig(argument(info, 0, "shape"));
    const ViltOptions options = toViltOptions(argument(info, 1, "options"));
    const OnDevice scope(options.device);
    model_ = std::make_shared<Model>(config, options);
    reportMemory(model_->parameterBytes);
    return info.Env().Undefined();
  });
}

template <typename Work, typename Result>
Napi::Value Vilt::run(const Napi::CallbackInfo& info, std::vector<Napi::Value> held, Work work,
                      Result result) {
  const std::shared_ptr<Model> model = this->model();
  // The JavaScript object lives as long as the job, so `this` is there in `ended`.
  held.push_back(info.This());
  const std::shared_ptr<Job> job = makeJob(
      [model, work = std::move(work)] {
        const OnDevice scope(model->device);
        if constexpr (std::is_void_v<decltype(work(model->session))>) {
          work(model->session);
          model->measure();
        } else {
          auto outcome = work(model->session);
          model->measure();
          return outcome;
        }
      },
      std::move(result));
  model->jobs.insert(job.get());
  return Environment::of(info.Env())
      .start(job,
             {.threads = model->threads, .held = std::move(held), .ended = [this, model, job = job.get()] {
                model->jobs.erase(job);
                if (model_) reportMemory(model->parameterBytes + model->arenaPeakBytes);
              }});
}

/// Tells V8 how much memory hangs on this small object, for its decisions when to collect.
void Vilt::reportMemory(size_t bytes) {
  const auto now = static_cast<int64_t>(bytes);
  int64_t total;
  if (now != reportedBytes_) napi_adjust_external_memory(Env(), now - reportedBytes_, &total);
  reportedBytes_ = now;
}

Napi::Value Vilt::parameters(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto list = Napi::Array::New(env);
  for (const ParameterInfo& parameter : model()->session.parameters()) {
    const auto shape = Napi::Array::New(env, static_cast<size_t>(parameter.shape.rank()));
    for (int axis = 0; axis < parameter.shape.rank(); ++axis) {
      shape.Set(static_cast<uint32_t>(axis),
                Napi::Number::New(env, static_cast<double>(parameter.shape[axis])));
    }
    const auto object = Napi::Object::New(env);
    object.Set("name", Napi::String::New(env, parameter.name));
    object.Set("shape", shape);
    list.Set(list.Length(), object);
  }
  return list;
}

Napi::Value Vilt::load(const Napi::CallbackInfo& info) {
  return run(
      info, {}, [path = toPath(argument(info, 0, "path"))](Session& session) { session.load(path); },
      nothing);
}

Napi::Value Vilt::addAdapters(const Napi::CallbackInfo& info) {
  const int64_t reduction = toInteger(argument(info, 0, "reduction"), 1, int64_t{1} << 20);
  const uint64_t seed = toSeed(argument(info, 1, "seed"));
  Model& model = idleModel("addAdapters");
  const OnDevice scope(model.device);
  model.session.addAdapters(reduction, seed);
  model.measure();
  return info.Env().Undefined();
}

Napi::Value Vilt::addHead(const Napi::CallbackInfo& info) {
  const std::string task = toText(argument(info, 0, "task"));
  const int64_t classes = toInteger(argument(info, 1, "classes"), 1, int64_t{1} << 24);
  const uint64_t seed = toSeed(argument(info, 2, "seed"));
  Model& model = idleModel("addHead");
  const OnDevice scope(model.device);
  model.session.addHead(task, classes, seed);
  model.measure();
  return info.Env().Undefined();
}

Napi::Value Vilt::read(const Napi::CallbackInfo& info) {
  std::vector<std::string> names;
  for (const Named& name : toList(argument(info, 0, "names"))) names.push_back(toText(name));
  return run(
      info, {}, [names = std::move(names)](Session& session) { return session.read(names); },
      fromFloatsByName);
}

Napi::Value Vilt::write(const Napi::CallbackInfo& info) {
  std::vector<Napi::Value> held;
  SpansByName values = toSpansByName(argument(info, 0, "values"), held);
  return run(
      info, std::move(held), [values = std::move(values)](Session& session) { session.write(values); },
      nothing);
}

Napi::Value Vilt::startTraining(const Napi::CallbackInfo& info) {
  return run(
      info, {},
      [options = toTrainingOptions(argument(info, 0, "options"))](Session& session) {
        session.startTraining(options);
      },
      nothing);
}

Napi::Value Vilt::step(const Napi::CallbackInfo& info) {
  BatchInput batch = toBatch(argument(info, 0, "batch"));
  std::vector<Napi::Value> held = std::move(batch.held);
  return run(
      info, std::move(held),
      [batch = std::move(batch)](Session& session) { return session.step(batch.view()); }, fromStepResult);
}

Napi::Value Vilt::gradients(const Napi::CallbackInfo& info) {
  return run(
      info, {}, [](Session& session) { return session.gradients(); }, fromFloatsByName);
}

Napi::Value Vilt::optimizerState(const Napi::CallbackInfo& info) {
  return run(
      info, {}, [](Session& session) { return session.optimizerState(); }, fromFloatsByName);
}

Napi::Value Vilt::setOptimizerState(const Napi::CallbackInfo& info) {
  std::vector<Napi::Value> held;
  SpansByName state = toSpansByName(argument(info, 0, "state"), held);
  return run(
      info, std::move(held),
      [state = std::move(state)](Session& session) { session.setOptimizerState(state); }, nothing);
}

Napi::Value Vilt::evaluate(const Napi::CallbackInfo& info) {
  BatchInput batch = toBatch(argument(info, 0, "batch"));
  std::string task = toText(argument(info, 1, "task"));
  const AdapterMode mode = toAdapterMode(argument(info, 2, "mode"));
  std::vector<Napi::Value> held = std::move(batch.held);
  return run(
      info, std::move(held),
      [batch = std::move(batch), task = std::move(task), mode](Session& session) {
        return session.evaluate(batch.view(), task, mode);
      },
      fromFloats);
}

Napi::Value Vilt::hiddenStates(const Napi::CallbackInfo& info) {
  BatchInput batch = toBatch(argument(info, 0, "batch"));
  const AdapterMode mode = toAdapterMode(argument(info, 1, "mode"));
  std::vector<Napi::Value> held = std::move(batch.held);
  return run(
      info, std::move(held),
      [batch = std::move(batch), mode](Session& session) {
        return HostHiddenStates(session.hiddenStates(batch.view(), mode));
      },
      fromHiddenStates);
}

Napi::Value Vilt::memory(const Napi::CallbackInfo& info) {
  const auto object = Napi::Object::New(info.Env());
  object.Set("parameterBytes", Napi::Number::New(info.Env(), static_cast<double>(model()->parameterBytes)));
  object.Set("arenaPeakBytes", Napi::Number::New(info.Env(), static_cast<double>(model()->arenaPeakBytes)));
  return object;
}

/// Every call of this model that has not settled rejects with CANCELLED; a running step stops between ops.
Napi::Value Vilt::cancel(const Napi::CallbackInfo& info) {
  for (Job* job : model()->jobs) job->cancel();
  return info.Env().Undefined();
}

Napi::Value Vilt::dispose(const Napi::CallbackInfo& info) {
  model_.reset();
  reportMemory(0);
  return info.Env().Undefined();
}

}  // namespace

Napi::Function defineVilt(Napi::Env env) { return Vilt::define(env); }

}  // namespace duet::binding
