// Which parts of a run of addresses are free: the lowest that fits is taken first, and neighbours join again.
#pragma once

#include <cstddef>
#include <iterator>
#include <map>

namespace duet {

class FreeList {
 public:
  static constexpr size_t kNone = ~size_t{0};

  explicit FreeList(size_t capacity = 0) {
    if (capacity > 0) free_[0] = capacity;
  }

  /// The offset of `size` bytes from now on taken, kNone where there is no such run.
  size_t take(size_t size) {
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      const auto [offset, room] = *it;
      if (room < size) continue;
      free_.erase(it);
      if (room > size) free_[offset + size] = room - size;
      return offset;
    }
    return kNone;
  }

  void give(size_t offset, size_t size) {
    auto next = free_.lower_bound(offset);
    if (next != free_.end() && offset + size == next->first) {
      size += next->second;
      next = free_.erase(next);
    }
    if (next != free_.begin()) {
      auto previous = std::prev(next);
      if (previous->first + previous->second == offset) {
        previous->second += size;
        return;
      }
    }
    free_[offset] = size;
  }

 private:
  std::map<size_t, size_t> free_;  // offset -> size
};

}  // namespace duet
