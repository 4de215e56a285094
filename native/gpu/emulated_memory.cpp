#include "gpu/emulated_memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "core/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) static_cast<void>(size)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) static_cast<void>(size)
#endif

namespace duet::gpu::emulation {

namespace {

constexpr size_t kAddresses = size_t{1} << 44, kFewestAddresses = size_t{1} << 32;
constexpr size_t kPage = 4096, kLarge = 64 << 10;
constexpr uint16_t kInZone = 0xfffb, kGivenBack = 0xfffd;  // NaN in bf16 and, twice, in f32

size_t roundUp(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

void fill(std::byte* from, size_t bytes, uint16_t pattern) {
  for (size_t i = 0; i < bytes; ++i)
    from[i] = static_cast<std::byte>(reinterpret_cast<uintptr_t>(from + i) % 2 == 0 ? pattern : pattern >> 8);
}

bool holds(const std::byte* from, size_t bytes, uint16_t pattern) {
  for (size_t i = 0; i < bytes; ++i)
    if (from[i] != static_cast<std::byte>(reinterpret_cast<uintptr_t>(from + i) % 2 == 0 ? pattern & 0xff
                                                                                         : pattern >> 8))
      return false;
  return true;
}

struct sigaction before;

/// Says what happened, where the address is the device's; the rest is up to who was there before.
void touched(int signal, siginfo_t* info, void* context) {
  if (DeviceMemory::instance().contains(info->si_addr)) {
    constexpr char text[] = "The host touched memory of the emulated device outside of a kernel or a copy\n";
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, sizeof(text) - 1);
    ::signal(SIGSEGV, SIG_DFL);
  } else if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(signal, info, context);
  } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(signal);
  } else {
    ::signal(SIGSEGV, SIG_DFL);
  }
}

}  // namespace

DeviceMemory& DeviceMemory::instance() {
  static auto& memory = *new DeviceMemory;  // outlives every thread
  return memory;
}

DeviceMemory::DeviceMemory() {
  for (size_t size = kAddresses; size >= kFewestAddresses && !base_; size /= 2) {
    void* run = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (run == MAP_FAILED) continue;
    base_ = static_cast<std::byte*>(run);
    size_ = size;
  }
  if (!base_) fail(Code::OutOfMemory, "Out of memory: no addresses for the emulated device (ulimit -v)");
  high_ = base_;
  free_ = FreeList(size_);
  const char* wish = std::getenv("DUET_EMULATED_BYTES");
  limit_ = wish ? std::strtoull(wish, nullptr, 10)
                : static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  struct sigaction action {};
  action.sa_sigaction = touched;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &before);
}

std::byte* DeviceMemory::take(size_t size) {
  const std::lock_guard lock(mutex_);
  const size_t offset = free_.take(roundUp(size, kPage));
  if (offset == FreeList::kNone)
    fail(Code::OutOfMemory, "Out of memory: the emulated device has no ", size, " addresses left");
  high_ = std::max(high_, base_ + offset + roundUp(size, kPage));
  return base_ + offset;
}

void DeviceMemory::give(std::byte* block, size_t size) {
  size = roundUp(size, kPage);
  ASAN_UNPOISON_MEMORY_REGION(block, size);
  if (size >= kLarge) madvise(block, size, MADV_DONTNEED);
  const std::lock_guard lock(mutex_);
  free_.give(static_cast<size_t>(block - base_), size);
}

void DeviceMemory::count(size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > limit_ - counted_)
    fail(Code::OutOfMemory, "Out of GPU memory: could not allocate ", bytes, " bytes beside the ", counted_,
         " in use of ", limit_, "; use a smaller batch or bf16");
  counted_ += bytes;
}

void DeviceMemory::uncount(size_t bytes) {
  const std::lock_guard lock(mutex_);
  counted_ -= bytes;
}

size_t DeviceMemory::freeBytes() {
  const std::lock_guard lock(mutex_);
  return limit_ - counted_;
}

void DeviceMemory::open() {
  const std::lock_guard lock(mutex_);
  if (high_ > base_ && mprotect(base_, static_cast<size_t>(high_ - base_), PROT_READ | PROT_WRITE) != 0)
    fail(Code::OutOfMemory, "Out of memory: the emulated device's could not be opened");
}

void DeviceMemory::close() {
  const std::lock_guard lock(mutex_);
  if (high_ > base_) mprotect(base_, static_cast<size_t>(high_ - base_), PROT_NONE);
}

void DeviceMemory::begin(std::byte* block, size_t bytes, size_t size) {
  ASAN_UNPOISON_MEMORY_REGION(block, size);
  std::memset(block, 0xff, bytes);
  fill(block + bytes, size - bytes, kInZone);
  ASAN_POISON_MEMORY_REGION(block + bytes, size - bytes);
  blocks_[block] = {bytes, size};
}

void DeviceMemory::end(std::byte* block) {
  const auto found = blocks_.find(block);
  if (found == blocks_.end()) return;
  ASAN_UNPOISON_MEMORY_REGION(block, found->second.size);
  fill(block, found->second.bytes, kGivenBack);
  ASAN_POISON_MEMORY_REGION(block, found->second.size);
  blocks_.erase(found);
}

void DeviceMemory::checkZones() const {
#if !defined(__SANITIZE_ADDRESS__)  // which says more, and forbids to look
  for (const auto& [block, b] : blocks_)
    if (!holds(block + b.bytes, b.size - b.bytes, kInZone))
      fail(Code::Internal, "A kernel wrote behind the end of ", b.bytes, " bytes of the device");
#endif
}

}  // namespace duet::gpu::emulation
