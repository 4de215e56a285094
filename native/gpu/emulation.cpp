#include "gpu/emulation.h"

#include <boost/context/fiber.hpp>
#include <deque>
#include <exception>
#include <map>
#include <mutex>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace duet::gpu::emulation {

namespace {

namespace context = boost::context;

constexpr size_t kStackBytes = 128 << 10;
constexpr int kWarp = 32;

/// Stacks are used again: a block needs many and no two blocks at once.
class Stacks {
 public:
  ~Stacks() {
    for (std::byte* stack : free_) delete[] stack;
  }
  context::stack_context allocate() {
    std::byte* bottom;
    if (free_.empty()) {
      bottom = new std::byte[kStackBytes];
    } else {
      bottom = free_.back();
      free_.pop_back();
    }
    context::stack_context stack;
    stack.size = kStackBytes;
    stack.sp = bottom + kStackBytes;
    return stack;
  }
  void deallocate(context::stack_context& stack) {
    free_.push_back(static_cast<std::byte*>(stack.sp) - kStackBytes);
  }

 private:
  std::vector<std::byte*> free_;
};

thread_local Stacks stacks;

struct StackAllocator {
  std::byte** bottom;
  context::stack_context allocate() {
    const context::stack_context stack = stacks.allocate();
    *bottom = static_cast<std::byte*>(stack.sp) - kStackBytes;
    return stack;
  }
  void deallocate(context::stack_context& stack) { stacks.deallocate(stack); }
};

struct Copy {
  void* to;
  const void* from;
  int valid;
};

enum class Waiting { no, block, warp, sleep };

struct Thread {
  Place place;
  int index = 0;
  int fiber = -1;
  Waiting waiting = Waiting::no;
  unsigned lanes = 0;
  int line = 0;
  bool ended = false;
  std::vector<std::vector<Copy>> copies{1};  // groups, the last one open
};

/// Memory of exactly its size, so that a step beyond its end is seen.
struct Bytes {
  explicit Bytes(size_t size) : data(::operator new (size > 0 ? size : 1, std::align_val_t{128})) {
    std::memset(data, 0xff, size);
  }
  ~Bytes() { ::operator delete (data, std::align_val_t{128}); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  void* data;
};

class Block {
 public:
  Block(dim3 grid, dim3 size, size_t sharedBytes, const std::function<void()>& kernel)
      : kernel_(kernel),
        threads_(size.x * size.y * size.z),
        shown_((threads_.size() + kWarp - 1) / kWarp * kWarp),
        sharedBytes_(sharedBytes) {
    for (unsigned i = 0; i < threads_.size(); ++i) {
      threads_[i].index = static_cast<int>(i);
      threads_[i].place = {{i % size.x, i / size.x % size.y, i / size.x / size.y}, {0, 0, 0}, size, grid};
    }
  }

  void run(uint3 block);

  Thread& current() { return *current_; }
  void wait(Waiting kind, unsigned lanes, int line);
  void sleep(int line);
  void wake();
  void* shared(const void* key, size_t bytes) {
    auto& there = variables_[key];
    if (!there) there = std::make_unique<Bytes>(bytes);
    return there->data;
  }
  std::pair<void*, size_t> dynamicShared() { return {dynamic_->data, sharedBytes_}; }
  std::shared_ptr<void>& kept() { return kept_; }
  Shown* shownByWarp() { return shown_.data() + current_->index / kWarp * kWarp; }

 private:
  struct Fiber {
    context::fiber fiber;
    std::byte* bottom = nullptr;
  };

  void start();
  void resume(int fiber);
  void toScheduler();
  bool allCame(const Thread& last) const;
  void release(const Thread& last);
  [[noreturn]] void stuck() const;
  std::pair<size_t, size_t> peers(const Thread& thread) const;

  const std::function<void()>& kernel_;
  std::vector<Thread> threads_;
  std::vector<Shown> shown_;
  size_t sharedBytes_;
  std::unique_ptr<Bytes> dynamic_;
  std::map<const void*, std::unique_ptr<Bytes>> variables_;
  std::shared_ptr<void> kept_;
  std::exception_ptr problem_;  // of what a thread did

  Thread* current_ = nullptr;
  std::deque<Fiber> fibers_;
  context::fiber scheduler_;
  size_t started_ = 0;
  size_t arrived_ = 0;  // at the barrier of the block
  std::deque<Thread*> runnable_;
#if defined(__SANITIZE_ADDRESS__)
  const void* schedulerBottom_ = nullptr;
  size_t schedulerSize_ = 0;
#endif
};

thread_local Block* block = nullptr;

void Block::run(uint3 place) {
  fibers_.clear();
  runnable_.clear();
  dynamic_ = std::make_unique<Bytes>(sharedBytes_);
  variables_.clear();
  kept_.reset();
  started_ = arrived_ = 0;
  for (Thread& thread : threads_) {
    thread.place.block = place;
    thread.waiting = Waiting::no;
    thread.ended = false;
    thread.copies.assign(1, {});
  }
  for (;;) {
    if (!runnable_.empty()) {
      current_ = runnable_.front();
      runnable_.pop_front();
      resume(current_->fiber);
    } else if (started_ < threads_.size()) {
      start();
    } else {
      break;
    }
    if (problem_) std::rethrow_exception(std::exchange(problem_, nullptr));
  }
  for (const Thread& thread : threads_)
    if (!thread.ended) stuck();
  fibers_.clear();
}

/// A fiber that runs one thread after another, until one has to wait: then the next threads get another
/// fiber.
void Block::start() {
  const int index = static_cast<int>(fibers_.size());
  fibers_.emplace_back();
  fibers_.back().fiber = context::fiber(
      std::allocator_arg, StackAllocator{&fibers_.back().bottom}, [this, index](context::fiber&& back) {
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(nullptr, &schedulerBottom_, &schedulerSize_);
#endif
        scheduler_ = std::move(back);
        while (started_ < threads_.size()) {
          current_ = &threads_[started_++];
          current_->fiber = index;
          try {
            kernel_();
          } catch (const context::detail::forced_unwind&) {
            throw;
          } catch (...) {
            problem_ = std::current_exception();
          }
          current_->ended = true;
        }
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_start_switch_fiber(nullptr, schedulerBottom_, schedulerSize_);
#endif
        return std::move(scheduler_);
      });
  resume(index);
}

void Block::resume(int index) {
  Fiber& next = fibers_[static_cast<size_t>(index)];
#if defined(__SANITIZE_ADDRESS__)
  void* own = nullptr;
  __sanitizer_start_switch_fiber(&own, next.bottom, kStackBytes);
#endif
  next.fiber = std::move(next.fiber).resume();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(own, nullptr, nullptr);
#endif
}

void Block::toScheduler() {
  Thread* self = current_;
#if defined(__SANITIZE_ADDRESS__)
  void* own = nullptr;
  __sanitizer_start_switch_fiber(&own, schedulerBottom_, schedulerSize_);
#endif
  scheduler_ = std::move(scheduler_).resume();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(own, &schedulerBottom_, &schedulerSize_);
#endif
  current_ = self;
}

/// The threads that a thread waits for: its block or its warp.
std::pair<size_t, size_t> Block::peers(const Thread& thread) const {
  if (thread.waiting == Waiting::block) return {0, threads_.size()};
  const size_t first = static_cast<size_t>(thread.index / kWarp * kWarp);
  return {first, std::min(first + kWarp, threads_.size())};
}

bool Block::allCame(const Thread& last) const {
  const auto [first, end] = peers(last);
  for (size_t i = first; i < end; ++i) {
    const Thread& other = threads_[i];
    const bool counts = last.waiting == Waiting::block || last.lanes >> (i - first) & 1;
    if (!counts) continue;
    if (other.waiting != last.waiting || other.line != last.line || other.lanes != last.lanes) return false;
  }
  return true;
}

void Block::release(const Thread& last) {
  const auto [first, end] = peers(last);
  const Waiting kind = last.waiting;
  const unsigned lanes = last.lanes;
  const int self = last.index;
  if (kind == Waiting::block) arrived_ = 0;
  for (size_t i = first; i < end; ++i) {
    Thread& other = threads_[i];
    if (kind == Waiting::warp && !(lanes >> (i - first) & 1)) continue;
    other.waiting = Waiting::no;
    if (other.index != self) runnable_.push_back(&other);
  }
}

void Block::wait(Waiting kind, unsigned lanes, int line) {
  Thread& self = *current_;
  self.waiting = kind;
  self.lanes = lanes;
  self.line = line;
  const bool maybe = kind == Waiting::warp || ++arrived_ == threads_.size();
  if (maybe && allCame(self))
    release(self);
  else
    toScheduler();
}

void Block::sleep(int line) {
  current_->waiting = Waiting::sleep;
  current_->line = line;
  toScheduler();
}

void Block::wake() {
  for (Thread& thread : threads_) {
    if (thread.waiting != Waiting::sleep) continue;
    thread.waiting = Waiting::no;
    runnable_.push_back(&thread);
  }
}

void Block::stuck() const {
  size_t ended = 0;
  std::map<std::pair<Waiting, int>, size_t> places;
  for (const Thread& thread : threads_) {
    if (thread.ended)
      ++ended;
    else
      ++places[{thread.waiting, thread.line}];
  }
  const auto name = [](Waiting kind) {
    return kind == Waiting::block ? "their block" : kind == Waiting::warp ? "their warp" : "others";
  };
  std::string who;
  for (const auto& [where, count] : places)
    who += str(who.empty() ? "" : ", ", count, " wait for ", name(where.first), " in line ", where.second);
  fail(Code::Internal, "A barrier in divergent code: of ", threads_.size(), " threads ", who, ", ", ended,
       " have ended");
}

}  // namespace

const Place& place() { return block->current().place; }
void* shared(const void* key, size_t bytes) { return block->shared(key, bytes); }
void* dynamicShared() { return block->dynamicShared().first; }
std::pair<void*, size_t> dynamicSharedSpan() { return block->dynamicShared(); }
std::shared_ptr<void>& keptOfBlock() { return block->kept(); }
void sleep(int line) { block->sleep(line); }
void wake() { block->wake(); }
void waitForBlock(int line) { block->wait(Waiting::block, 0, line); }
void waitForWarp(unsigned lanes, int line) { block->wait(Waiting::warp, lanes, line); }
Shown* shownByWarp() { return block->shownByWarp(); }
int laneOfWarp() { return block->current().index % kWarp; }

void startCopy(void* to, const void* from, int valid) {
  block->current().copies.back().push_back({to, from, valid});
}

void endCopyGroup() { block->current().copies.emplace_back(); }

void finishCopies(int pending) {
  auto& groups = block->current().copies;
  while (groups.size() > static_cast<size_t>(pending) + 1) {
    for (const Copy& copy : groups.front()) {
      std::memset(copy.to, 0, 16);
      if (copy.valid > 0) std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.valid));
    }
    groups.erase(groups.begin());
  }
}

void run(dim3 grid, dim3 size, size_t sharedBytes, const std::function<void()>& kernel) {
  if (size.x * size.y * size.z > 1024 || size.x * size.y * size.z == 0)
    fail(Code::Internal, "Expected 1 to 1024 threads a block but received ", size.x, " x ", size.y, " x ",
         size.z);
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535)
    fail(Code::Internal, "Expected a grid of 1 to (2^31 - 1, 65535, 65535) blocks but received ", grid.x,
         " x ", grid.y, " x ", grid.z);
  if (sharedBytes > (227u << 10))
    fail(Code::Internal, "A block asks for ", sharedBytes, " bytes of shared memory");
  const int64_t blocks = static_cast<int64_t>(grid.x) * grid.y * grid.z;
  std::exception_ptr problem;
  std::mutex mutex;
#pragma omp parallel
  {
    Block own(grid, size, sharedBytes, kernel);
    block = &own;
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < blocks; ++i) {
      try {
        own.run({static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                 static_cast<unsigned>(i / grid.x / grid.y)});
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!problem) problem = std::current_exception();
      }
    }
    block = nullptr;
  }
  if (problem) std::rethrow_exception(problem);
}

}  // namespace duet::gpu::emulation

namespace duet::gpu {

namespace {

using emulation::exchange;
constexpr unsigned kAll = 0xffffffffu;
using emulation::Shown;
using emulation::valueOf;

float halfOf(uint32_t word, int which) {
  const uint32_t bits = (which == 0 ? word & 0xffffu : word >> 16) << 16;
  return __uint_as_float(bits);
}

/// Element (row, k) of A, element (k, column) of B as a lane sees them in the words of all lanes.
template <typename A, typename B>
void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int depth, int line, A&& left,
              B&& right) {
  const int lane = emulation::laneOfWarp(), g = lane / 4, t = lane % 4;
  exchange(
      kAll, line,
      [&](unsigned char* to) {
        std::memcpy(to, a, 16);
        std::memcpy(to + 16, b, 8);
      },
      [&](const Shown* all) {
        for (int i = 0; i < 4; ++i) {
          const int row = g + i / 2 * 8, column = 2 * t + i % 2;
          for (int k = 0; k < depth; ++k) c[i] += left(all, row, k) * right(all, k, column);
        }
      });
}

}  // namespace

void mmaBf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line) {
  multiply(
      c, a, b, 16, line,
      [](const Shown* all, int row, int k) {
        const size_t word = static_cast<size_t>(row / 8 + k / 8 * 2);
        return halfOf(valueOf<uint32_t>(all[row % 8 * 4 + k % 8 / 2], word), k % 2);
      },
      [](const Shown* all, int k, int column) {
        return halfOf(valueOf<uint32_t>(all[column * 4 + k % 8 / 2], static_cast<size_t>(4 + k / 8)), k % 2);
      });
}

void mmaTf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line) {
  // Tensor cores look at the upper 19 bits only.
  const auto cut = [](uint32_t word) { return __uint_as_float(word & 0xffffe000u); };
  multiply(
      c, a, b, 8, line,
      [&](const Shown* all, int row, int k) {
        return cut(valueOf<uint32_t>(all[row % 8 * 4 + k % 4], static_cast<size_t>(row / 8 + k / 4 * 2)));
      },
      [&](const Shown* all, int k, int column) {
        return cut(valueOf<uint32_t>(all[column * 4 + k % 4], static_cast<size_t>(4 + k / 4)));
      });
}

uint32_t toTf32(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7f800000u) == 0x7f800000u) return bits;
  return (bits + 0x1000u) & 0xffffe000u;
}

namespace {

template <typename Place>
void loadMatricesAs(uint32_t (&to)[4], const void* row, int line, Place&& place) {
  exchange(
      kAll, line, [&](unsigned char* shown) { std::memcpy(shown, row, 16); },
      [&](const Shown* all) {
        for (int i = 0; i < 4; ++i) {
          uint32_t halves[2];
          for (int j = 0; j < 2; ++j) {
            const auto [line, column] = place(emulation::laneOfWarp(), j);
            halves[j] = valueOf<uint16_t>(all[8 * i + line], static_cast<size_t>(column));
          }
          to[i] = halves[0] | halves[1] << 16;
        }
      });
}

}  // namespace

void loadMatrices(uint32_t (&to)[4], const void* row, int line) {
  loadMatricesAs(to, row, line, [](int lane, int j) { return std::pair(lane / 4, 2 * (lane % 4) + j); });
}

void loadMatricesTurned(uint32_t (&to)[4], const void* row, int line) {
  loadMatricesAs(to, row, line, [](int lane, int j) { return std::pair(2 * (lane % 4) + j, lane / 4); });
}

}  // namespace duet::gpu
