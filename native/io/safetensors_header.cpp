// The header is read event by event, so that duplicate names are seen and nothing deeper than the
// format's own three levels is ever entered.
#include "io/safetensors_header.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

namespace duet {

namespace {

using nlohmann::json;

constexpr const char* kMetadata = "__metadata__";

/// Bits of one element, or 0 when the format has no such data type.
size_t bitsOf(const std::string& dtype) {
  static const std::map<std::string, size_t> bits{
      {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"BOOL", 8}, {"U8", 8},   {"I8", 8},    {"F8_E5M2", 8},
      {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},    {"U16", 16}, {"F16", 16}, {"BF16", 16}, {"I32", 32},
      {"U32", 32},    {"F32", 32},    {"F64", 64},    {"I64", 64}, {"U64", 64}, {"C64", 64}};
  const auto found = bits.find(dtype);
  return found == bits.end() ? 0 : found->second;
}

struct HeaderReader final : json::json_sax_t {
  explicit HeaderReader(const std::string& path) : path(path) {}

  // Where the reader is: which value it expects next.
  enum class Place { document, top, tensor, metadata, shape, offsets, done };

  const std::string& path;
  SafetensorsHeader header;
  Place place = Place::document;
  std::set<std::string> names;
  std::string topKey, fieldKey;
  SafetensorsEntry entry;
  bool hasDtype = false, hasShape = false;
  std::vector<uint64_t> offsets;
  bool hasOffsets = false;

  template <typename... Parts>
  [[noreturn]] void corrupt(Parts&&... parts) const {
    fail(Code::Corrupt, "The header of ", path, " is not valid: ", std::forward<Parts>(parts)...);
  }

  bool start_object(std::size_t) override {
    if (place == Place::document) {
      place = Place::top;
    } else if (place == Place::top) {
      place = topKey == kMetadata ? Place::metadata : Place::tensor;
      entry = {};
      entry.name = topKey;
      hasDtype = hasShape = hasOffsets = false;
      offsets.clear();
      fieldKey.clear();
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(string_t& name) override {
    if (place == Place::top) {
      if (!names.insert(name).second) corrupt("tensor ", shownName(name), " appears twice");
      topKey = name;
    } else {
      if (place == Place::tensor && name != "dtype" && name != "shape" && name != "data_offsets") {
        corrupt("expected only dtype, shape and data_offsets for tensor ", shownName(topKey),
                " but received ", shownName(name));
      }
      const bool twice = place == Place::metadata
                             ? header.metadata.count(name) != 0
                             : (name == "dtype" && hasDtype) || (name == "shape" && hasShape) ||
                                   (name == "data_offsets" && hasOffsets);
      if (twice) corrupt("key ", shownName(name), " of ", shownName(topKey), " appears twice");
      fieldKey = name;
    }
    return true;
  }

  bool end_object() override {
    if (place == Place::tensor) {
      if (!hasDtype || !hasShape || !hasOffsets) {
        corrupt("tensor ", shownName(topKey), " has no ",
                !hasDtype ? "dtype" : (!hasShape ? "shape" : "data_offsets"));
      }
      finishTensor();
      place = Place::top;
    } else if (place == Place::metadata) {
      place = Place::top;
    } else {
      place = Place::done;
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (place == Place::tensor && fieldKey == "shape") {
      hasShape = true;
      place = Place::shape;
    } else if (place == Place::tensor && fieldKey == "data_offsets") {
      hasOffsets = true;
      place = Place::offsets;
    } else {
      unexpected("an array");
    }
    return true;
  }

  bool end_array() override {
    if (place == Place::offsets && offsets.size() != 2) {
      corrupt("expected two data_offsets for tensor ", shownName(topKey), " but received ", offsets.size());
    }
    place = Place::tensor;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place == Place::shape) {
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        corrupt("dimension ", value, " of tensor ", shownName(topKey), " is too large");
      }
      entry.shape.push_back(static_cast<int64_t>(value));
    } else if (place == Place::offsets) {
      if (offsets.size() == 2)
        corrupt("expected two data_offsets for tensor ", shownName(topKey), " but received more");
      offsets.push_back(value);
    } else {
      unexpected("a number");
    }
    return true;
  }

  bool number_integer(number_integer_t value) override {
    if (place == Place::shape || place == Place::offsets) {
      corrupt("expected numbers of 0 or more in ", fieldKey, " of tensor ", shownName(topKey),
              " but received ", value);
    }
    return unexpected("a number");
  }

  bool number_float(number_float_t, const string_t& text) override {
    if (place == Place::shape || place == Place::offsets) {
      corrupt("expected integers below 2^64 in ", fieldKey, " of tensor ", shownName(topKey),
              " but received ", text.substr(0, 40));
    }
    return unexpected("a number");
  }

  bool string(string_t& value) override {
    if (place == Place::metadata) {
      header.metadata[fieldKey] = value;
    } else if (place == Place::tensor && fieldKey == "dtype") {
      if (bitsOf(value) == 0)
        corrupt("tensor ", shownName(topKey), " has the unknown dtype ", shownName(value));
      entry.dtype = value;
      hasDtype = true;
    } else {
      unexpected("a text");
    }
    return true;
  }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool parse_error(std::size_t position, const std::string&, const json::exception& error) override {
    const std::string text = error.what();
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..." keeps its last part.
    const size_t colon = text.find(": ");
    corrupt("bad JSON or UTF-8 at byte ", position, ": ",
            shownName(colon == std::string::npos ? text : text.substr(colon + 2)));
  }

  bool unexpected(const char* what) const {
    switch (place) {
      case Place::document:
        corrupt("expected an object but received ", what);
      case Place::metadata:
        corrupt("expected a text for key ", shownName(fieldKey), " of ", kMetadata, " but received ", what);
      case Place::shape:
      case Place::offsets:
        corrupt("expected integers in ", fieldKey, " of tensor ", shownName(topKey), " but received ", what);
      case Place::tensor:
        corrupt("expected ", fieldKey == "dtype" ? "a text" : "an array of integers", " for ", fieldKey,
                " of tensor ", shownName(topKey), " but received ", what);
      default:
        corrupt("expected an object for ", shownName(topKey), " but received ", what);
    }
  }

  void finishTensor() {
    const std::string name = shownName(topKey);
    if (offsets[0] > offsets[1]) {
      corrupt("data_offsets of tensor ", name, " run backwards: [", offsets[0], ", ", offsets[1], "]");
    }
    size_t bits = bitsOf(entry.dtype);
    for (int64_t dim : entry.shape) {
      if (__builtin_mul_overflow(bits, static_cast<size_t>(dim), &bits)) {
        corrupt("the shape of tensor ", name, " has more elements than memory can address");
      }
    }
    if (bits % 8 != 0) corrupt("tensor ", name, " does not end on a whole byte");
    if (offsets[1] - offsets[0] != bits / 8) {
      corrupt("tensor ", name, " of dtype ", entry.dtype, " and its shape need ", bits / 8,
              " bytes but its data_offsets span ", offsets[1] - offsets[0]);
    }
    entry.begin = offsets[0];
    entry.end = offsets[1];
    header.entries.push_back(std::move(entry));
  }
};

}  // namespace

SafetensorsHeader parseSafetensorsHeader(const std::string& path, std::string_view text, size_t dataBytes) {
  HeaderReader reader(path);
  // The parser would skip a byte order mark and white space; the format allows neither.
  if (text.empty() || text.front() != '{') reader.corrupt("expected it to begin with '{'");
  // It also takes a NUL for the end.
  if (const size_t nul = text.find('\0'); nul != text.npos)
    reader.corrupt("bad JSON or UTF-8 at byte ", nul, ": NUL");
  json::sax_parse(text, &reader);

  std::vector<SafetensorsEntry>& entries = reader.header.entries;
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return a.begin != b.begin ? a.begin < b.begin : (a.end != b.end ? a.end < b.end : a.name < b.name);
  });
  size_t position = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.end > dataBytes) {
      reader.corrupt("tensor ", shownName(entry.name), " ends at byte ", entry.end, " but the file has ",
                     dataBytes, " bytes of data; it may have been cut off");
    }
    if (entry.begin != position) {
      reader.corrupt("tensor ", shownName(entry.name),
                     entry.begin < position ? " overlaps the one before it" : " leaves a hole before it",
                     ": it begins at byte ", entry.begin, " instead of ", position);
    }
    position = entry.end;
  }
  if (position != dataBytes) {
    reader.corrupt("the tensors end at byte ", position, " but the file has ", dataBytes, " bytes of data");
  }
  return std::move(reader.header);
}

std::string formatSafetensorsHeader(const std::vector<SafetensorsEntry>& entries,
                                    const std::map<std::string, std::string>& metadata) {
  const auto quoted = [](const std::string& text) {
    try {
      return json(text).dump();
    } catch (const json::exception&) {
      fail(Code::InvalidArgument, "Expected valid UTF-8 in tensor names and metadata but received ",
           shownName(text));
    }
  };
  std::string header = "{";
  const char* separator = "";
  if (!metadata.empty()) {
    header += quoted(kMetadata) + ":{";
    for (const auto& [key, value] : metadata) {
      header += separator + quoted(key) + ":" + quoted(value);
      separator = ",";
    }
    header += "}";
    separator = ",";
  }
  for (const SafetensorsEntry& entry : entries) {
    header += separator + quoted(entry.name) + ":{\"dtype\":\"" + entry.dtype + "\",\"shape\":[";
    for (size_t axis = 0; axis < entry.shape.size(); ++axis) {
      header += (axis ? "," : "") + std::to_string(entry.shape[axis]);
    }
    header += "],\"data_offsets\":[" + std::to_string(entry.begin) + "," + std::to_string(entry.end) + "]}";
    separator = ",";
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');
  return header;
}

std::string shownName(std::string_view name) {
  constexpr size_t kLongest = 80;
  std::string shown = "'";
  for (size_t i = 0; i < name.size() && i < kLongest; ++i) {
    const auto byte = static_cast<unsigned char>(name[i]);
    if (byte < 0x20 || byte == 0x7f) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", byte);
      shown += escaped;
    } else {
      shown += name[i];
    }
  }
  if (name.size() > kLongest) {
    // Not in the middle of a UTF-8 sequence.
    while (!shown.empty() && (static_cast<unsigned char>(shown.back()) & 0xc0u) == 0x80u) shown.pop_back();
    if (!shown.empty() && static_cast<unsigned char>(shown.back()) >= 0xc0u) shown.pop_back();
    shown += "...";
  }
  return shown + "'";
}

}  // namespace duet
