#include "io/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace duet {

namespace {

/// Throws for a failed write, flush, close or rename.
[[noreturn]] void failWriting(const std::string& path, int error) {
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
    fail(Code::DiskFull, "Could not write ", path, ": ", std::strerror(error),
         "; free some space and try again");
  }
  fail(Code::Io, "Could not write ", path, ": ", std::strerror(error));
}

/// Creates a new file `<path>.partial-<pid>-<n>`; -1 and errno when that fails.
int createBeside(const std::string& path, std::string& partial) {
  static std::atomic<unsigned> count{0};
  for (;;) {
    partial = str(path, ".partial-", getpid(), "-", count.fetch_add(1));
    const int descriptor = ::open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    // One of that name may be left by a killed process that had the same id.
    if (descriptor >= 0 || errno != EEXIST) return descriptor;
  }
}

std::string folderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

FileHandle::~FileHandle() { close(); }

int FileHandle::close() {
  const int descriptor = std::exchange(descriptor_, -1);
  // After EINTR the descriptor is gone on Linux; closing it again could hit another file.
  return descriptor < 0 || ::close(descriptor) == 0 || errno == EINTR ? 0 : errno;
}

void failOpening(const std::string& path) {
  const int error = errno;
  if (error == ENOENT || error == ENOTDIR)
    fail(Code::NotFound, "Expected a file at ", path, " but found none");
  fail(Code::Io, "Could not open ", path, ": ", std::strerror(error));
}

AtomicFile::AtomicFile(const std::string& path) : path_(path), file_(createBeside(path_, partial_)) {
  if (file_) return;
  const int error = errno;
  if (error == ENOENT || error == ENOTDIR) {
    fail(Code::NotFound, "Expected a folder at ", folderOf(path), " to write ", path, " into but found none");
  }
  failWriting(path, error);
}

AtomicFile::~AtomicFile() {
  file_.close();
  if (!committed_) ::unlink(partial_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  constexpr size_t kChunk = size_t{64} << 20;
  while (!bytes.empty()) {
    const ssize_t written = ::write(file_.get(), bytes.data(), std::min(bytes.size(), kChunk));
    if (written < 0) {
      if (errno == EINTR) continue;
      failWriting(path_, errno);
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void AtomicFile::commit() {
  if (::fsync(file_.get()) != 0) failWriting(path_, errno);
  if (const int error = file_.close()) failWriting(path_, error);
  if (std::rename(partial_.c_str(), path_.c_str()) != 0) failWriting(path_, errno);
  committed_ = true;
  const FileHandle folder(::open(folderOf(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Some file systems cannot flush a folder; they say so with EINVAL.
  if (folder && ::fsync(folder.get()) != 0 && errno != EINVAL && errno != EROFS) failWriting(path_, errno);
}

}  // namespace duet
