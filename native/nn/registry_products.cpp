// Products by name: one of operands of any kind, and the packing of the right-hand side.
#include <algorithm>
#include <optional>

#include "nn/registry_call.h"
#include "nn/row_products.h"
#include "ops/packed_layout.h"

namespace duet {

namespace {

/// x has the blocks side by side, and of the columns of each the first `used` count.
PackSource packSource(const Call& c, const Tensor& x) {
  require(x.shape().rank() == 2 && x.elements() > 0, "Expected a matrix to pack but received ",
          x.shape().text());
  const bool transposed = c.flag("transposed", false);
  const double blocks = c.number("blocks", 0);
  require(blocks == 0 || (!transposed && blocks >= 1 && blocks <= x.columns() &&
                          x.columns() % static_cast<int64_t>(blocks) == 0),
          "Expected blocks that divide the ", x.columns(), " columns of x, not transposed, but received ",
          blocks);
  const int64_t count = std::max<int64_t>(static_cast<int64_t>(blocks), 1), width = x.columns() / count;
  const double asked = c.number("used", static_cast<double>(width));
  require(asked >= 1 && asked <= width, "Expected used between 1 and ", width, " but received ", asked);
  const auto used = static_cast<int64_t>(asked);
  PackSource source{x.f32(), x.rowCount() * count, used, x.columns(), transposed};
  if (transposed) std::swap(source.k, source.n);
  if (blocks > 0) {
    source.blockRows = x.rowCount();
    source.blockStride = width;
  }
  return source;
}

/// Packing of the right-hand side of products: ours, or with `library` oneDNN's own.
void runPack(Call& c) {
  const PackSource source = packSource(c, c.input("x"));
  const DType dtype = c.compute();
  if (c.flag("library", false)) {
    c.results["out"] = packedByLibrary(source, dtype);
    return;
  }
  const int64_t elements = packedRows(source.k, dtype) * packedColumns(source.n);
  const Tensor packed = Tensor::zeros({elements * static_cast<int64_t>(sizeOf(dtype))}, DType::u8);
  std::memset(packed.raw(), 0xff, packed.bytes());
  backend().packing.pack(source, dtype, packed.raw());
  c.results["out"] = packed;
}

/// A matrix inside a stored one, which has `margin` more columns on either side.
struct Inner {
  Tensor stored;
  int64_t margin;

  Inner(Call& c, const std::string& name, DType dtype) : margin(static_cast<int64_t>(c.number("margin", 0))) {
    const Tensor& given = c.input(name);
    require(given.shape().rank() == 2 && given.rowCount() > 0 && margin >= 0 && columnsOf(given) > 0,
            "Expected a matrix '", name, "' of more columns than margins of ", margin, " but received ",
            given.shape().text());
    stored = c.tape.empty(given.shape(), dtype);
    backend().elementwise.convert(given.raw(), DType::f32, stored.raw(), dtype, given.elements());
  }
  int64_t columnsOf(const Tensor& tensor) const { return tensor.columns() - 2 * margin; }
  int64_t columns() const { return columnsOf(stored); }
  int64_t rows() const { return stored.rowCount(); }
  void* data() const { return at(stored, 0, margin); }
  Matrix matrix(bool transposed) const { return {data(), stored.dtype(), stored.columns(), transposed}; }
};

/// c (+)= a b (+ bias) (+ residual), all of c with its margins.
void runProduct(Call& c) {
  const DType compute = c.compute();
  const std::string type = c.text("out", "f32");
  require(type == "f32" || (type == "bf16" && compute == DType::bf16),
          "Expected 'f32' or, where compute is, 'bf16' for attribute 'out' but received '", type, "'");
  const bool left = c.flag("transposedA", false), right = c.flag("transposed", false);
  const Inner a(c, "a", compute), out(c, "c", type == "bf16" ? DType::bf16 : DType::f32);
  Product p{};
  p.m = out.rows();
  p.n = out.columns();
  p.k = left ? a.rows() : a.columns();
  p.a = a.matrix(left);
  std::shared_ptr<PackedMatrix> packed;
  std::optional<Inner> b;
  int64_t k, n;
  if (c.flag("packed", false)) {
    const PackSource source = packSource(c, c.input("b"));
    packed = backend().product.pack(source, compute, c.arena.get());
    k = source.k;
    n = source.n;
    p.b = {nullptr, compute, n, false};
    p.packedB = packed.get();
  } else {
    b.emplace(c, "b", compute);
    k = right ? b->columns() : b->rows();
    n = right ? b->rows() : b->columns();
    p.b = b->matrix(right);
  }
  require((left ? a.columns() : a.rows()) == p.m && k == p.k && n == p.n, "Cannot multiply a and b of ",
          c.input("a").shape().text(), " and ", c.input("b").shape().text(), " into c of ",
          c.input("c").shape().text());
  p.c = out.data();
  p.cType = out.stored.dtype();
  p.cStride = out.stored.columns();
  p.accumulate = c.flag("accumulate", false);
  if (c.has("bias")) {
    require(c.input("bias").elements() == out.stored.columns(), "Expected a bias of ", out.stored.columns(),
            " with its margins but received ", c.input("bias").shape().text());
    p.bias = c.input("bias").f32() + out.margin;
  }
  std::optional<Inner> residual;
  if (c.has("residual")) {
    residual.emplace(c, "residual", DType::f32);
    require(residual->stored.shape() == out.stored.shape(), "Expected a residual of ",
            out.stored.shape().text(), " but received ", residual->stored.shape().text());
    p.residual = static_cast<const float*>(residual->data());
    p.residualStride = residual->stored.columns();
  }
  backend().product.multiply(p);
  c.results["out"] = Call::persistent(out.stored, out.stored.shape());
}

}  // namespace

OpTable productOps() { return {{"pack", runPack}, {"product", runProduct}}; }

}  // namespace duet
