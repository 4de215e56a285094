#include "ops/detail_branch.h"

#include <type_traits>
#include <vector>

#include "ops/detail_strip.h"
#include "ops/kernels.h"
#include "ops/scratch.h"

namespace duet::cpu::DUET_ISA {
namespace {

int64_t stripsOf(const DetailShape& s) { return s.clips * ((s.channels + kLanes - 1) / kLanes); }

/// Which channels a strip holds.
struct Place {
  int64_t firstRow, channel, lanes;
  Place(const DetailShape& s, int64_t index) {
    const int64_t each = (s.channels + kLanes - 1) / kLanes;
    firstRow = index / each * s.frames * s.height * s.width;
    channel = index % each * kLanes;
    lanes = s.channels - channel < kLanes ? s.channels - channel : kLanes;
  }
};

void loadStrip(const DetailShape& shape, const Place& place, const float* x, Vec* to, int64_t count) {
  const float* from = x + place.firstRow * shape.channels + place.channel;
  for (int64_t i = 0; i < count; ++i) to[i] = loadSome(from + i * shape.channels, place.lanes);
}

void storeStrip(const DetailShape& shape, const Place& place, const Vec* from, float* y, int64_t count,
                bool accumulate) {
  float* to = y + place.firstRow * shape.channels + place.channel;
  for (int64_t i = 0; i < count; ++i, to += shape.channels)
    storeSome(to, accumulate ? loadSome(to, place.lanes) + from[i] : from[i], place.lanes);
}

void padInto(const Strip& s, const Vec* plain, Vec* padded) {
  for (int64_t f = 0; f < s.frames; ++f)
    for (int64_t y = 0; y < s.height; ++y) {
      const Vec* from = plain + (f * s.height + y) * s.width;
      Vec* to = padded + f * s.paddedFrame() + (y + 1) * s.pitch() + 1;
      for (int64_t x = 0; x < s.width; ++x) to[x] = from[x];
    }
}

Vec* takeVectors(Share& share, int64_t count) { return reinterpret_cast<Vec*>(share.take(count * kLanes)); }

Vec* takeZeroed(Share& share, int64_t count) {
  Vec* vectors = takeVectors(share, count);
  for (int64_t i = 0; i < count; ++i) vectors[i] = Vec{};
  return vectors;
}

/// The four convolutions of the branch with weights in tiles.
struct PackedConvolutions {
  std::vector<float> data;
  const float* of[4];

  PackedConvolutions(const Strip& s, const DetailBlockOf<const float>* blocks, bool flipped)
      : data(static_cast<size_t>(4 * s.packedWeights())) {
    for (int i = 0; i < 4; ++i) {
      float* to = data.data() + i * s.packedWeights();
      packDetailWeights(s, i % 2 == 0 ? blocks[i / 2].conv1 : blocks[i / 2].conv2, flipped, to);
      of[i] = to;
    }
  }
};

void forward(const DetailForward& c) {
  const DetailShape& shape = c.shape;
  const Strip s{shape.frames, shape.height, shape.width};
  const PackedConvolutions packed(s, c.blocks, false);
  const Scratch scratch((2 * s.plain() + s.padded()) * kLanes + 64);
  const int64_t strips = stripsOf(shape);
#pragma omp parallel
  {
    Share share(scratch);
    Vec *d = takeVectors(share, s.plain()), *inner = takeVectors(share, s.plain());
    Vec* activated = takeZeroed(share, s.padded());
#pragma omp for schedule(static)
    for (int64_t index = 0; index < strips; ++index) {
      const Place place(shape, index);
      loadStrip(shape, place, c.x, d, s.plain());
      for (int block = 0; block < 2; ++block) {
        const DetailBlockOf<const float>& b = c.blocks[block];
        normSilu(s, d, momentsOf(s, d, shape.epsilon), b.norm1, b.norm1Bias, activated);
        convolveStrip(s, activated, packed.of[2 * block], b.conv1Bias, nullptr, inner);
        normSilu(s, inner, momentsOf(s, inner, shape.epsilon), b.norm2, b.norm2Bias, activated);
        convolveStrip(s, activated, packed.of[2 * block + 1], b.conv2Bias, d, d);
      }
      storeStrip(shape, place, d, c.y, s.plain(), false);
    }
  }
}

/// Where the gradients of one block lie in a run of them, in the order of DetailBlockOf.
struct GradientLayout {
  int64_t sizes[8], offsets[8], each = 0;
  explicit GradientLayout(int64_t frames) {
    for (int i = 0; i < 8; ++i) {
      offsets[i] = each;
      sizes[i] = i % 4 == 2 ? frames * frames * 9 : frames;
      each += sizes[i];
    }
  }
};

/// What backward holds of one strip. Gradients of parameters are vectors of channels until the strip is done.
struct BackwardStrip {
  const Strip& s;
  const DetailBackward& c;
  const PackedConvolutions &packed, &flipped;
  const GradientLayout& layout;
  Vec *input[2], *inner[2], *upstream, *work;  // plain
  Vec *activated1, *activated2, *padded;       // padded
  Vec* gradients;                              // of both blocks
  Moments first[2], second[2];

  void recompute(int block) {
    const DetailBlockOf<const float>& b = c.blocks[block];
    first[block] = momentsOf(s, input[block], c.shape.epsilon);
    normSilu(s, input[block], first[block], b.norm1, b.norm1Bias, activated1);
    convolveStrip(s, activated1, packed.of[2 * block], b.conv1Bias, nullptr, inner[block]);
    second[block] = momentsOf(s, inner[block], c.shape.epsilon);
    if (block == 1) return;
    normSilu(s, inner[0], second[0], b.norm2, b.norm2Bias, activated2);
    convolveStrip(s, activated2, packed.of[1], b.conv2Bias, input[0], input[1]);
  }

  Vec* gradient(int block, int which) const {
    return gradients + block * layout.each + layout.offsets[which];
  }

  /// `upstream` is the gradient of the block's output and becomes that of its input.
  void back(int block) {
    const DetailBlockOf<const float>& b = c.blocks[block];
    if (block == 0) normSilu(s, input[0], first[0], b.norm1, b.norm1Bias, activated1);
    normSilu(s, inner[block], second[block], b.norm2, b.norm2Bias, activated2);
    padInto(s, upstream, padded);
    convolutionGradients(block, 6, activated2);
    convolveStrip(s, padded, flipped.of[2 * block + 1], nullptr, nullptr, work);
    normSiluBackward(s, inner[block], second[block], b.norm2, b.norm2Bias, work, gradient(block, 4),
                     gradient(block, 5));
    padInto(s, work, padded);
    convolutionGradients(block, 2, activated1);
    convolveStrip(s, padded, flipped.of[2 * block], nullptr, nullptr, work);
    normSiluBackward(s, input[block], first[block], b.norm1, b.norm1Bias, work, gradient(block, 0),
                     gradient(block, 1));
    for (int64_t i = 0; i < s.plain(); ++i) upstream[i] += work[i];
  }

  void convolutionGradients(int block, int which, const Vec* activated) const {
    if (!c.parameters) return;
    weightGradientStrip(s, padded, activated, gradient(block, which));
    frameSums(s, padded, gradient(block, which + 1));
  }

  /// The sum over the channels of every gradient.
  void sumChannels(float* to) const {
    for (int64_t i = 0; i < 2 * layout.each; ++i) {
      float sum = 0.0f;
      for (int lane = 0; lane < kLanes; ++lane) sum += gradients[i][lane];
      to[i] = sum;
    }
  }
};

/// Adds the strips' gradients in their order.
void addGradients(const DetailBackward& c, const GradientLayout& layout, const float* partial,
                  int64_t strips) {
  for (int block = 0; block < 2; ++block) {
    const DetailBlockOf<float>& g = c.gradients[block];
    float* targets[] = {g.norm1, g.norm1Bias, g.conv1, g.conv1Bias,
                        g.norm2, g.norm2Bias, g.conv2, g.conv2Bias};
    for (int which = 0; which < 8; ++which)
      for (int64_t i = 0; i < layout.sizes[which] && targets[which]; ++i) {
        double sum = targets[which][i];
        for (int64_t strip = 0; strip < strips; ++strip)
          sum += partial[(2 * strip + block) * layout.each + layout.offsets[which] + i];
        targets[which][i] = static_cast<float>(sum);
      }
  }
}

void backward(const DetailBackward& c) {
  const DetailShape& shape = c.shape;
  const Strip s{shape.frames, shape.height, shape.width};
  const PackedConvolutions packed(s, c.blocks, false), flipped(s, c.blocks, true);
  const GradientLayout layout(s.frames);
  const int64_t strips = stripsOf(shape);
  const Scratch scratch((6 * s.plain() + 3 * s.padded() + 2 * layout.each) * kLanes + 256);
  const Zeros partial(c.parameters ? strips * 2 * layout.each : 0);
#pragma omp parallel
  {
    Share share(scratch);
    BackwardStrip b{s, c, packed, flipped, layout, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}};
    for (Vec** plain : {&b.input[0], &b.input[1], &b.inner[0], &b.inner[1], &b.upstream, &b.work})
      *plain = takeVectors(share, s.plain());
    for (Vec** padded : {&b.activated1, &b.activated2, &b.padded}) *padded = takeZeroed(share, s.padded());
    b.gradients = takeVectors(share, 2 * layout.each);
#pragma omp for schedule(static)
    for (int64_t index = 0; index < strips; ++index) {
      const Place place(shape, index);
      loadStrip(shape, place, c.x, b.input[0], s.plain());
      loadStrip(shape, place, c.dy, b.upstream, s.plain());
      b.recompute(0);
      b.recompute(1);
      b.back(1);
      b.back(0);
      if (c.dx) storeStrip(shape, place, b.upstream, c.dx, s.plain(), c.accumulate);
      if (c.parameters) b.sumChannels(partial.data + index * 2 * layout.each);
    }
  }
  if (c.parameters) addGradients(c, layout, partial.data, strips);
}

void weightedSum(const float* a, const float* w1, const float* b, const float* w2, float* y, int64_t count) {
  const float first = *w1, second = *w2;
#pragma omp parallel for simd schedule(static) if (count > 16384)
  for (int64_t i = 0; i < count; ++i) y[i] = first * a[i] + second * b[i];
}

void weightedSumBackward(const WeightedSumBackward& c) {
  double sums[kReductionChunks][2] = {};
#pragma omp parallel for schedule(static)
  for (int64_t chunk = 0; chunk < kReductionChunks; ++chunk) {
    const int64_t begin = c.count * chunk / kReductionChunks, end = c.count * (chunk + 1) / kReductionChunks;
    double first = 0, second = 0;
#pragma omp simd reduction(+ : first, second)
    for (int64_t i = begin; i < end; ++i) {
      first += static_cast<double>(c.dy[i]) * static_cast<double>(c.a[i]);
      second += static_cast<double>(c.dy[i]) * static_cast<double>(c.b[i]);
    }
    sums[chunk][0] = first;
    sums[chunk][1] = second;
    const auto spread = [&](float* to, float w, bool accumulate) {
      if (!to) return;
      if (accumulate) {
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) to[i] += w * c.dy[i];
      } else {
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) to[i] = w * c.dy[i];
      }
    };
    spread(c.da, *c.w1, c.accumulateA);
    spread(c.db, *c.w2, c.accumulateB);
  }
  const auto finish = [&](float* to, int which, bool accumulate) {
    if (!to) return;
    double total = 0;
    for (const auto& sum : sums) total += sum[which];
    *to = static_cast<float>((accumulate ? static_cast<double>(*to) : 0.0) + total);
  };
  finish(c.dw1, 0, c.accumulateW1);
  finish(c.dw2, 1, c.accumulateW2);
}

}  // namespace

DetailKernels detailKernels() { return {forward, backward, weightedSum, weightedSumBackward}; }

}  // namespace duet::cpu::DUET_ISA
