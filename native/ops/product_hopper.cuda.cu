// Products of bf16 for Hopper: a block on each multiprocessor takes one tile of C after another. Of its three
// warpgroups the first has the hardware copy tiles of A and B into a ring of stages, the others multiply half
// the rows each, so that copies of the next tile of C go on while the sums of the last are written. A and B
// are read as they are stored, along K or across.
#include "ops/product_hopper.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "gpu/hopper.h"
#include "ops/product_parts.cuh"

namespace duet::gpu {

namespace {

constexpr int kRows = 128, kDepth = 64;
constexpr int kConsumers = 2;
constexpr unsigned kHopperThreads = (1 + kConsumers) * kWarpgroup;
static_assert(kRows == kConsumers * 64 && kDepth == kTileColumns);

template <int N>
constexpr int kStageBytes = (kRows + N) * kTileRowBytes;
template <int N>
constexpr int kStages = (224 << 10) / kStageBytes<N>;

/// What there is to do: tiles of C, each for some of K.
struct Units {
  int count, tiles, downTiles, k, depth;
};

template <int N>
struct Unit {
  int part, row, column, kBegin, steps;

  /// Tiles go down the columns of C, so that blocks at work together share their part of B.
  DUET_DEVICE Unit(const Units& all, int index)
      : part(index / all.tiles),
        row(index % all.tiles % all.downTiles * kRows),
        column(index % all.tiles / all.downTiles * N),
        kBegin(part * all.depth) {
    const int left = all.k - kBegin;
    steps = ((left < all.depth ? left : all.depth) + kDepth - 1) / kDepth;
  }
};

/// A place in the ring, and the parity of the round.
template <int N>
struct Turn {
  int stage = 0;
  unsigned parity = 0;

  DUET_DEVICE void next() {
    if (++stage < kStages<N>) return;
    stage = 0;
    parity ^= 1;
  }
};

/// Copies what a stage has of an operand: `Extent` rows (columns of B) from `first` on, kDepth of K. Across,
/// a panel has 64 of them.
template <int Extent, bool AlongK>
DUET_DEVICE void copyOperand(unsigned char* to, const TensorMap& map, int first, int k, Barrier& barrier) {
  if constexpr (AlongK) {
    copyTile(to, map, k, first, barrier);
  } else {
    for (int i = 0; i < Extent / kTileColumns; ++i)
      copyTile(to + i * kPanelBytes, map, first + i * kTileColumns, k, barrier);
  }
}

template <int N, bool AAlongK, bool BAlongK>
__global__ void __launch_bounds__(kHopperThreads, 1)
    hopperKernel(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, Units units,
                 Finish ending, int64_t partStride) {
#if DUET_HOPPER
  constexpr int stages = kStages<N>, wgmmaDepth = 16, eightRows = 8 * kTileRowBytes;
  DUET_SHARED(Barrier, full, [stages]);
  DUET_SHARED(Barrier, empty, [stages]);
  DUET_DYNAMIC_SHARED(unsigned char, bytes);
  unsigned char* const ring = tilesIn(bytes);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  if (thread == 0) {
    for (int i = 0; i < stages; ++i) {
      barrierInit(full[i], 1);
      barrierInit(empty[i], kConsumers * kWarpgroup / kWarp);
    }
    barrierFence();
  }
  __syncthreads();

  Turn<N> turn;
  if (thread < kWarpgroup) {
    fewerRegisters<40>();
    if (thread != 0) return;
    for (int i = static_cast<int>(blockIdx.x); i < units.count; i += static_cast<int>(gridDim.x)) {
      const Unit<N> unit(units, i);
      for (int step = 0; step < unit.steps; ++step, turn.next()) {
        unsigned char* const stage = ring + turn.stage * kStageBytes<N>;
        Barrier& arrived = full[turn.stage];
        const int k = unit.kBegin + step * kDepth;
        barrierWait(empty[turn.stage], turn.parity ^ 1);
        barrierExpect(arrived, kStageBytes<N>);
        copyOperand<kRows, AAlongK>(stage, a, unit.row, k, arrived);
        copyOperand<N, BAlongK>(stage + kRows * kTileRowBytes, b, unit.column, k, arrived);
      }
    }
    return;
  }

  moreRegisters<232>();
  const int consumer = thread / kWarpgroup - 1, warp = thread % kWarpgroup / kWarp;
  // The hardware counts arrivals of warps, each of which is done with its own reads.
  const auto release = [&](int stage) {
    if (lane == 0) barrierArrive(empty[stage]);
  };
  constexpr uint32_t aStep = AAlongK ? 2 * wgmmaDepth : wgmmaDepth * kTileRowBytes;
  constexpr uint32_t bStep = BAlongK ? 2 * wgmmaDepth : wgmmaDepth * kTileRowBytes;
  float sums[N / 2];
  for (int i = static_cast<int>(blockIdx.x); i < units.count; i += static_cast<int>(gridDim.x)) {
    const Unit<N> unit(units, i);
    int before = 0;
    for (int step = 0; step < unit.steps; ++step, turn.next()) {
      const uint32_t stage = sharedAddress(ring) + static_cast<uint32_t>(turn.stage * kStageBytes<N>);
      const uint64_t left =
          descriptorOf(stage + static_cast<uint32_t>(consumer * kPanelBytes), kPanelBytes, eightRows);
      const uint64_t right = descriptorOf(stage + kRows * kTileRowBytes, kPanelBytes, eightRows);
      barrierWait(full[turn.stage], turn.parity);
      wgmmaFence();
#pragma unroll
      for (uint32_t j = 0; j < kDepth / wgmmaDepth; ++j)
        wgmma<N, !AAlongK, !BAlongK>(sums, further(left, j * aStep), further(right, j * bStep),
                                     step > 0 || j > 0);
      wgmmaCommit();
      wgmmaWait<1>(sums);
      if (step > 0) release(before);
      before = turn.stage;
    }
    wgmmaWait<0>(sums);
    release(before);

    Finish here = ending;
    if (partStride > 0) here.c = static_cast<float*>(here.c) + unit.part * partStride;
    const int row = unit.row + 64 * consumer + 16 * warp;
#pragma unroll
    for (int below = 0; below < 2; ++below)
#pragma unroll
      for (int pair = 0; pair < N / 16; ++pair)
        finishPair(here, row + 8 * below, unit.column + 16 * pair, sums + 8 * pair + 2 * below,
                   sums + 8 * pair + 4 + 2 * below);
  }
#endif
}

/// A width of tiles, and how much of K a unit takes.
struct Plan {
  int columns, depth;
};

int64_t tilesOf(const MatrixProduct& p, int columns) {
  return ((p.m + kRows - 1) / kRows) * ((int64_t{p.n} + columns - 1) / columns);
}

/// What takes the least time, as long as multiprocessors take alike: rounds of tiles by their width and their
/// K, and beside it what filling the ring and writing the sums costs. Where tiles leave most of them idle, a
/// long K goes in parts.
Plan planOf(const MatrixProduct& p) {
  constexpr int shortest = 4 * kDepth, beside = 2 * kDepth;
  const int64_t enough = multiprocessors();
  Plan best{};
  int64_t least = INT64_MAX;
  for (int columns : {256, 192, 128}) {
    const int64_t tiles = tilesOf(p, columns), idle = enough / tiles, most = p.k / shortest;
    const int64_t parts = idle < most ? idle : most, each = parts > 1 ? (p.k + parts - 1) / parts : p.k;
    const int64_t depth = (each + kDepth - 1) / kDepth * kDepth;
    const int64_t rounds = (tiles * ((p.k + depth - 1) / depth) + enough - 1) / enough;
    const int64_t time = rounds * columns * (depth + beside);
    if (time < least) best = {columns, static_cast<int>(depth)}, least = time;
  }
  return best;
}

TensorMap mapOf(const Operand& operand, int extent, int k, int tileExtent) {
  return operand.alongK ? tensorMapOf(operand.data, extent, k, operand.stride, tileExtent)
                        : tensorMapOf(operand.data, k, extent, operand.stride, kDepth);
}

template <int N>
void launchHopper(const MatrixProduct& p, int depth, int mostBlocks) {
  constexpr size_t bytes = kStages<N> * kStageBytes<N> + 1024;
  const auto kernel = p.a.alongK   ? p.b.alongK ? hopperKernel<N, true, true> : hopperKernel<N, true, false>
                        : p.b.alongK ? hopperKernel<N, false, true>
                                   : hopperKernel<N, false, false>;
  const TensorMap a = mapOf(p.a, p.m, p.k, kRows), b = mapOf(p.b, p.n, p.k, N);
  const int tiles = static_cast<int>(tilesOf(p, N)), count = (p.k + depth - 1) / depth;
  const Units units{tiles * count, tiles, (p.m + kRows - 1) / kRows, p.k, depth};
  const auto blocks = static_cast<unsigned>(units.count < mostBlocks ? units.count : mostBlocks);
  if (count == 1) {
    launch(kernel, blocks, kHopperThreads, bytes, a, b, units, p.finish, 0);
    return;
  }
  const Parts parted(p.m, p.n, count);
  launch(kernel, blocks, kHopperThreads, bytes, a, b, units, parted.finish(), parted.stride());
  parted.add(p.finish);
}

void launchHopper(int columns, const MatrixProduct& p, int depth, int mostBlocks) {
  columns == 256   ? launchHopper<256>(p, depth, mostBlocks)
  : columns == 192 ? launchHopper<192>(p, depth, mostBlocks)
                   : launchHopper<128>(p, depth, mostBlocks);
}

struct Choice {
  bool hopper;
  std::string way;
};

Choice choose() {
  const std::string portable = "portable (mma.sync)";
  if (!isHopper()) return {false, portable};
  const char* asked = std::getenv("DUET_PRODUCTS");
  if (asked && std::string(asked) == "portable") return {false, portable + ", as DUET_PRODUCTS says"};
  if (kOnTrial && !productsAgree()) return {false, portable + ": those of Hopper (wgmma, TMA) were wrong"};
  return {true, "Hopper (wgmma, TMA)"};
}

thread_local const Choice* inUse = nullptr;

}  // namespace

/// Every kernel, each block with several tiles, K in parts longer than the ring. Integers, so that sums are
/// exact in any order.
bool productsAgree() {
  constexpr int m = 136, n = 264, k = 616, depth = 8 * kDepth, blocks = 3;
  const Scratch<bf16> a(m * k), b(k * n);
  const Scratch<float> c(2 * m * n);
  const auto fill = [](bf16* to, int64_t count, int64_t step) {
    forEach(count, [=] DUET_LAMBDA(int64_t i) { storeAs(to, i, static_cast<float>(i * step % 17 - 8)); });
  };
  fill(a.data(), m * k, 5);
  fill(b.data(), k * n, 7);
  std::vector<float> results(2 * m * n);
  for (int columns : {128, 192, 256})
    for (const bool aAlongK : {true, false})
      for (const bool bAlongK : {true, false}) {
        MatrixProduct p{{a.data(), aAlongK ? k : m, aAlongK, true},
                        {b.data(), bAlongK ? k : n, bAlongK, true},
                        m,
                        n,
                        k,
                        {c.data(), nullptr, nullptr, n, 0, m, n, false, false, true}};
        multiplyTiles<bf16>(p);
        p.finish.c = c.data() + m * n;
        launchHopper(columns, p, depth, blocks);
        readBack(results.data(), c.data(), 2 * m * n);
        if (!std::equal(results.begin(), results.begin() + m * n, results.begin() + m * n)) return false;
      }
  return true;
}

const std::string& chooseProducts(int device) {
  static std::mutex mutex;
  static std::map<int, Choice> choices;
  const std::lock_guard lock(mutex);
  auto found = choices.find(device);
  if (found == choices.end()) found = choices.emplace(device, choose()).first;
  inUse = &found->second;
  return inUse->way;
}

/// Less than a tile, or of so short a K, is nothing for large tiles.
bool takesHopper(const MatrixProduct& p) {
  constexpr int small = 64;
  return inUse && inUse->hopper && p.m > small && p.n > small && p.k >= small && p.a.aligned && p.b.aligned;
}

void multiplyOnHopper(const MatrixProduct& p) {
  const Plan plan = planOf(p);
  launchHopper(plan.columns, p, plan.depth, multiprocessors());
}

}  // namespace duet::gpu
