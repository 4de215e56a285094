// The safetensors file format (https://huggingface.co/docs/safetensors): an 8-byte little-endian
// header length, a JSON header that gives every tensor's dtype, shape and byte range, then the bytes.
//
// Reading maps the file (one of at most 64 MiB a private copy of it, so that another process may do with
// the file what it likes) and checks the whole header before anything is handed out: the ranges must cover
// the data exactly, without holes or overlaps, as the format demands. Writing goes to a file
// beside the target which is flushed to the disk and then renamed over it, so a reader (or a crash at
// any moment) finds the old file or the new one, never half of one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace duet {

/// What the header says of one tensor.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // the format's spelling: "F32", "BF16", "I64", "BOOL" ...
  std::vector<int64_t> shape;
  size_t begin = 0, end = 0;  // bytes [begin, end) of the data section

  size_t bytes() const { return end - begin; }
};

/// A mapped file. Tensors taken from it keep the mapping alive; the object itself may go first.
class SafetensorsFile {
 public:
  /// Throws NotFound or Io when the file cannot be opened and Corrupt when the header is not sound.
  static SafetensorsFile open(const std::string& path);

  const std::string& path() const { return path_; }
  /// In the order of their bytes in the file.
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool has(const std::string& name) const { return index_.count(name) != 0; }
  /// Throws NotFound when there is no tensor of that name.
  const SafetensorsEntry& entry(const std::string& name) const;

  /// The tensor's elements where they lie in the mapping, or a copy where the file does not align
  /// them. Writing to them is allowed and stays private to this process. BOOL is given as u8.
  /// Throws Unsupported for data types and ranks that Tensor does not have.
  Tensor tensor(const std::string& name) const;
  /// The same, and F64 as a copy rounded to f32.
  Tensor narrowed(const std::string& name) const;

  /// Gives the mapping's pages back to the operating system; they are read again when touched.
  /// For tensors that have been copied or packed elsewhere: what was written to them is forgotten.
  void release() const;
  void release(const std::string& name) const;

 private:
  class Mapping;
  SafetensorsFile() = default;

  std::string path_;
  std::shared_ptr<Mapping> mapping_;
  size_t dataBegin_ = 0;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, size_t> index_;
  std::map<std::string, std::string> metadata_;
};

/// One tensor to write; the bytes belong to the caller.
struct SafetensorsInput {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

/// Writes `path` atomically, in the byte layout of the reference library: data types from widest to
/// narrowest, then by name; header padded with spaces to a multiple of 8 bytes.
/// Throws InvalidArgument for duplicate or reserved names and lengths that do not fit their shapes,
/// NotFound when the folder does not exist, DiskFull when space or a quota ends, Io for the rest. The
/// file beside is removed when something fails; one left by a killed process is named
/// `<path>.partial-<pid>-<n>`.
void writeSafetensors(const std::string& path, std::vector<SafetensorsInput> tensors,
                      const std::map<std::string, std::string>& metadata);

}  // namespace duet
