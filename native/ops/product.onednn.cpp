// Matrix products on oneDNN. This one file hides the difference between its 2.x and 3.x interfaces.
// Primitives are kept by their shapes; one scratchpad serves them all.
#include <array>
#include <cstdlib>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include <vector>

#include "ops/kernels.h"
#include "ops/packed_layout.h"

namespace duet {

struct PackedMatrix {
  Tensor storage;
  dnnl::memory memory;
};

namespace {

using dnnl::memory;
using DataType = memory::data_type;

struct Key {
  int64_t m, n, k, aStride, bStride, cStride, residualStride;
  uint32_t flags;
  bool operator==(const Key& other) const { return std::memcmp(this, &other, sizeof(Key) - 4) == 0; }
};

struct KeyHash {
  size_t operator()(const Key& key) const {
    uint64_t hash = 1469598103934665603ull;
    const int64_t words[] = {key.m,
                             key.n,
                             key.k,
                             key.aStride,
                             key.bStride,
                             key.cStride,
                             key.residualStride,
                             static_cast<int64_t>(key.flags)};
    for (int64_t word : words) hash = (hash ^ static_cast<uint64_t>(word)) * 1099511628211ull;
    return static_cast<size_t>(hash ^ (hash >> 32));
  }
};

/// A product of some shapes and what it works on, whose places are filled in call by call.
struct Plan {
  dnnl::matmul primitive;
  std::unordered_map<int, memory> arguments;
  size_t scratchBytes;
};

struct Library {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::unordered_map<Key, Plan, KeyHash> plans;
  std::map<std::array<int64_t, 3>, memory::desc> layouts;  // of packed matrices: k, n, data type
  void* scratch = nullptr;
  size_t scratchBytes = 0;

  ~Library() { std::free(scratch); }

  void* scratchOf(size_t bytes) {
    if (bytes > scratchBytes) {
      std::free(scratch);
      scratchBytes = (bytes + 4095) / 4096 * 4096;
      scratch = std::aligned_alloc(4096, scratchBytes);
      if (!scratch) {
        scratchBytes = 0;
        fail(Code::OutOfMemory, "Out of memory: a matrix product needs ", bytes, " bytes of scratch");
      }
    }
    return scratch;
  }
};

Library& library() {
  thread_local Library instance;  // products run on the compute queue's thread
  return instance;
}

constexpr size_t kPlans = 1024;

DataType typeOf(DType dtype) {
  if (dtype == DType::f32) return DataType::f32;
  if (dtype == DType::bf16) return DataType::bf16;
  fail(Code::Internal, "Matrix products take f32 or bf16, not ", nameOf(dtype));
}

memory::desc matrix(int64_t rows, int64_t columns, DType dtype, int64_t stride, bool transposed) {
  return memory::desc({rows, columns}, typeOf(dtype),
                      transposed ? memory::dims{1, stride} : memory::dims{stride, 1});
}

dnnl::matmul::primitive_desc describe(const memory::desc& a, const memory::desc& b, const memory::desc* bias,
                                      const memory::desc& c, const dnnl::primitive_attr& attributes) {
  const dnnl::engine& engine = library().engine;
#if DNNL_VERSION_MAJOR >= 3
  return bias ? dnnl::matmul::primitive_desc(engine, a, b, *bias, c, attributes)
              : dnnl::matmul::primitive_desc(engine, a, b, c, attributes);
#else
  const auto description = bias ? dnnl::matmul::desc(a, b, *bias, c) : dnnl::matmul::desc(a, b, c);
  return dnnl::matmul::primitive_desc(description, attributes, engine);
#endif
}

template <typename Work>
auto guarded(const char* what, Work work) {
  try {
    return work();
  } catch (const dnnl::error& error) {
    fail(error.status == dnnl_out_of_memory ? Code::Internal : Code::Unsupported, "oneDNN could not ", what,
         ": ", error.what());
  }
}

int residualArgument(const Product& c) {
  return DNNL_ARG_ATTR_MULTIPLE_POST_OP(c.accumulate ? 1 : 0) | DNNL_ARG_SRC_1;
}

Plan makePlan(const Product& c) {
  const memory::desc a = matrix(c.m, c.k, c.a.dtype, c.a.stride, c.a.transposed);
  const memory::desc b =
      c.packedB ? c.packedB->memory.get_desc() : matrix(c.k, c.n, c.b.dtype, c.b.stride, c.b.transposed);
  const memory::desc out = matrix(c.m, c.n, c.cType, c.cStride, false);
  const memory::desc bias({1, c.n}, DataType::f32, memory::dims{c.n, 1});
  dnnl::post_ops steps;
  if (c.accumulate) steps.append_sum(1.0f);
  if (c.residual)
    steps.append_binary(dnnl::algorithm::binary_add, matrix(c.m, c.n, DType::f32, c.residualStride, false));
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  attributes.set_post_ops(steps);
  const auto description = describe(a, b, c.bias ? &bias : nullptr, out, attributes);
  std::unordered_map<int, memory> arguments;
  const auto place = [&](int argument, const memory::desc& desc) {
    arguments.emplace(argument, memory(desc, library().engine, nullptr));
  };
  place(DNNL_ARG_SRC, a);
  place(DNNL_ARG_WEIGHTS, b);
  place(DNNL_ARG_DST, out);
  if (c.bias) place(DNNL_ARG_BIAS, bias);
  if (c.residual) place(residualArgument(c), matrix(c.m, c.n, DType::f32, c.residualStride, false));
  const memory::desc scratchpad = description.scratchpad_desc();
  if (scratchpad.get_size() > 0) place(DNNL_ARG_SCRATCHPAD, scratchpad);
  return {dnnl::matmul(description), std::move(arguments), scratchpad.get_size()};
}

Key keyOf(const Product& c) {
  const uint32_t flags =
      static_cast<uint32_t>(c.a.dtype) | static_cast<uint32_t>(c.b.dtype) << 3 |
      static_cast<uint32_t>(c.cType) << 6 | static_cast<uint32_t>(c.a.transposed) << 9 |
      static_cast<uint32_t>(c.b.transposed) << 10 | static_cast<uint32_t>(c.packedB != nullptr) << 11 |
      static_cast<uint32_t>(c.bias != nullptr) << 12 | static_cast<uint32_t>(c.residual != nullptr) << 13 |
      static_cast<uint32_t>(c.accumulate) << 14;
  return {
      c.m,  c.n, c.k, c.a.stride, c.packedB ? 0 : c.b.stride, c.cStride, c.residual ? c.residualStride : 0,
      flags};
}

void multiply(const Product& c) {
  if (c.m == 0 || c.n == 0) return;
  guarded("multiply matrices", [&] {
    Library& lib = library();
    const Key key = keyOf(c);
    auto found = lib.plans.find(key);
    if (found == lib.plans.end()) {
      if (lib.plans.size() >= kPlans) lib.plans.clear();
      found = lib.plans.emplace(key, makePlan(c)).first;
    }
    Plan& plan = found->second;
    const auto set = [&](int argument, const void* data) {
      plan.arguments.at(argument).set_data_handle(const_cast<void*>(data));
    };
    set(DNNL_ARG_SRC, c.a.data);
    set(DNNL_ARG_WEIGHTS, c.packedB ? c.packedB->storage.raw() : c.b.data);
    set(DNNL_ARG_DST, c.c);
    if (c.bias) set(DNNL_ARG_BIAS, c.bias);
    if (c.residual) set(residualArgument(c), c.residual);
    if (plan.scratchBytes > 0) set(DNNL_ARG_SCRATCHPAD, lib.scratchOf(plan.scratchBytes));
    plan.primitive.execute(lib.stream, plan.arguments);
    lib.stream.wait();
  });
}

/// The layout is asked for at a typical number of rows; it does not depend on it.
const memory::desc& packedLayout(int64_t k, int64_t n, DType dtype) {
  auto& layouts = library().layouts;
  const std::array<int64_t, 3> key{k, n, static_cast<int64_t>(dtype)};
  const auto found = layouts.find(key);
  if (found != layouts.end()) return found->second;
  const int64_t rows = 512;
  const memory::desc a({rows, k}, typeOf(dtype), memory::format_tag::ab);
  const memory::desc any({k, n}, typeOf(dtype), memory::format_tag::any);
  const memory::desc c({rows, n}, typeOf(dtype), memory::format_tag::ab);
  const auto description = describe(a, any, nullptr, c, dnnl::primitive_attr());
  return layouts.emplace(key, description.weights_desc()).first->second;
}

/// Whether a layout is that of ops/packing.h.
bool inBlocks(const memory::desc& desc, const PackSource& b, DType dtype) {
  const int64_t unit = packedRowUnit(dtype), rows = packedRows(b.k, dtype);
#if DNNL_VERSION_MAJOR >= 3
  const memory::dims blocks = desc.get_inner_blks(), places = desc.get_inner_idxs(),
                     strides = desc.get_strides();
  if (desc.get_format_kind() != memory::format_kind::blocked) return false;
#else
  if (desc.data.format_kind != dnnl_blocked || desc.data.extra.flags != 0) return false;
  const auto& layout = desc.data.format_desc.blocking;
  const memory::dims blocks(layout.inner_blks, layout.inner_blks + layout.inner_nblks);
  const memory::dims places(layout.inner_idxs, layout.inner_idxs + layout.inner_nblks);
  const memory::dims strides(layout.strides, layout.strides + 2);
#endif
  const bool pairs = dtype == DType::bf16;
  return blocks == (pairs ? memory::dims{16, kPackedColumns, 2} : memory::dims{16, kPackedColumns}) &&
         places == (pairs ? memory::dims{0, 1, 0} : memory::dims{0, 1}) &&
         strides == memory::dims{unit * kPackedColumns, rows * kPackedColumns};
}

/// Any layout, by the library's own means.
void reorder(const PackSource& b, const memory& packed) {
  Library& lib = library();
  std::vector<float> joined;
  if (b.blockRows > 0)
    for (int64_t row = 0; row < b.k; ++row)
      joined.insert(joined.end(), b.data + b.row(row), b.data + b.row(row) + b.n);
  const float* data = joined.empty() ? b.data : joined.data();
  memory plain(matrix(b.k, b.n, DType::f32, joined.empty() ? b.stride : b.n, b.transposed), lib.engine,
               const_cast<float*>(data));
  dnnl::reorder(plain, packed).execute(lib.stream, plain, const_cast<memory&>(packed));
  lib.stream.wait();
}

std::shared_ptr<PackedMatrix> pack(const PackSource& b, DType dtype, Arena* arena) {
  return guarded("pack a matrix", [&] {
    Library& lib = library();
    const memory::desc& layout = packedLayout(b.k, b.n, dtype);
    const Shape bytes{static_cast<int64_t>(layout.get_size())};
    const auto packed = std::make_shared<PackedMatrix>();
    packed->storage = arena ? arena->empty(bytes, DType::u8) : Tensor::zeros(bytes, DType::u8);
    packed->memory = memory(layout, lib.engine, packed->storage.raw());
    if (inBlocks(layout, b, dtype))
      backend().packing.pack(b, dtype, packed->storage.raw());
    else
      reorder(b, packed->memory);
    return packed;
  });
}

bool supports(DType dtype) {
  try {
    const memory::desc square({64, 64}, typeOf(dtype), memory::format_tag::ab);
    const memory::desc any({64, 64}, typeOf(dtype), memory::format_tag::any);
    describe(square, any, nullptr, square, dnnl::primitive_attr());
    return true;
  } catch (const dnnl::error&) {
    return false;
  }
}

/// A stored f32 matrix serves as well as a packed one (which is 4 % faster and doubles the memory) unless its
/// rows are a multiple of 4 KiB apart: then they fall into the same cache sets when read down a column block.
bool wantsPacked(const PackSource& b, DType dtype) {
  return dtype != DType::f32 || (!b.transposed && b.k >= 64 && b.stride * 4 % 4096 == 0);
}

size_t packedBytes(const PackedMatrix& packed) { return packed.memory.get_desc().get_size(); }

}  // namespace

bool takesPatches(const PatchGather&) { return false; }

ProductKernels productKernels() {
  const auto rowsTogether = []() -> int64_t { return 512; };
  return {multiply, pack, packedBytes, supports, wantsPacked, takesPatches, rowsTogether};
}

size_t packedLayoutBytes(int64_t k, int64_t n, DType dtype) {
  return guarded("lay out a matrix", [&] { return packedLayout(k, n, dtype).get_size(); });
}

Tensor packedByLibrary(const PackSource& b, DType dtype) {
  return guarded("pack a matrix", [&] {
    const memory::desc& layout = packedLayout(b.k, b.n, dtype);
    if (!inBlocks(layout, b, dtype))
      fail(Code::Unsupported,
           "Expected oneDNN's layout of a packed matrix to be ours, but it has another on this machine");
    const Tensor packed = Tensor::zeros({static_cast<int64_t>(layout.get_size())}, DType::u8);
    std::memset(packed.raw(), 0xff, packed.bytes());
    reorder(b, memory(layout, library().engine, packed.raw()));
    return packed;
  });
}

std::string oneDnnVersionText() {
  const dnnl_version_t* version = dnnl::version();
  return str(version->major, ".", version->minor, ".", version->patch);
}

}  // namespace duet
