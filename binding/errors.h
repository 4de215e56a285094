// From native errors to JavaScript ones: an Error with `.code` and the caller's stack. No exception of
// any kind leaves a native function in another form.
#pragma once

#include <exception>
#include <string>

#include "binding/napi_setup.h"
#include "core/error.h"

namespace duet::binding {

/// What went wrong on another thread, to be told on the JavaScript thread.
struct Failure {
  std::string code;
  std::string message;
};

/// Describes the exception being handled; call inside a catch block. Napi::Error is not its business.
Failure currentFailure();

/// An Error whose stack is the current JavaScript stack.
Napi::Error makeError(Napi::Env env, const Failure& failure);

/// Gives `error`, which was made when the work was asked for, the message and code of what came of it.
void fillError(Napi::Object error, const Failure& failure);

/// Runs the body of a synchronous function.
template <typename Body>
Napi::Value guard(Napi::Env env, Body&& body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw makeError(env, currentFailure());
  }
}

/// Runs the body of a function that returns a promise: what is thrown rejects it.
template <typename Body>
Napi::Value guardPromise(Napi::Env env, Body&& body) {
  const auto rejected = [env](Napi::Value error) -> Napi::Value {
    const auto deferred = Napi::Promise::Deferred::New(env);
    deferred.Reject(error);
    return deferred.Promise();
  };
  try {
    return body();
  } catch (const Napi::Error& error) {
    return rejected(error.Value());
  } catch (...) {
    return rejected(makeError(env, currentFailure()).Value());
  }
}

using Function = Napi::Value (*)(const Napi::CallbackInfo&);

template <Function function>
Napi::Value safely(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] { return function(info); });
}

template <Function function>
Napi::Value promising(const Napi::CallbackInfo& info) {
  return guardPromise(info.Env(), [&] { return function(info); });
}

}  // namespace duet::binding
