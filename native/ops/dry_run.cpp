#include "ops/dry_run.h"

#include <map>
#include <mutex>

#include "ops/packed_layout.h"

namespace duet {

namespace {

/// What a backend does not have it does not have in a dry run.
template <typename Result, typename... Arguments>
void silence(Result (*&kernel)(Arguments...)) {
  if (kernel) kernel = [](Arguments...) -> Result { return Result(); };
}

template <typename... Kernels>
void silenceSome(Kernels&... kernels) {
  (silence(kernels), ...);
}

/// All kernels of a table.
template <typename Table, typename... Kernels>
void silenceAll(const Table&, Kernels&... kernels) {
  static_assert(sizeof(Table) == sizeof...(kernels) * sizeof(void*),
                "This table has a kernel that still runs");
  silenceSome(kernels...);
}

/// A size in the place of a matrix; nothing but packedBytes looks into it.
struct PackedSize {
  size_t bytes;
  Tensor taken;
};

std::shared_ptr<PackedMatrix> packSize(const PackSource& b, DType dtype, Arena* arena) {
  const auto size = std::make_shared<PackedSize>();
  size->bytes = packedLayoutBytes(b.k, b.n, dtype);
  if (arena) size->taken = arena->empty({static_cast<int64_t>(size->bytes)}, DType::u8);
  return {size, reinterpret_cast<PackedMatrix*>(size.get())};
}

size_t sizeOfPacked(const PackedMatrix& packed) { return reinterpret_cast<const PackedSize&>(packed).bytes; }

/// This thread's backend with silent kernels.
Backend silent() {
  static_assert(sizeof(Backend) == 58 * sizeof(void*), "Silence the kernels that were added to the backend");
  Backend b = backend();
  b.name = "dry run";
  // What only tells sizes goes on telling them.
  silence(b.product.multiply);
  b.product.pack = packSize;
  b.product.packedBytes = sizeOfPacked;
  silenceSome(b.winograd.transformKernel, b.winograd.convolve, b.winograd.gradient);
  silenceAll(b.norm, b.norm.forward, b.norm.backward, b.norm.rmsForward);
  silenceAll(b.activation, b.activation.forward, b.activation.backward);
  silenceAll(b.attention, b.attention.forward, b.attention.backward);
  ElementwiseKernels& e = b.elementwise;
  silenceAll(e, e.convert, e.add, e.multiply, e.scale, e.columnSum, e.gatherRows, e.addRows, e.dropout);
  silenceAll(b.embedding, b.embedding.forward, b.embedding.backward);
  LossKernels& l = b.loss;
  silenceAll(l, l.distillation, l.binary, l.crossEntropy, l.softmax, l.softmaxBackward);
  silenceAll(b.optimizer, b.optimizer.adamw, b.optimizer.squareSum, b.optimizer.movingAverage);
  silenceAll(b.convolution, b.convolution.gatherPatches, b.convolution.sumPatches);
  silenceAll(b.packing, b.packing.pack);
  silenceAll(b.groupNorm, b.groupNorm.forward, b.groupNorm.backward);
  ResampleKernels& r = b.resample;
  silenceAll(r, r.upsample, r.upsampleBackward, r.averagePool, r.averagePoolBackward);
  silenceAll(b.temporalAttention, b.temporalAttention.forward, b.temporalAttention.backward);
  silenceAll(b.detail, b.detail.forward, b.detail.backward, b.detail.weightedSum,
             b.detail.weightedSumBackward);
  silenceAll(b.gated, b.gated.forward, b.gated.backward, b.gated.copyColumns);
  silenceAll(b.noise, b.noise.maskedSquaredError, b.noise.timeEmbedding);
  return b;
}

/// This thread's memory without anything in it.
Memory addresses() {
  const Memory& device = currentMemory();
  Memory m = hostMemory();
  m.onHost = device.onHost;
  m.redzone = device.redzone;
  m.copyIn = m.copyOut = m.copy = [](void*, const void*, size_t) {};
  m.zero = [](void*, size_t) {};
  return m;
}

struct Dry {
  Backend backend = silent();
  Memory memory = addresses();
};

/// Made once for every device.
const Dry& dry() {
  static std::mutex mutex;
  static std::map<const Backend*, Dry> made;
  const std::lock_guard lock(mutex);
  return made[&backend()];
}

}  // namespace

DryRun::DryRun() {
  const Dry& d = dry();
  backendBefore_ = replaceBackend(&d.backend);
  memoryBefore_ = replaceMemory(&d.memory);
}

DryRun::~DryRun() {
  replaceBackend(backendBefore_);
  replaceMemory(memoryBefore_);
}

}  // namespace duet
