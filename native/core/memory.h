// Memory of a device and what moves bytes to, from and within it. What is done to a device's memory happens
// in the order of the calls, kernels included.
#pragma once

#include <cstddef>

namespace duet {

struct Memory {
  bool onHost;  // code of the host may read and write it
  /// Cleared, 64-byte aligned. Throws when there is none left.
  void* (*allocate)(size_t bytes);
  void (*release)(void* block);
  /// A run of addresses without memory behind it; null when there is none so long.
  std::byte* (*reserve)(size_t bytes);
  /// Puts memory behind [from, to) of a reserved run. Throws when there is none left.
  void (*back)(std::byte* run, size_t from, size_t to);
  void (*forsake)(std::byte* run, size_t bytes);
  /// From the host; `from` may change as soon as it returns.
  void (*copyIn)(void* to, const void* from, size_t bytes);
  /// To the host, after everything asked for before.
  void (*copyOut)(void* to, const void* from, size_t bytes);
  void (*copy)(void* to, const void* from, size_t bytes);
  void (*zero)(void* to, size_t bytes);
  // For devices that look for mistakes: bytes behind every tensor of a step, and what is told when `bytes` of
  // the `size` at a place of a reserved run become a tensor and when they are free again (or null).
  size_t redzone = 0;
  void (*lend)(std::byte* place, size_t bytes, size_t size) = nullptr;
  void (*takeBack)(std::byte* place, size_t size) = nullptr;
};

const Memory& hostMemory();
/// Where this thread's tensors live: the host's memory unless replaced.
const Memory& currentMemory();
/// What currentMemory() gives this thread from now on; null for the host's. @returns what it was
const Memory* replaceMemory(const Memory* other);

}  // namespace duet
