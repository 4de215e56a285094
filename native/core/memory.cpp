#include "core/memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace duet {

namespace {

constexpr size_t kAlignment = 64;

void copyBytes(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memmove(to, from, bytes);
}

/// Large blocks stay untouched, and cost nothing, until they are written. Where the block begins is noted
/// before it.
void* allocate(size_t bytes) {
  void* block = std::calloc(bytes + kAlignment + sizeof(void*), 1);
  if (!block)
    fail(Code::OutOfMemory, "Out of memory: could not allocate ", bytes,
         " bytes for a tensor; use a smaller model or batch");
  const auto address = reinterpret_cast<uintptr_t>(block) + sizeof(void*);
  const auto aligned = reinterpret_cast<void**>((address + kAlignment - 1) / kAlignment * kAlignment);
  aligned[-1] = block;
  return aligned;
}

void release(void* block) { std::free(static_cast<void**>(block)[-1]); }

std::byte* reserve(size_t bytes) {
  void* run =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return run == MAP_FAILED ? nullptr : static_cast<std::byte*>(run);
}

const Memory kHost{
    true,
    allocate,
    release,
    reserve,
    [](std::byte*, size_t, size_t) {},  // the system does when it is touched
    [](std::byte* run, size_t bytes) { munmap(run, bytes); },
    copyBytes,
    copyBytes,
    copyBytes,
    [](void* to, size_t bytes) { std::memset(to, 0, bytes); },
    0,
    nullptr,
    nullptr,
};

thread_local const Memory* replaced = nullptr;

}  // namespace

const Memory& hostMemory() { return kHost; }

const Memory& currentMemory() { return replaced ? *replaced : kHost; }

const Memory* replaceMemory(const Memory* other) { return std::exchange(replaced, other); }

}  // namespace duet
