#include "nn/convolution.h"

#include <algorithm>

#include "nn/linear.h"
#include "nn/row_products.h"
#include "nn/winograd.h"
#include "ops/kernels.h"

namespace duet {

namespace {

PatchGather patchesOf(const PictureGrid& grid, const PictureGrid& out, int64_t size,
                      const ConvolutionOptions& options) {
  PatchGather call{};
  call.height = grid.height;
  call.width = grid.width;
  call.outHeight = out.height;
  call.outWidth = out.width;
  call.size = size;
  call.stride = options.stride;
  call.padding = options.padding == ConvolutionPadding::same ? size / 2 : 0;
  return call;
}

/// Patches of x as an operand of products: as they are described where the backend takes that, otherwise
/// written down a chunk of rows at a time.
class Patches {
 public:
  Patches(Tape& tape, const PatchGather& geometry, const Tensor& x, int64_t rows) : call_(geometry) {
    call_.x = x.raw();
    call_.dtype = x.dtype();
    call_.channels = x.columns();
    described_ = backend().product.takesPatches(call_);
    chunk_ = described_ ? rows : std::min(rows, backend().product.rowsTogether());
    if (!described_) written_ = tape.empty({chunk_, columns()}, x.dtype());
  }

  /// Rows that an operand has at most.
  int64_t chunk() const { return chunk_; }

  /// The next operand takes the place of the last.
  Matrix rows(int64_t first, int64_t count) {
    call_.firstRow = first;
    call_.rows = count;
    if (described_) return {call_.x, call_.dtype, columns(), false, &call_};
    call_.patches = written_.raw();
    backend().convolution.gatherPatches(call_);
    return rowsFrom(written_, 0);
  }

 private:
  int64_t columns() const { return call_.size * call_.size * call_.channels; }

  PatchGather call_;
  Tensor written_;
  int64_t chunk_;
  bool described_;
};

/// The right-hand side of dx = patches(dy) W', [(kh, kw, out), in], in the compute type. It lives for one
/// backward pass.
struct ExchangedKernel {
  int64_t k, n;
  std::shared_ptr<PackedMatrix> packed;

  ExchangedKernel(Tape& tape, const ConvolutionKernel& kernel, DType compute)
      : k(kernel.size * kernel.size * kernel.out()), n(kernel.in()) {
    const Weights& w = kernel.weights;
    packed = backend().product.pack(
        {w.parameter->f32() + w.firstRow * w.in(), k, n, w.in(), false, kernel.out(), n}, compute,
        &tape.arena());
  }

  void multiply(const Matrix& patches, int64_t rows, const Tensor& dx, int64_t dxRow, bool accumulate) const {
    Product product{};
    product.m = rows;
    product.n = n;
    product.k = k;
    product.a = patches;
    product.b = {nullptr, patches.dtype, n, false};
    product.packedB = packed.get();
    product.c = at(dx, dxRow);
    product.cType = dx.dtype();
    product.cStride = n;
    product.accumulate = accumulate;
    backend().product.multiply(product);
  }
};

// The three products by way of patches.

void forwardByPatches(Tape& tape, const PatchGather& geometry, const Tensor& x, ConvolutionKernel& kernel,
                      Parameter* bias, const float* residual, const Tensor& y) {
  const int64_t rows = y.rowCount();
  Patches patches(tape, geometry, x, rows);
  for (int64_t row = 0; row < rows; row += patches.chunk()) {
    const int64_t count = std::min(patches.chunk(), rows - row);
    forwardRows(patches.rows(row, count), kernel.weights, bias,
                residual ? residual + row * kernel.out() : nullptr, y, row, count, x.dtype());
  }
}

void kernelGradientByPatches(Tape& tape, const PatchGather& geometry, const Tensor& x, const Tensor& dy,
                             ConvolutionKernel& kernel, bool accumulate) {
  const int64_t rows = dy.rowCount();
  Patches patches(tape, geometry, x, rows);
  for (int64_t row = 0; row < rows; row += patches.chunk(), accumulate = true) {
    const int64_t count = std::min(patches.chunk(), rows - row);
    weightGradientRows(dy, row, patches.rows(row, count), kernel.weights, count, accumulate);
  }
}

void inputGradientByPatches(Tape& tape, PatchGather geometry, const Tensor& dy,
                            const ConvolutionKernel& kernel, const Tensor& dx, bool accumulate) {
  const ExchangedKernel exchanged(tape, kernel, dy.dtype());
  std::swap(geometry.height, geometry.outHeight);
  std::swap(geometry.width, geometry.outWidth);
  geometry.transposed = true;
  const int64_t rows = dx.rowCount();
  Patches patches(tape, geometry, dy, rows);
  for (int64_t row = 0; row < rows; row += patches.chunk()) {
    const int64_t count = std::min(patches.chunk(), rows - row);
    exchanged.multiply(patches.rows(row, count), count, dx, row, accumulate);
  }
}

/// dx by way of patches of dx itself, dy W, some pictures at a time.
void inputGradientBySums(Tape& tape, const PatchGather& geometry, const Tensor& dy, ConvolutionKernel& kernel,
                         const Tensor& dx, bool accumulate) {
  const int64_t outPixels = geometry.outHeight * geometry.outWidth, pixels = geometry.height * geometry.width;
  const int64_t pictures = dy.rowCount() / outPixels;
  const int64_t chunk =
      std::min(pictures, std::max<int64_t>(1, backend().product.rowsTogether() / outPixels));
  const Tensor patches = tape.empty({chunk * outPixels, kernel.weights.in()});
  const StepPacks packs(&tape.arena(), dy.dtype(), {&kernel.weights});
  PatchSum call{};
  call.patches = patches.f32();
  call.yType = dx.dtype();
  call.accumulate = accumulate;
  call.height = geometry.height;
  call.width = geometry.width;
  call.channels = kernel.in();
  call.patchHeight = geometry.outHeight;
  call.patchWidth = geometry.outWidth;
  call.size = geometry.size;
  call.stride = geometry.stride;
  call.padding = geometry.padding;
  for (int64_t picture = 0; picture < pictures; picture += chunk) {
    call.pictures = std::min(chunk, pictures - picture);
    inputGradientRows(dy, picture * outPixels, kernel.weights, patches, 0, call.pictures * outPixels,
                      dy.dtype(), false);
    call.y = at(dx, picture * pixels);
    backend().convolution.sumPatches(call);
  }
}

void check(const Var& x, const PictureGrid& grid, const ConvolutionKernel& kernel, const Parameter* bias,
           const ConvolutionOptions& options) {
  const std::string& name = kernel.weights.parameter->name;
  require(kernel.size == 1 || kernel.size == 3, "Expected a kernel of 1 or 3 pixels for ", name,
          " but received ", kernel.size);
  checkWeights(kernel.weights, bias);
  require(kernel.weights.in() % (kernel.size * kernel.size) == 0, "Expected ", kernel.size, " x ",
          kernel.size, " taps for ", name, " but received ", kernel.weights.parameter->value.shape().text());
  require(x.value.columns() == kernel.in(), "Expected ", kernel.in(), " channels for ", name,
          " but received ", x.value.shape().text());
  require(x.value.rowCount() == grid.rows(), "Expected ", grid.rows(), " rows of pixels for ", name,
          " but received ", x.value.shape().text());
  require(options.stride >= 1 && (kernel.size == 3 || options.stride == 1),
          "Expected stride 1 of a 1x1 convolution for ", name, " but received ", options.stride);
}

}  // namespace

PictureGrid convolved(const PictureGrid& grid, int64_t kernelSize, const ConvolutionOptions& options) {
  PictureGrid out = grid;
  if (options.padding == ConvolutionPadding::same) {
    out.height = (grid.height + options.stride - 1) / options.stride;
    out.width = (grid.width + options.stride - 1) / options.stride;
  } else {
    require(kernelSize == 3 && options.stride == 2 && grid.height >= 2 && grid.width >= 2,
            "Expected a 3x3 kernel of stride 2 and pictures of at least 2x2 for padding at the right and "
            "bottom but received size ",
            kernelSize, ", stride ", options.stride, " and ", grid.height, "x", grid.width);
    out.height = (grid.height - 2) / 2 + 1;
    out.width = (grid.width - 2) / 2 + 1;
  }
  return out;
}

Var convolution(Context& context, const Var& x, const PictureGrid& grid, ConvolutionKernel& kernel,
                Parameter* bias, const ConvolutionOptions& options) {
  check(x, grid, kernel, bias, options);
  if (kernel.size == 1)
    return linear(context, x, kernel.weights, bias, {Activation::none, options.residual, options.outType});

  Tape& tape = context.tape;
  const PictureGrid outGrid = convolved(grid, kernel.size, options);
  if (options.residual) checkResidual(*options.residual, outGrid.rows(), kernel.out());
  const DType compute = x.value.dtype();
  const bool wantsWeight = tape.recording() && (trainable(kernel.weights) || trainable(bias));
  const bool tracked =
      tape.recording() && (wantsWeight || x.tracked() || (options.residual && options.residual->tracked()));
  const bool winograd = winogradPays(grid, kernel, options, compute);
  const PatchGather geometry = patchesOf(grid, outGrid, kernel.size, options);
  const float* residual = options.residual ? options.residual->value.f32() : nullptr;

  Tensor y = tape.empty({outGrid.rows(), kernel.out()}, options.outType);
  if (winograd) {
    winogradConvolve(tape, grid, kernel, false, x.value, bias, residual, y);
  } else {
    const StepPacks packs(context.training ? &tape.arena() : nullptr, compute, {&kernel.weights});
    forwardByPatches(tape, geometry, x.value, kernel, bias, residual, y);
  }
  if (!tracked) return {y, -1};

  const Var result = tape.track(y);
  const int made = result.slot, slot = x.slot;
  const int residualSlot = options.residual ? options.residual->slot : -1;
  const KeptValue source = trainable(kernel.weights) ? KeptValue(x) : KeptValue{};
  const Shape inputShape{grid.rows(), kernel.in()};
  tape.record([&tape, made, residualSlot, slot, source, inputShape, grid, geometry, compute, winograd, bias,
               &kernel] {
    Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    tape.give(residualSlot, dy);
    if (trainable(bias)) biasGradient(*bias, kernel.weights.firstRow, dy);
    if (dy.dtype() != compute) {
      Tensor converted = tape.empty(dy.shape(), compute);
      backend().elementwise.convert(dy.raw(), dy.dtype(), converted.raw(), compute, dy.elements());
      dy = converted;
    }
    if (trainable(kernel.weights)) {
      const Tensor input = source.get();
      const bool accumulate = beginWeightGradient(kernel.weights);
      if (winograd)
        winogradGradient(tape, grid, kernel, input, dy, accumulate);
      else
        kernelGradientByPatches(tape, geometry, input, dy, kernel, accumulate);
    }
    if (slot < 0) return;
    bool accumulate;
    const Tensor dx = tape.target(slot, inputShape, compute, accumulate);
    if (winograd)
      winogradConvolve(tape, grid, kernel, true, dy, nullptr, accumulate ? dx.f32() : nullptr, dx);
    else if (geometry.stride > 1)
      inputGradientBySums(tape, geometry, dy, kernel, dx, accumulate);
    else
      inputGradientByPatches(tape, geometry, dy, kernel, dx, accumulate);
  });
  return result;
}

}  // namespace duet
