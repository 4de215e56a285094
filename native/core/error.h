// One error type for the whole native core: a code, a message that names the thing, what was
// expected, what came and what to do. The binding turns it into a JavaScript Error with `.code`.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace duet {

enum class Code {
  InvalidArgument,
  NotFound,
  Corrupt,
  Unsupported,
  Io,
  DiskFull,
  Cancelled,
  NotFinite,
  OutOfMemory,
  Internal,
};

/// The spelling JavaScript sees, e.g. "INVALID_ARGUMENT".
const char* codeName(Code code);

class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code(code) {}
  const Code code;
};

/// Concatenates anything that can be streamed.
template <typename... Parts>
std::string str(Parts&&... parts) {
  std::ostringstream out;
  (out << ... << std::forward<Parts>(parts));
  return out.str();
}

template <typename... Parts>
[[noreturn]] void fail(Code code, Parts&&... parts) {
  throw Error(code, str(std::forward<Parts>(parts)...));
}

/// Throws InvalidArgument with the given words unless `condition` holds.
template <typename... Parts>
void require(bool condition, Parts&&... parts) {
  if (!condition) fail(Code::InvalidArgument, std::forward<Parts>(parts)...);
}

}  // namespace duet
