#include "core/error.h"

namespace duet {

const char* codeName(Code code) {
  switch (code) {
    case Code::InvalidArgument:
      return "INVALID_ARGUMENT";
    case Code::NotFound:
      return "NOT_FOUND";
    case Code::Corrupt:
      return "CORRUPT";
    case Code::Unsupported:
      return "UNSUPPORTED";
    case Code::Io:
      return "IO";
    case Code::DiskFull:
      return "DISK_FULL";
    case Code::Cancelled:
      return "CANCELLED";
    case Code::NotFinite:
      return "NOT_FINITE";
    case Code::OutOfMemory:
      return "OUT_OF_MEMORY";
    case Code::Internal:
      return "INTERNAL";
  }
  return "INTERNAL";
}

}  // namespace duet
