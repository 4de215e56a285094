// A file that appears whole or not at all: written beside its target, flushed to the disk, renamed
// over it, and the folder flushed too, so that it survives a crash of the process or the machine.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace duet {

/// Owns a file descriptor.
class FileHandle {
 public:
  explicit FileHandle(int descriptor = -1) : descriptor_(descriptor) {}
  ~FileHandle();
  FileHandle(const FileHandle&) = delete;
  FileHandle& operator=(const FileHandle&) = delete;
  explicit operator bool() const { return descriptor_ >= 0; }
  int get() const { return descriptor_; }
  /// Closes now; 0 or the error number.
  int close();

 private:
  int descriptor_;
};

/// Throws NotFound or Io for a path that open() just refused (reads errno).
[[noreturn]] void failOpening(const std::string& path);

class AtomicFile {
 public:
  /// Opens `<path>.partial-<pid>-<n>`. Throws NotFound when the folder is missing, DiskFull or Io.
  explicit AtomicFile(const std::string& path);
  /// Removes the file beside unless commit() succeeded.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void commit();

 private:
  std::string path_, partial_;
  FileHandle file_;
  bool committed_ = false;
};

}  // namespace duet
