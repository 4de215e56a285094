#include "binding/errors.h"

#include <new>

namespace duet::binding {

namespace {

/// Names and paths in a message may be of any length.
std::string cut(std::string message) {
  constexpr size_t kLongest = 2000;
  if (message.size() <= kLongest) return message;
  size_t end = kLongest;
  while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xc0u) == 0x80u)
    --end;  // not inside a UTF-8 character
  return message.substr(0, end) + " ...";
}

}  // namespace

Failure currentFailure() {
  try {
    throw;
  } catch (const duet::Error& error) {
    return {codeName(error.code), cut(error.what())};
  } catch (const std::bad_alloc&) {
    return {codeName(Code::Internal),
            "Out of memory: use a smaller batch or model, or fewer models at a time"};
  } catch (const std::exception& error) {
    return {codeName(Code::Internal), cut(str("Unexpected error in the native core: ", error.what()))};
  } catch (...) {
    return {codeName(Code::Internal), "Unexpected error in the native core"};
  }
}

Napi::Error makeError(Napi::Env env, const Failure& failure) {
  Napi::Error error = Napi::Error::New(env, failure.message);
  error.Set("code", Napi::String::New(env, failure.code));
  return error;
}

void fillError(Napi::Object error, const Failure& failure) {
  const Napi::Env env = error.Env();
  error.Set("message", Napi::String::New(env, failure.message));
  error.Set("code", Napi::String::New(env, failure.code));
  // The first lines of the stack still show the empty message it was made with.
  const Napi::Value stack = error.Get("stack");
  if (!stack.IsString()) return;
  const std::string text = stack.As<Napi::String>().Utf8Value();
  const size_t frames = text.find("\n    at ");
  error.Set("stack", Napi::String::New(env, "Error: " + failure.message +
                                                (frames == std::string::npos ? "" : text.substr(frames))));
}

}  // namespace duet::binding
