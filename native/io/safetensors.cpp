#include "io/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/sendfile.h>
#endif

#include <algorithm>
#include <bit>
#include <cerrno>
#include <limits>
#include <optional>
#include <set>

#include "io/atomic_file.h"
#include "io/safetensors_header.h"

namespace duet {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

namespace {

constexpr size_t kLengthBytes = 8;

std::optional<DType> tensorType(const std::string& dtype) {
  if (dtype == "F32") return DType::f32;
  if (dtype == "BF16") return DType::bf16;
  if (dtype == "F16") return DType::f16;
  if (dtype == "I64") return DType::i64;
  if (dtype == "I32") return DType::i32;
  if (dtype == "U8" || dtype == "BOOL") return DType::u8;
  return std::nullopt;
}

const char* fileType(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "F32";
    case DType::bf16:
      return "BF16";
    case DType::f16:
      return "F16";
    case DType::i64:
      return "I64";
    case DType::i32:
      return "I32";
    case DType::u8:
      return "U8";
  }
  return "?";
}

/// Place of a data type in the reference library's order of tensors.
int writeOrder(DType dtype) {
  switch (dtype) {
    case DType::i64:
      return 0;
    case DType::f32:
      return 1;
    case DType::i32:
      return 2;
    case DType::bf16:
      return 3;
    case DType::f16:
      return 4;
    case DType::u8:
      return 5;
  }
  return 6;
}

/// Larger files are mapped where they lie.
constexpr size_t kCopiedBytes = size_t{64} << 20;

/// A copy of a file that exists in memory only, so that nobody can cut it off while it is mapped (which would
/// end the process with SIGBUS). -1 where the system cannot make one.
int copyInMemory(const std::string& path, int file, size_t size) {
#ifdef __linux__
  const int copy = memfd_create("duet-safetensors", MFD_CLOEXEC);
  for (size_t done = 0; copy >= 0 && done < size;) {
    const ssize_t sent = sendfile(copy, file, nullptr, size - done);
    if (sent > 0) {
      done += static_cast<size_t>(sent);
      continue;
    }
    if (sent < 0 && errno == EINTR) continue;
    close(copy);
    if (sent < 0) return -1;
    fail(Code::Corrupt, "Expected ", size, " bytes in ", path, " but it was cut off at ", done,
         " while it was read");
  }
  return copy;
#else
  static_cast<void>(path), static_cast<void>(file), static_cast<void>(size);
  return -1;
#endif
}

size_t pageSize() {
  static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

}  // namespace

/// Private and writable: a tensor may be written in place like any other, the file never changes.
class SafetensorsFile::Mapping final : public Storage {
 public:
  Mapping(const std::string& path, int file, size_t size) {
    void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file, 0);
    if (base == MAP_FAILED) fail(Code::Io, "Could not map ", path, ": ", std::strerror(errno));
    bytes_ = static_cast<std::byte*>(base);
    size_ = size;
  }
  ~Mapping() override { munmap(bytes_, size_); }

  void release(size_t begin, size_t end) {
    begin = (begin + pageSize() - 1) / pageSize() * pageSize();  // only pages that lie wholly inside
    end = end == size_ ? end : end / pageSize() * pageSize();
    if (begin < end) madvise(bytes_ + begin, end - begin, MADV_DONTNEED);
  }
};

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  // O_NONBLOCK: a named pipe must not hang here.
  const FileHandle file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) failOpening(path);
  struct stat status;
  if (fstat(file.get(), &status) != 0) fail(Code::Io, "Could not read ", path, ": ", std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail(Code::InvalidArgument, "Expected a regular file but received ", path);

  const size_t size = static_cast<size_t>(status.st_size);
  if (size < kLengthBytes) {
    fail(Code::Corrupt, "Expected a safetensors file of at least 8 bytes but ", path, " has ", size);
  }
  SafetensorsFile result;
  result.path_ = path;
  const FileHandle copy(size <= kCopiedBytes ? copyInMemory(path, file.get(), size) : -1);
  result.mapping_ = std::make_shared<Mapping>(path, copy ? copy.get() : file.get(), size);
  uint64_t headerBytes;
  std::memcpy(&headerBytes, result.mapping_->bytes(), kLengthBytes);
  if (headerBytes > kMaxSafetensorsHeader) {
    fail(Code::Corrupt, "The header of ", path, " is not valid: its length of ", headerBytes,
         " bytes is above the format's limit of ", kMaxSafetensorsHeader, "; is this a safetensors file?");
  }
  if (headerBytes > size - kLengthBytes) {
    fail(Code::Corrupt, "The header of ", path, " is not valid: its length of ", headerBytes,
         " bytes goes beyond the file of ", size, " bytes; it may have been cut off");
  }
  result.dataBegin_ = kLengthBytes + headerBytes;
  const auto* text = reinterpret_cast<const char*>(result.mapping_->bytes()) + kLengthBytes;
  SafetensorsHeader header = parseSafetensorsHeader(path, {text, headerBytes}, size - result.dataBegin_);
  result.entries_ = std::move(header.entries);
  result.metadata_ = std::move(header.metadata);
  for (size_t i = 0; i < result.entries_.size(); ++i) result.index_[result.entries_[i].name] = i;
  return result;
}

const SafetensorsEntry& SafetensorsFile::entry(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end())
    fail(Code::NotFound, "Expected tensor ", shownName(name), " in ", path_, " but found none");
  return entries_[found->second];
}

Tensor SafetensorsFile::tensor(const std::string& name) const {
  const SafetensorsEntry& found = entry(name);
  const std::optional<DType> dtype = tensorType(found.dtype);
  if (!dtype) {
    fail(Code::Unsupported, "Expected tensor ", shownName(name), " in ", path_,
         " to be F32, BF16, F16, I64, I32, U8 or BOOL but received ", found.dtype,
         "; convert the file first");
  }
  if (found.shape.size() > 6) {
    fail(Code::Unsupported, "Expected at most 6 dimensions for tensor ", shownName(name), " in ", path_,
         " but received ", found.shape.size());
  }
  const Shape shape(found.shape);
  const size_t offset = dataBegin_ + found.begin;
  if (offset % sizeOf(*dtype) == 0) return Tensor(mapping_, offset, shape, *dtype);
  Tensor copy = Tensor::zeros(shape, *dtype);
  if (found.bytes() != 0) std::memcpy(copy.raw(), mapping_->bytes() + offset, found.bytes());
  return copy;
}

Tensor SafetensorsFile::narrowed(const std::string& name) const {
  const SafetensorsEntry& found = entry(name);
  if (found.dtype != "F64" || found.shape.size() > 6) return tensor(name);
  const Tensor copy = Tensor::zeros(Shape(found.shape));
  const std::byte* from = mapping_->bytes() + dataBegin_ + found.begin;
  for (int64_t i = 0; i < copy.elements(); ++i) {
    double value;
    std::memcpy(&value, from + static_cast<size_t>(i) * sizeof value, sizeof value);
    copy.f32()[i] = static_cast<float>(value);
  }
  return copy;
}

void SafetensorsFile::release() const { mapping_->release(0, mapping_->size()); }

void SafetensorsFile::release(const std::string& name) const {
  const SafetensorsEntry& found = entry(name);
  mapping_->release(dataBegin_ + found.begin, dataBegin_ + found.end);
}

void writeSafetensors(const std::string& path, std::vector<SafetensorsInput> tensors,
                      const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return a.dtype != b.dtype ? writeOrder(a.dtype) < writeOrder(b.dtype) : a.name < b.name;
  });
  std::set<std::string> names;
  std::vector<SafetensorsEntry> entries;
  size_t position = 0;
  for (const SafetensorsInput& tensor : tensors) {
    require(tensor.name != "__metadata__",
            "Expected another name for a tensor than __metadata__, which the format reserves");
    require(names.insert(tensor.name).second, "Expected every tensor name once but received ",
            shownName(tensor.name), " twice");
    size_t bytes = sizeOf(tensor.dtype);
    for (int64_t dim : tensor.shape) {
      require(dim >= 0 && !__builtin_mul_overflow(bytes, static_cast<size_t>(dim), &bytes),
              "Expected a shape that fits memory for tensor ", shownName(tensor.name),
              " but received dimension ", dim);
    }
    require(bytes == tensor.bytes.size(), "Expected ", bytes, " bytes for tensor ", shownName(tensor.name),
            " of type ", nameOf(tensor.dtype), " but received ", tensor.bytes.size());
    entries.push_back({tensor.name, fileType(tensor.dtype), tensor.shape, position, position + bytes});
    position += bytes;
  }
  const std::string header = formatSafetensorsHeader(entries, metadata);
  require(header.size() <= kMaxSafetensorsHeader, "Expected a header of at most ", kMaxSafetensorsHeader,
          " bytes but the names and metadata need ", header.size());

  const uint64_t headerBytes = header.size();
  AtomicFile file(path);
  file.write(std::as_bytes(std::span(&headerBytes, 1)));
  file.write(std::as_bytes(std::span(header)));
  for (const SafetensorsInput& tensor : tensors) file.write(tensor.bytes);
  file.commit();
}

}  // namespace duet
