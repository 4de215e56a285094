#include "gpu/emulated_stream.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <vector>

#include "core/error.h"
#include "gpu/emulated_memory.h"
#include "gpu/emulation.h"
#include "gpu/stream.h"

namespace duet::gpu {

namespace emulation {

namespace {

constexpr size_t kMostWaiting = 2000;

struct Item {
  std::function<void()> work;
  bool always;  // whatever went wrong before
};

struct Stream {
  std::mutex order;  // of who works
  std::mutex mutex;
  std::vector<Item> waiting;
};

Stream& stream() {
  static auto& made = *new Stream;  // outlives every thread
  return made;
}

DeviceMemory& device() { return DeviceMemory::instance(); }

size_t append(std::function<void()> work, bool always) noexcept {
  const std::lock_guard lock(stream().mutex);
  stream().waiting.push_back({std::move(work), always});
  return stream().waiting.size();
}

void expectDevice(const void* address, bool is) {
  if (device().contains(address) != is)
    fail(Code::Internal, "A copy expected memory of the ", is ? "device" : "host", " but received the ",
         is ? "host's" : "device's");
}

}  // namespace

void enqueue(std::function<void()> work) {
  if (append(std::move(work), false) >= kMostWaiting) synchronize();
}

void synchronize() {
  const std::lock_guard order(stream().order);
  std::vector<Item> items;
  {
    const std::lock_guard lock(stream().mutex);
    items.swap(stream().waiting);
  }
  if (items.empty()) return;
  std::exception_ptr problem;
  device().open();
  for (const Item& item : items) {
    if (problem && !item.always) continue;
    try {
      item.work();
      if (!item.always) device().checkZones();
    } catch (...) {
      problem = std::current_exception();
    }
  }
  device().close();
  if (problem) std::rethrow_exception(problem);
}

void checkPointers(const void* argument, size_t bytes, const std::type_info& type) {
  constexpr size_t page = 4096;
  for (size_t i = 0; i + sizeof(uintptr_t) <= bytes; i += sizeof(uintptr_t)) {
    uintptr_t word;
    std::memcpy(&word, static_cast<const std::byte*>(argument) + i, sizeof(word));
    if (word >> 40 == 0 || word >> 47 != 0 || device().contains(reinterpret_cast<void*>(word))) continue;
    if (msync(reinterpret_cast<void*>(word / page * page), 1, MS_ASYNC) == 0)
      fail(Code::Internal, "A kernel is given an address of the host's in its argument of type ",
           type.name());
  }
}

namespace {

/// What was handed out to the host: how much was counted for it.
struct Sizes {
  std::mutex mutex;
  std::map<void*, size_t> sizes;
  void put(void* block, size_t size) {
    const std::lock_guard lock(mutex);
    sizes[block] = size;
  }
  size_t take(void* block) {
    const std::lock_guard lock(mutex);
    const auto found = sizes.find(block);
    const size_t size = found->second;
    sizes.erase(found);
    return size;
  }
};
auto& sizes = *new Sizes;

void* takeBlock(size_t bytes) {
  const size_t size = (bytes + DeviceMemory::kZone + 63) / 64 * 64;
  device().count(size);
  std::byte* block = device().take(size);
  sizes.put(block, size);
  append([=] { device().begin(block, bytes, size); }, true);
  return block;
}

void giveBlock(void* block) {
  const size_t size = sizes.take(block);
  device().uncount(size);
  append(
      [=] {
        device().end(static_cast<std::byte*>(block));
        device().give(static_cast<std::byte*>(block), size);
      },
      true);
}

}  // namespace

Memory memory() {
  Memory m{};  // not on the host
  m.allocate = [](size_t bytes) {
    void* block = takeBlock(bytes);
    if (bytes > 0) enqueue([=] { std::memset(block, 0, bytes); });
    return block;
  };
  m.release = giveBlock;
  m.reserve = [](size_t bytes) {
    std::byte* run = device().take(bytes);
    sizes.put(run, 0);
    return run;
  };
  m.back = [](std::byte* run, size_t from, size_t to) {
    device().count(to - from);
    sizes.put(run, sizes.take(run) + to - from);
  };
  m.forsake = [](std::byte* run, size_t bytes) {
    device().uncount(sizes.take(run));
    append([=] { device().give(run, bytes); }, true);
  };
  m.copyIn = stage;
  m.copyOut = copyOutNow;
  m.copy = [](void* to, const void* from, size_t bytes) {
    if (bytes == 0) return;
    expectDevice(to, true);
    expectDevice(from, true);
    enqueue([=] { std::memmove(to, from, bytes); });
  };
  m.zero = [](void* to, size_t bytes) {
    if (bytes == 0) return;
    expectDevice(to, true);
    enqueue([=] { std::memset(to, 0, bytes); });
  };
  m.redzone = DeviceMemory::kZone;
  m.lend = [](std::byte* place, size_t bytes, size_t size) {
    append([=] { device().begin(place, bytes, size); }, true);
  };
  m.takeBack = [](std::byte* place, size_t) { append([=] { device().end(place); }, true); };
  return m;
}

}  // namespace emulation

using namespace emulation;

void* takeScratch(size_t bytes) { return takeBlock(bytes); }
void giveScratch(void* block) noexcept { giveBlock(block); }

std::byte* pinnedBytes(size_t bytes) { return new std::byte[bytes]; }

void copyInLater(void* to, const void* from, size_t bytes) {
  expectDevice(to, true);
  expectDevice(from, false);
  enqueue([=] { std::memcpy(to, from, bytes); });
}

void copyOutNow(void* to, const void* from, size_t bytes) {
  if (bytes > 0) {
    expectDevice(to, false);
    expectDevice(from, true);
    enqueue([=] { std::memcpy(to, from, bytes); });
  }
  synchronize();
}

Event makeEvent() { return new std::atomic<bool>(true); }
void recordEvent(Event event) {
  auto& done = *static_cast<std::atomic<bool>*>(event);
  done = false;
  append([&] { done = true; }, true);
}
void waitForEvent(Event event) {
  if (!*static_cast<std::atomic<bool>*>(event)) synchronize();
}

size_t stagingBytes() { return size_t{64} << 10; }
int deviceInUse() { return 0; }
/// So few that kernels which depend on them take all their ways at the sizes of tests.
int multiprocessors() { return 4; }

}  // namespace duet::gpu
