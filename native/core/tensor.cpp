#include "core/tensor.h"

#include "core/memory.h"

namespace duet {

size_t sizeOf(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 4;
    case DType::bf16:
      return 2;
    case DType::f16:
      return 2;
    case DType::i64:
      return 8;
    case DType::i32:
      return 4;
    case DType::u8:
      return 1;
  }
  return 1;
}

const char* nameOf(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "f16";
    case DType::i64:
      return "i64";
    case DType::i32:
      return "i32";
    case DType::u8:
      return "u8";
  }
  return "?";
}

float halfToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  uint32_t exponent = (bits >> 10) & 0x1fu;
  uint32_t mantissa = bits & 0x3ffu;
  uint32_t result;
  if (exponent == 0x1fu) {
    result = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent != 0) {
    result = sign | ((exponent + 112u) << 23) | (mantissa << 13);
  } else if (mantissa == 0) {
    result = sign;
  } else {  // subnormal: shift the leading bit into place
    exponent = 113;
    while ((mantissa & 0x400u) == 0) {
      mantissa <<= 1;
      --exponent;
    }
    result = sign | (exponent << 23) | ((mantissa & 0x3ffu) << 13);
  }
  float value;
  std::memcpy(&value, &result, 4);
  return value;
}

uint16_t floatToHalf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u)
    return static_cast<uint16_t>(sign | 0x7c00u);                   // 65520 and above round to infinity
  if (magnitude < 0x33000001u) return static_cast<uint16_t>(sign);  // 2^-25 and below round to zero
  uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  const int shift = exponent < -14 ? 13 + (-14 - exponent) : 13;
  const uint32_t half = 1u << (shift - 1);
  const uint32_t rest = mantissa & ((1u << shift) - 1u);
  mantissa >>= shift;
  if (rest > half || (rest == half && (mantissa & 1u))) ++mantissa;
  const uint32_t base = exponent < -14 ? 0u : static_cast<uint32_t>(exponent + 14) << 10;
  return static_cast<uint16_t>(sign | (base + mantissa));
}

Shape::Shape(std::initializer_list<int64_t> dims) : Shape(std::vector<int64_t>(dims)) {}

Shape::Shape(const std::vector<int64_t>& dims) {
  require(dims.size() <= dims_.size(), "Expected at most 6 dimensions but received ", dims.size());
  for (int64_t dim : dims) {
    require(dim >= 0, "Expected dimensions of 0 or more but received ", dim);
    dims_[rank_++] = dim;
  }
}

int64_t Shape::elements() const {
  int64_t count = 1;
  for (int axis = 0; axis < rank_; ++axis) count *= dims_[axis];
  return count;
}

bool Shape::operator==(const Shape& other) const {
  if (rank_ != other.rank_) return false;
  for (int axis = 0; axis < rank_; ++axis)
    if (dims_[axis] != other.dims_[axis]) return false;
  return true;
}

std::string Shape::text() const {
  std::string result = "[";
  for (int axis = 0; axis < rank_; ++axis) result += (axis ? ", " : "") + std::to_string(dims_[axis]);
  return result + "]";
}

namespace {

class OwnStorage final : public Storage {
 public:
  explicit OwnStorage(size_t size) : memory_(currentMemory()) {
    size_ = size;
    bytes_ = static_cast<std::byte*>(memory_.allocate(size));
  }
  ~OwnStorage() override { memory_.release(bytes_); }

 private:
  const Memory& memory_;
};

}  // namespace

Tensor::Tensor(std::shared_ptr<Storage> storage, size_t offset, Shape shape, DType dtype)
    : storage_(std::move(storage)), offset_(offset), shape_(shape), dtype_(dtype) {
  if (offset_ + bytes() > storage_->size())
    fail(Code::Internal, "Tensor ", shape_.text(), " of ", nameOf(dtype_), " does not fit its storage");
}

Tensor Tensor::zeros(const Shape& shape, DType dtype) {
  const size_t size = static_cast<size_t>(shape.elements()) * sizeOf(dtype);
  return Tensor(std::make_shared<OwnStorage>(size), 0, shape, dtype);
}

Tensor Tensor::reshape(const Shape& shape) const {
  if (shape.elements() != elements())
    fail(Code::Internal, "Cannot see ", shape_.text(), " as ", shape.text());
  Tensor result = *this;
  result.shape_ = shape;
  return result;
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  if (shape_.rank() == 0 || begin < 0 || end < begin || end > shape_[0])
    fail(Code::Internal, "Rows ", begin, " to ", end, " are not in ", shape_.text());
  Tensor result = *this;
  const int64_t rowElements = shape_[0] == 0 ? 0 : elements() / shape_[0];
  result.offset_ += static_cast<size_t>(begin * rowElements) * sizeOf(dtype_);
  result.shape_[0] = end - begin;
  return result;
}

void Tensor::checkType(DType wanted) const {
  if (wanted != dtype_)
    fail(Code::Internal, "Expected a tensor of ", nameOf(wanted), " but it holds ", nameOf(dtype_));
}

}  // namespace duet
