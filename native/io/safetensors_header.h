// The JSON header of a safetensors file, strictly: what the format does not describe is refused.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors.h"

namespace duet {

/// The reference library's limit on the header's length.
constexpr size_t kMaxSafetensorsHeader = 100'000'000;

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the order of their bytes
  std::map<std::string, std::string> metadata;
};

/// Parses and checks a header whose data section has `dataBytes` bytes. Throws Corrupt naming `path`.
SafetensorsHeader parseSafetensorsHeader(const std::string& path, std::string_view json, size_t dataBytes);

/// The header for tensors in the given order, padded with spaces to a multiple of 8 bytes.
/// Throws InvalidArgument when a name or a metadata text is not valid UTF-8.
std::string formatSafetensorsHeader(const std::vector<SafetensorsEntry>& entries,
                                    const std::map<std::string, std::string>& metadata);

/// A name as it may be shown in a message: quoted, control characters escaped, cut at 80 bytes.
std::string shownName(std::string_view name);

}  // namespace duet
