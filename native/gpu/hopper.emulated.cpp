#include <deque>

#include "gpu/hopper.h"

namespace duet::gpu {

namespace {

using emulation::Wgmma;

/// What a TensorMap says here.
struct Map {
  const unsigned char* data;
  int64_t rows, columns, strideBytes;
  int tileRows;
};
static_assert(sizeof(Map) <= sizeof(TensorMap));

struct Copy {
  unsigned char* to;
  Map map;
  int x, y;
  Barrier* barrier;
};

/// What is under way in a block.
struct UnderWay {
  std::deque<Copy> copies;
  struct Groups {
    std::deque<std::vector<Wgmma>> ended;
    std::vector<Wgmma> open;
  };
  std::vector<Groups> ofThread = std::vector<Groups>(1024);
};

UnderWay& underWay() { return emulation::ofBlock<UnderWay>(); }
UnderWay::Groups& groupsOfThread() { return underWay().ofThread[threadIdx.x]; }

unsigned char* swizzled(unsigned char* place) {
  const auto address = reinterpret_cast<uintptr_t>(place);
  return place - address + (address ^ (address >> 7 & 7) << 4);
}

void requireMade(const Barrier& barrier) {
  if (barrier.expected == 0xffff) fail(Code::Internal, "A barrier is used that nobody has made");
}

void endPhase(Barrier& barrier) {
  constexpr int most = (1 << 20) - 1;
  if (barrier.bytes > most || barrier.bytes < -most)
    fail(Code::Internal, "A barrier waits for ", static_cast<int>(barrier.bytes), " bytes");
  if (barrier.pending > 0 || barrier.bytes != 0) return;
  ++barrier.phase;
  barrier.pending = barrier.expected;
  emulation::wake();
}

void arrive(const Copy& copy) {
  const Map& map = copy.map;
  for (int row = 0; row < map.tileRows; ++row)
    for (int chunk = 0; chunk < kTileRowBytes / 16; ++chunk) {
      uint16_t values[8] = {};
      for (int i = 0; i < 8; ++i) {
        const int64_t x = copy.x + 8 * chunk + i, y = copy.y + row;
        if (x >= 0 && x < map.columns && y >= 0 && y < map.rows)
          std::memcpy(values + i, map.data + y * map.strideBytes + 2 * x, 2);
      }
      std::memcpy(swizzled(copy.to + row * kTileRowBytes + chunk * 16), values, 16);
    }
  copy.barrier->bytes -= map.tileRows * kTileRowBytes;
  endPhase(*copy.barrier);
}

/// What a descriptor points to, 16 of K by as many rows (A) or columns (B) as there are.
class Operand {
 public:
  Operand(uint64_t descriptor, bool across)
      : address_(static_cast<uint32_t>(descriptor & 0x3fff) << 4),
        leading_(static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4),
        stride_(static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4),
        across_(across) {
    if (descriptor >> 62 != 1) fail(Code::Internal, "Only the 128-byte swizzle of wgmma is emulated");
    if (descriptor >> 49 & 7) fail(Code::Internal, "Only a base offset of 0 of wgmma is emulated");
  }

  float at(int line, int k) const {
    const int outer = across_ ? k : line, inner = across_ ? line % kTileColumns : k;
    uint32_t address = address_ + static_cast<uint32_t>(outer / 8) * stride_ +
                       static_cast<uint32_t>(outer % 8 * kTileRowBytes + 2 * inner);
    if (across_) address += static_cast<uint32_t>(line / kTileColumns) * leading_;
    address ^= (address >> 7 & 7) << 4;
    const std::pair shared = emulation::dynamicSharedSpan();
    const auto base = sharedAddress(shared.first);
    const uint32_t offset = (address - base) & 0x3ffff;
    if (offset + 2 > shared.second) fail(Code::Internal, "A wgmma reads outside of shared memory");
    uint16_t bits;
    std::memcpy(&bits, static_cast<const unsigned char*>(shared.first) + offset, 2);
    return __uint_as_float(static_cast<uint32_t>(bits) << 16);
  }

 private:
  uint32_t address_, leading_, stride_;
  bool across_;
};

/// This thread's part.
void multiply(const Wgmma& p) {
  constexpr int depth = 16;
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup, lane = thread % kWarp;
  const Operand a(p.a, p.aAcross), b(p.b, p.bAcross);
  float left[2][depth];
  for (int below = 0; below < 2; ++below)
    for (int k = 0; k < depth; ++k) left[below][k] = a.at(thread / kWarp * 16 + lane / 4 + 8 * below, k);
  for (int i = 0; i < p.columns / 4; ++i) {
    float right[depth];
    for (int k = 0; k < depth; ++k) right[k] = b.at(i / 2 * 8 + 2 * (lane % 4) + i % 2, k);
    for (int below = 0; below < 2; ++below) {
      float& sum = p.sums[i / 2 * 4 + 2 * below + i % 2];
      if (!p.add) sum = 0.0f;
      for (int k = 0; k < depth; ++k) sum += left[below][k] * right[k];
    }
  }
}

}  // namespace

bool isHopper() { return true; }

TensorMap tensorMapOf(const void* data, int64_t rows, int64_t columns, int64_t stride, int tileRows) {
  constexpr int64_t most = int64_t{1} << 32;
  const Map map{static_cast<const unsigned char*>(data), rows, columns, 2 * stride, tileRows};
  if (reinterpret_cast<uintptr_t>(data) % 16 != 0 || map.strideBytes % 16 != 0 || rows < 1 || rows > most ||
      columns < 1 || columns > most || tileRows < 1 || tileRows > 256)
    fail(Code::Internal, "A matrix of ", rows, " x ", columns, ", rows ", stride,
         " apart, cannot be copied in tiles of ", tileRows, " rows");
  TensorMap packed{};
  std::memcpy(packed.bytes, &map, sizeof(map));
  return packed;
}

void barrierInit(Barrier& barrier, int count) {
  barrier = {static_cast<uint16_t>(count), static_cast<uint16_t>(count), 0, 0};
}

void barrierExpect(Barrier& barrier, int bytes) {
  barrier.bytes += bytes;
  barrierArrive(barrier);
}

void barrierArrive(Barrier& barrier) {
  requireMade(barrier);
  if (barrier.pending == 0) fail(Code::Internal, "More arrive at a barrier than it expects");
  --barrier.pending;
  endPhase(barrier);
}

void barrierWait(Barrier& barrier, unsigned parity, int line) {
  requireMade(barrier);
  const auto ended = [&] { return (barrier.phase & 1) != parity; };
  std::deque<Copy>& copies = underWay().copies;
  for (size_t i = 0; !ended() && i < copies.size();) {
    if (copies[i].barrier != &barrier) {
      ++i;
      continue;
    }
    const Copy copy = copies[i];
    copies.erase(copies.begin() + static_cast<std::ptrdiff_t>(i));
    arrive(copy);
  }
  while (!ended()) emulation::sleep(line);
}

void copyTile(void* to, const TensorMap& map, int x, int y, Barrier& barrier) {
  requireMade(barrier);
  if (reinterpret_cast<uintptr_t>(to) % 128 != 0)
    fail(Code::Internal, "A tile is copied to where no multiple of 128 bytes is");
  Copy copy{static_cast<unsigned char*>(to), {}, x, y, &barrier};
  std::memcpy(&copy.map, map.bytes, sizeof(Map));
  if (blockIdx.x % 2 == 1)
    arrive(copy);
  else
    underWay().copies.push_back(copy);
}

namespace emulation {

void startWgmma(const Wgmma& product) { groupsOfThread().open.push_back(product); }

void endWgmmaGroup() {
  UnderWay::Groups& groups = groupsOfThread();
  groups.ended.push_back(std::move(groups.open));
  groups.open.clear();
}

/// The instruction is the whole warp's: all its lanes are done when one goes on.
void finishWgmmas(int pending, int line) {
  auto& ended = groupsOfThread().ended;
  for (; ended.size() > static_cast<size_t>(pending); ended.pop_front())
    for (const Wgmma& product : ended.front()) multiply(product);
  waitForWarp(0xffffffffu, line);
}

}  // namespace emulation

}  // namespace duet::gpu
