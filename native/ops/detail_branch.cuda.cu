// A block takes a strip: some channels of one clip, all frames and pixels, through the whole branch. What
// lies between the convolutions stays in shared memory, or for large pictures in scratch memory of the block.
//
// Channels of a strip lie side by side. A warp takes frame after frame where values are taken one by one. In
// convolutions a thread makes kOut frames of kDown pixels below each other, so that a value serves 3 kOut
// products and a weight kDown.
#include "ops/detail_branch.h"

#include "gpu/rows.h"
#include "ops/kernels.h"

namespace duet::gpu {
namespace {

constexpr int kOut = 4, kDown = 4;
constexpr int kMostChannels = 8;
constexpr int64_t kSharedBytes = 96 << 10;  // all GPUs that we know have 99 KiB for a block

/// Sizes of a strip; counts are of floats. Padded frames have a border of zeros, and room for kDown pixels
/// wherever a thread begins.
struct Sizes {
  int frames, height, width, channels;
  Divisor ofWidth, ofOutTiles, ofFrames;

  Sizes(const DetailShape& s, int channels)
      : frames(static_cast<int>(s.frames)),
        height(static_cast<int>(s.height)),
        width(static_cast<int>(s.width)),
        channels(channels),
        ofWidth(s.width),
        ofOutTiles(outTiles()),
        ofFrames(s.frames) {}

  DUET_BOTH int frame() const { return height * width * channels; }
  DUET_BOTH int plain() const { return frames * frame(); }
  DUET_BOTH int line() const { return (width + 2) * channels; }
  DUET_BOTH int downTiles() const { return (height + kDown - 1) / kDown; }
  /// An odd number of pixels, so that neighbouring frames begin in different banks.
  DUET_BOTH int paddedFrame() const { return (((downTiles() * kDown + 2) * (width + 2)) | 1) * channels; }
  DUET_BOTH int padded() const { return frames * paddedFrame(); }
  DUET_BOTH int outTiles() const { return (frames + kOut - 1) / kOut; }
  DUET_BOTH int weights() const { return outTiles() * kOut * frames * 9; }
  DUET_BOTH int convolutionItems() const { return channels * width * outTiles() * downTiles(); }
};

/// Gradients of a norm and the convolution behind it, which lie in a run in the order of DetailBlockOf.
DUET_BOTH inline int halfGradients(int frames) { return 3 * frames + 9 * frames * frames; }

struct Moments {
  float mean, rstd;
};

DUET_DEVICE float logistic(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

/// What the threads of a block do to a strip.
struct Strip {
  const Sizes& s;
  int lane, warp, warps;
  int channel;  // of this thread's values, the same in all passes

  DUET_DEVICE explicit Strip(const Sizes& s)
      : s(s),
        lane(static_cast<int>(threadIdx.x) % kWarp),
        warp(static_cast<int>(threadIdx.x) / kWarp),
        warps(static_cast<int>(blockDim.x) / kWarp),
        channel(lane % s.channels) {}

  /// work(frame, i) for this thread's values: i counts within the frame. Ends with `finish(frame)`.
  template <typename Work, typename Finish>
  DUET_DEVICE void each(Work work, Finish finish) const {
    for (int f = warp; f < s.frames; f += warps) {
      for (int i = lane; i < s.frame(); i += kWarp) work(f, i);
      finish(f);
    }
  }
  template <typename Work>
  DUET_DEVICE void each(Work work) const {
    each(work, [](int) {});
  }

  /// Where value i of a frame lies in the padded one.
  DUET_DEVICE int inPadded(int i) const {
    const auto pixel = static_cast<unsigned>(i / s.channels);
    const int y = static_cast<int>(s.ofWidth.of(pixel)), x = static_cast<int>(s.ofWidth.rest(pixel));
    return (y + 1) * s.line() + (x + 1) * s.channels + channel;
  }

  /// The sum over all threads of this one's channel.
  DUET_DEVICE float channelSum(float value) const {
    DUET_SHARED(float, partial, [kWarp][kMostChannels]);
    for (int step = kWarp / 2; step >= s.channels; step /= 2)
      value += __shfl_xor_sync(kAllLanes, value, step);
    __syncthreads();
    if (lane < s.channels) partial[warp][lane] = value;
    __syncthreads();
    float sum = 0.0f;
    for (int w = 0; w < warps; ++w) sum += partial[w][channel];
    return sum;
  }

  /// Over all frames and pixels, of this thread's channel.
  DUET_DEVICE Moments momentsOf(const float* d, float epsilon) const {
    const float share = 1.0f / static_cast<float>(s.plain() / s.channels);
    float sum = 0.0f;
    each([&](int f, int i) { sum += d[f * s.frame() + i]; });
    const float mean = channelSum(sum) * share;
    float squares = 0.0f;
    each([&](int f, int i) {
      const float apart = d[f * s.frame() + i] - mean;
      squares += apart * apart;
    });
    return {mean, 1.0f / sqrtf(channelSum(squares) * share + epsilon)};
  }

  /// Inside of `to` (padded) = SiLU of the norm of d.
  DUET_DEVICE void normSilu(const float* d, const Moments& m, const float* gamma, const float* beta,
                            float* to) const {
    each([&](int f, int i) {
      const float z = (d[f * s.frame() + i] - m.mean) * (m.rstd * gamma[f]) + beta[f];
      to[f * s.paddedFrame() + inPadded(i)] = z * logistic(z);
    });
  }

  /// [out, in, 3, 3] as [tile of outs][in][kx][ky][out in tile], zeros beyond the last frame. `flipped` gives
  /// the weights of the input gradient: in and out exchanged, taps reversed.
  DUET_DEVICE void pack(const float* weight, bool flipped, float* to) const {
    for (int i = static_cast<int>(threadIdx.x); i < s.weights(); i += static_cast<int>(blockDim.x)) {
      const auto rest = static_cast<unsigned>(i / kOut / 9);  // tile, in
      const int in = static_cast<int>(s.ofFrames.rest(rest));
      const int out = static_cast<int>(s.ofFrames.of(rest)) * kOut + i % kOut;
      const int across = i / kOut % 9, tap = across % 3 * 3 + across / 3;
      float value = 0.0f;
      if (out < s.frames)
        value =
            flipped ? weight[(in * s.frames + out) * 9 + 8 - tap] : weight[(out * s.frames + in) * 9 + tap];
      to[i] = value;
    }
  }

  /// write(place in plain, value) for every value of the 3x3 convolution of `padded` (+ bias).
  template <typename Write>
  DUET_DEVICE void convolve(const float* padded, const float* weights, const float* bias, Write write) const {
    for (int item = static_cast<int>(threadIdx.x); item < s.convolutionItems();
         item += static_cast<int>(blockDim.x)) {
      const int c = item % s.channels;
      const auto column = static_cast<unsigned>(item / s.channels);
      const unsigned rest = s.ofWidth.of(column);
      const int x = static_cast<int>(s.ofWidth.rest(column)),
                y = static_cast<int>(s.ofOutTiles.of(rest)) * kDown,
                tile = static_cast<int>(s.ofOutTiles.rest(rest));
      float sums[kOut][kDown];
#pragma unroll
      for (int k = 0; k < kOut; ++k) {
        const float begin = bias && tile * kOut + k < s.frames ? bias[tile * kOut + k] : 0.0f;
#pragma unroll
        for (int p = 0; p < kDown; ++p) sums[k][p] = begin;
      }
      const float* from = padded + y * s.line() + x * s.channels + c;
      const float4* four = reinterpret_cast<const float4*>(weights) + tile * s.frames * 9;
      for (int in = 0; in < s.frames; ++in, from += s.paddedFrame())
#pragma unroll
        for (int kx = 0; kx < 3; ++kx) {
          float v[kDown + 2];
#pragma unroll
          for (int p = 0; p < kDown + 2; ++p) v[p] = from[kx * s.channels + p * s.line()];
#pragma unroll
          for (int ky = 0; ky < 3; ++ky) {
            const float4 w = *four++;
#pragma unroll
            for (int p = 0; p < kDown; ++p) {
              sums[0][p] += w.x * v[p + ky];
              sums[1][p] += w.y * v[p + ky];
              sums[2][p] += w.z * v[p + ky];
              sums[3][p] += w.w * v[p + ky];
            }
          }
        }
#pragma unroll
      for (int k = 0; k < kOut; ++k)
#pragma unroll
        for (int p = 0; p < kDown; ++p)
          if (tile * kOut + k < s.frames && y + p < s.height)
            write((tile * kOut + k) * s.frame() + ((y + p) * s.width + x) * s.channels + c, sums[k][p]);
    }
  }

  /// gradient[out, in, tap] = the sum over channels and pixels of upstream[out] * from[in] under the tap;
  /// both padded. kAcross threads share what kOut x kIn frames and a column of taps need: columns of pixels.
  DUET_DEVICE void weightGradient(const float* upstream, const float* from, float* gradient) const {
    constexpr int kIn = 2, kAcross = 8;
    const int inTiles = (s.frames + kIn - 1) / kIn, items = s.outTiles() * inTiles * 3;
    const int groups = static_cast<int>(blockDim.x) / kAcross, part = static_cast<int>(threadIdx.x) % kAcross;
    for (int first = 0; first < items; first += groups) {  // all threads of a warp come to its sums
      const int item = first + static_cast<int>(threadIdx.x) / kAcross;
      const int kx = item % 3, in = item / 3 % inTiles * kIn, out = item / 3 / inTiles * kOut;
      float sums[kOut][kIn][3] = {};
      const int columns = item < items ? s.width * s.channels : 0;
      for (int column = part; column < columns; column += kAcross) {
        const float *g[kOut], *v[kIn];
        float window[kIn][3];
#pragma unroll
        for (int o = 0; o < kOut; ++o)
          g[o] = upstream + (out + o < s.frames ? out + o : s.frames - 1) * s.paddedFrame() + s.line() +
                 s.channels + column;
#pragma unroll
        for (int i = 0; i < kIn; ++i) {
          v[i] =
              from + (in + i < s.frames ? in + i : s.frames - 1) * s.paddedFrame() + kx * s.channels + column;
          window[i][1] = v[i][0];
          window[i][2] = v[i][s.line()];
        }
        for (int y = 0; y < s.height; ++y) {
#pragma unroll
          for (int i = 0; i < kIn; ++i) {
            window[i][0] = window[i][1];
            window[i][1] = window[i][2];
            window[i][2] = v[i][(y + 2) * s.line()];
          }
#pragma unroll
          for (int o = 0; o < kOut; ++o) {
            const float value = g[o][y * s.line()];
#pragma unroll
            for (int i = 0; i < kIn; ++i)
#pragma unroll
              for (int ky = 0; ky < 3; ++ky) sums[o][i][ky] += value * window[i][ky];
          }
        }
      }
#pragma unroll
      for (int o = 0; o < kOut; ++o)
#pragma unroll
        for (int i = 0; i < kIn; ++i)
#pragma unroll
          for (int ky = 0; ky < 3; ++ky) {
            float sum = sums[o][i][ky];
            for (int step = kAcross / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
            if (part == 0 && item < items && out + o < s.frames && in + i < s.frames)
              gradient[((out + o) * s.frames + in + i) * 9 + ky * 3 + kx] = sum;
          }
    }
  }

  /// `padded` = value(place in plain), and the sums of its frames.
  template <typename Value>
  DUET_DEVICE void pad(Value value, float* padded, float* frameSums) const {
    float sum = 0.0f;
    each(
        [&](int f, int i) {
          const float v = value(f * s.frame() + i, f, i);
          padded[f * s.paddedFrame() + inPadded(i)] = v;
          sum += v;
        },
        [&](int f) {
          sum = warpSum(sum);
          if (frameSums && lane == 0) frameSums[f] = sum;
          sum = 0.0f;
        });
  }

  /// Back through normSilu: `upstream` becomes the gradient of d, the sums over each frame of what belongs to
  /// gamma and beta go to `dgamma` and `dbeta` where given.
  DUET_DEVICE void normSiluBackward(const float* d, const Moments& m, const float* gamma, const float* beta,
                                    float* upstream, float* dgamma, float* dbeta) const {
    float sum = 0.0f, dot = 0.0f, weightedSum = 0.0f, weightedDot = 0.0f;
    each(
        [&](int f, int i) {
          const int at = f * s.frame() + i;
          const float xhat = (d[at] - m.mean) * m.rstd, z = xhat * gamma[f] + beta[f], share = logistic(z);
          const float dz = upstream[at] * (share * (1.0f + z * (1.0f - share)));
          sum += dz;
          dot += dz * xhat;
          upstream[at] = dz;
        },
        [&](int f) {
          weightedSum += sum * gamma[f];
          weightedDot += dot * gamma[f];
          sum = warpSum(sum);
          dot = warpSum(dot);
          if (dgamma && lane == 0) {
            dbeta[f] = sum;
            dgamma[f] = dot;
          }
          sum = dot = 0.0f;
        });
    const float share = 1.0f / static_cast<float>(s.plain() / s.channels);
    const float meanSum = channelSum(weightedSum) * share, meanDot = channelSum(weightedDot) * share;
    each([&](int f, int i) {
      const int at = f * s.frame() + i;
      const float xhat = (d[at] - m.mean) * m.rstd;
      upstream[at] = m.rstd * (upstream[at] * gamma[f] - meanSum - xhat * meanDot);
    });
  }

  DUET_DEVICE void clear(float* values, int count) const {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
      values[i] = 0.0f;
  }
};

/// A strip's channels in the tensors of the op.
struct Outside {
  int64_t first, stride, frame;
  int channels;
  bool there;  // whether this thread's channel is one

  DUET_DEVICE Outside(const Sizes& s, const Strip& strip, int64_t channels, int64_t index)
      : stride(channels), frame(int64_t{s.height} * s.width * channels), channels(s.channels) {
    const int64_t each = (channels + s.channels - 1) / s.channels;
    const int64_t channel = index % each * s.channels + strip.channel;
    there = channel < channels;
    first = index / each * s.frames * frame + channel;
  }
  DUET_DEVICE int64_t at(int f, int i) const { return first + f * frame + i / channels * stride; }
  DUET_DEVICE float load(const float* x, int f, int i) const { return there ? x[at(f, i)] : 0.0f; }
};

/// Runs of floats in the memory of a strip, one after another.
struct Room {
  float* next;
  DUET_DEVICE float* take(int count) {
    float* const taken = next;
    next += count;
    return taken;
  }
};

int64_t forwardFloats(const Sizes& s) { return s.weights() + s.padded() + int64_t{2} * s.plain(); }

template <bool Shared>
__global__ void __launch_bounds__(kThreads, 2)
    forwardKernel(DetailForward c, Sizes s, int64_t strips, float* scratch, int64_t floats) {
  DUET_DYNAMIC_SHARED(float, shared);
  Room room{Shared ? shared : scratch + blockIdx.x * floats};
  float* const weights = room.take(s.weights());
  float* const padded = room.take(s.padded());
  float* const d = room.take(s.plain());
  float* const inner = room.take(s.plain());
  const Strip strip(s);
  strip.clear(padded, s.padded());
  for (int64_t index = blockIdx.x; index < strips; index += gridDim.x) {
    const Outside outside(s, strip, c.shape.channels, index);
    strip.each([&](int f, int i) { d[f * s.frame() + i] = outside.load(c.x, f, i); });
    for (int block = 0; block < 2; ++block) {
      const DetailBlockOf<const float>& b = c.blocks[block];
      const Moments first = strip.momentsOf(d, c.shape.epsilon);
      strip.normSilu(d, first, b.norm1, b.norm1Bias, padded);
      strip.pack(b.conv1, false, weights);
      __syncthreads();
      strip.convolve(padded, weights, b.conv1Bias, [&](int at, float value) { inner[at] = value; });
      __syncthreads();
      const Moments second = strip.momentsOf(inner, c.shape.epsilon);
      strip.normSilu(inner, second, b.norm2, b.norm2Bias, padded);
      strip.pack(b.conv2, false, weights);
      __syncthreads();
      strip.convolve(padded, weights, b.conv2Bias, [&](int at, float value) { d[at] += value; });
      __syncthreads();
    }
    strip.each([&](int f, int i) {
      if (outside.there) c.y[outside.at(f, i)] = d[f * s.frame() + i];
    });
  }
}

int64_t backwardFloats(const Sizes& s) {
  return s.weights() + int64_t{2} * s.padded() + int64_t{5} * s.plain();
}

/// Goes through the branch again, then back. `partial` takes each strip's gradients of the parameters.
template <bool Shared>
__global__ void __launch_bounds__(kThreads, 2)
    backwardKernel(DetailBackward c, Sizes s, int64_t strips, float* scratch, int64_t floats,
                   float* partial) {
  DUET_DYNAMIC_SHARED(float, shared);
  Room room{Shared ? shared : scratch + blockIdx.x * floats};
  float* const weights = room.take(s.weights());
  float* const activated = room.take(s.padded());
  float* const padded = room.take(s.padded());
  float* const input[2] = {room.take(s.plain()), room.take(s.plain())};
  float* const inner[2] = {room.take(s.plain()), room.take(s.plain())};
  float* const work = room.take(s.plain());
  const Strip strip(s);
  const int half = halfGradients(s.frames), kernel = 9 * s.frames * s.frames;
  strip.clear(activated, s.padded());
  strip.clear(padded, s.padded());
  for (int64_t index = blockIdx.x; index < strips; index += gridDim.x) {
    const Outside outside(s, strip, c.shape.channels, index);
    Moments first[2], second[2];
    strip.each([&](int f, int i) { input[0][f * s.frame() + i] = outside.load(c.x, f, i); });
#pragma unroll
    for (int block = 0; block < 2; ++block) {
      const DetailBlockOf<const float>& b = c.blocks[block];
      first[block] = strip.momentsOf(input[block], c.shape.epsilon);
      strip.normSilu(input[block], first[block], b.norm1, b.norm1Bias, activated);
      strip.pack(b.conv1, false, weights);
      __syncthreads();
      strip.convolve(activated, weights, b.conv1Bias, [&](int at, float value) { inner[block][at] = value; });
      __syncthreads();
      second[block] = strip.momentsOf(inner[block], c.shape.epsilon);
      if (block == 1) continue;
      strip.normSilu(inner[0], second[0], b.norm2, b.norm2Bias, activated);
      strip.pack(b.conv2, false, weights);
      __syncthreads();
      strip.convolve(activated, weights, b.conv2Bias,
                     [&](int at, float value) { input[1][at] = input[0][at] + value; });
      __syncthreads();
    }
    // The gradient of the second block's input takes the place of its inner values.
    float* const upstream = inner[1];
#pragma unroll
    for (int block = 1; block >= 0; --block) {
      const DetailBlockOf<const float>& b = c.blocks[block];
      float* const gradients = partial ? partial + (2 * index + block) * 2 * half : nullptr;
      // Through one convolution and the norm before it; its output's gradient is in `padded`.
      const auto back = [&](int which, const float* weight, const float* gamma, const float* beta,
                            const float* d, const Moments& m) {
        float* const to = gradients ? gradients + which * half : nullptr;
        strip.normSilu(d, m, gamma, beta, activated);
        strip.pack(weight, true, weights);
        __syncthreads();
        if (to) strip.weightGradient(padded, activated, to + 2 * s.frames);
        strip.convolve(padded, weights, nullptr, [&](int at, float value) { work[at] = value; });
        __syncthreads();
        strip.normSiluBackward(d, m, gamma, beta, work, to, to ? to + s.frames : nullptr);
      };
      const auto biasGradient = [&](int which) {
        return gradients ? gradients + which * half + 2 * s.frames + kernel : nullptr;
      };
      const auto dy = [&](int at, int f, int i) {
        return block == 1 ? outside.load(c.dy, f, i) : upstream[at];
      };
      strip.pad(dy, padded, biasGradient(1));
      back(1, b.conv2, b.norm2, b.norm2Bias, inner[block], second[block]);
      strip.pad([&](int at, int, int) { return work[at]; }, padded, biasGradient(0));
      back(0, b.conv1, b.norm1, b.norm1Bias, input[block], first[block]);
      strip.each([&](int f, int i) {
        const int at = f * s.frame() + i;
        const float sum = dy(at, f, i) + work[at];
        if (block == 1)
          upstream[at] = sum;
        else if (c.dx && outside.there)
          c.dx[outside.at(f, i)] = c.accumulate ? c.dx[outside.at(f, i)] + sum : sum;
      });
    }
  }
}

/// Where the gradients of the parameters go, in the order of a strip's.
struct Targets {
  float* of[16];
  int frames;
};

constexpr unsigned kSumWarps = 32;

/// Adds the strips' gradients, 32 of them a block, always in the same order.
__global__ void addGradientsKernel(const float* partial, int64_t strips, Targets targets) {
  DUET_SHARED(float, sums, [kSumWarps][kWarp]);
  const int half = halfGradients(targets.frames), count = 4 * half;
  const int i = static_cast<int>(blockIdx.x * kWarp + threadIdx.x);
  float sum = 0.0f;
  if (i < count)
    for (int64_t strip = threadIdx.y; strip < strips; strip += kSumWarps) sum += partial[strip * count + i];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || i >= count) return;
  for (unsigned warp = 1; warp < kSumWarps; ++warp) sum += sums[warp][threadIdx.x];
  const int frames = targets.frames, kernel = 9 * frames * frames, inside = i % half;
  const int which = inside < frames ? 0 : inside < 2 * frames ? 1 : inside < 2 * frames + kernel ? 2 : 3;
  const int offsets[] = {0, frames, 2 * frames, 2 * frames + kernel};
  float* const target = targets.of[i / half * 4 + which];
  if (target) target[inside - offsets[which]] += sum;
}

/// How many channels a strip has: as many as leave enough blocks and fit into shared memory.
struct Plan {
  Sizes sizes;
  int64_t strips, floats;
  bool shared;
  unsigned blocks, threads;

  Plan(const DetailShape& shape, int64_t (*floatsOf)(const Sizes&)) : sizes(shape, kMostChannels) {
    const int64_t wanted = 2 * multiprocessors();
    for (int channels = kMostChannels;; channels /= 2) {
      sizes = Sizes(shape, channels);
      floats = (floatsOf(sizes) + 3) / 4 * 4;
      strips = shape.clips * ((shape.channels + channels - 1) / channels);
      if (channels == 1 || (strips >= wanted && floats * 4 <= kSharedBytes)) break;
    }
    shared = floats * 4 <= kSharedBytes;
    blocks = static_cast<unsigned>(shared || strips < wanted ? strips : wanted);
    threads = blocksFor(sizes.convolutionItems(), kWarp) * kWarp;
    threads = threads < 128 ? 128 : threads > kThreads ? kThreads : threads;
  }
};

void forward(const DetailForward& c) {
  const Plan plan(c.shape, forwardFloats);
  if (plan.strips == 0) return;
  if (plan.shared)
    return launch(forwardKernel<true>, plan.blocks, plan.threads, static_cast<size_t>(plan.floats) * 4, c,
                  plan.sizes, plan.strips, nullptr, 0);
  const Scratch<float> scratch(plan.blocks * plan.floats);
  launch(forwardKernel<false>, plan.blocks, plan.threads, 0, c, plan.sizes, plan.strips, scratch.data(),
         plan.floats);
}

void backward(const DetailBackward& c) {
  const Plan plan(c.shape, backwardFloats);
  if (plan.strips == 0) return;
  const int count = 4 * halfGradients(plan.sizes.frames);
  const Scratch<float> partial(c.parameters ? plan.strips * count : 0);
  float* const gradients = c.parameters ? partial.data() : nullptr;
  if (plan.shared) {
    launch(backwardKernel<true>, plan.blocks, plan.threads, static_cast<size_t>(plan.floats) * 4, c,
           plan.sizes, plan.strips, nullptr, 0, gradients);
  } else {
    const Scratch<float> scratch(plan.blocks * plan.floats);
    launch(backwardKernel<false>, plan.blocks, plan.threads, 0, c, plan.sizes, plan.strips, scratch.data(),
           plan.floats, gradients);
  }
  if (!c.parameters) return;
  Targets targets{{}, plan.sizes.frames};
  for (int block = 0; block < 2; ++block) {
    const DetailBlockOf<float>& g = c.gradients[block];
    float* const of[] = {g.norm1, g.norm1Bias, g.conv1, g.conv1Bias,
                         g.norm2, g.norm2Bias, g.conv2, g.conv2Bias};
    for (int i = 0; i < 8; ++i) targets.of[8 * block + i] = of[i];
  }
  launch(addGradientsKernel, blocksFor(count, kWarp), dim3(kWarp, kSumWarps), 0, gradients, plan.strips,
         targets);
}

template <int V>
DUET_DEVICE float dotOf(const Numbers<V>& a, const Numbers<V>& b) {
  float sum = 0.0f;
  for (int k = 0; k < V; ++k) sum += a.of[k] * b.of[k];
  return sum;
}

template <int V>
DUET_DEVICE void spread(const Numbers<V>& dy, float w, float* to, bool accumulate) {
  if (!to) return;
  Numbers<V> sum{};
  if (accumulate) sum = loadNumbers<V>(to);
  for (int k = 0; k < V; ++k) sum.of[k] += w * dy.of[k];
  storeNumbers<V>(to, sum);
}

/// `partial` takes the block's two dots, where they are wanted.
template <int V>
__global__ void weightedSumBackwardKernel(WeightedSumBackward c, float* partial) {
  float first = 0.0f, second = 0.0f;
  const float w1 = *c.w1, w2 = *c.w2;
  for (int64_t i = globalThread() * V; i < c.count; i += globalThreads() * V) {
    const Numbers<V> dy = loadNumbers<V>(c.dy + i);
    if (c.dw1) first += dotOf<V>(dy, loadNumbers<V>(c.a + i));
    if (c.dw2) second += dotOf<V>(dy, loadNumbers<V>(c.b + i));
    spread<V>(dy, w1, c.da ? c.da + i : nullptr, c.accumulateA);
    spread<V>(dy, w2, c.db ? c.db + i : nullptr, c.accumulateB);
  }
  if (!partial) return;
  first = blockSum(first);
  second = blockSum(second);
  if (threadIdx.x > 0) return;
  partial[blockIdx.x] = first;
  partial[gridDim.x + blockIdx.x] = second;
}

__global__ void addDotsKernel(const float* partial, int count, WeightedSumBackward c) {
  float sum = 0.0f;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
    sum += partial[blockIdx.x * count + i];
  sum = blockSum(sum);
  float* const to = blockIdx.x == 0 ? c.dw1 : c.dw2;
  const bool accumulate = blockIdx.x == 0 ? c.accumulateW1 : c.accumulateW2;
  if (threadIdx.x == 0 && to) *to = accumulate ? *to + sum : sum;
}

template <int V>
void weightedSumAs(const float* a, const float* w1, const float* b, const float* w2, float* y,
                   int64_t count) {
  forEach(count / V, [=] DUET_LAMBDA(int64_t i) {
    const Numbers<V> left = loadNumbers<V>(a + i * V), right = loadNumbers<V>(b + i * V);
    Numbers<V> sum;
    for (int k = 0; k < V; ++k) sum.of[k] = *w1 * left.of[k] + *w2 * right.of[k];
    storeNumbers<V>(y + i * V, sum);
  });
}

void weightedSum(const float* a, const float* w1, const float* b, const float* w2, float* y, int64_t count) {
  inVectors(count, 4, {a, b, y}) ? weightedSumAs<4>(a, w1, b, w2, y, count)
                                 : weightedSumAs<1>(a, w1, b, w2, y, count);
}

void weightedSumBackward(const WeightedSumBackward& c) {
  const bool vectors = inVectors(c.count, 4, {c.a, c.b, c.dy, c.da, c.db}), dots = c.dw1 || c.dw2;
  const unsigned blocks = blocksFor(c.count, kThreads * (vectors ? 4 : 1), 1024);
  const Scratch<float> partial(2 * blocks);
  launch(vectors ? weightedSumBackwardKernel<4> : weightedSumBackwardKernel<1>, blocks, kThreads, 0, c,
         dots ? partial.data() : nullptr);
  if (dots) launch(addDotsKernel, 2, kThreads, 0, partial.data(), static_cast<int>(blocks), c);
}

}  // namespace

DetailKernels detailKernels() { return {forward, backward, weightedSum, weightedSumBackward}; }

}  // namespace duet::gpu
