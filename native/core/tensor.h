// Tensors: a shape, a data type and a share of a storage. Always contiguous and row-major; a view
// is a run of rows of the leading dimension or another shape over the same elements.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "core/both.h"
#include "core/error.h"

namespace duet {

enum class DType : uint8_t { f32, bf16, f16, i64, i32, u8 };

size_t sizeOf(DType dtype);
const char* nameOf(DType dtype);

/// bfloat16 as bits; conversion rounds to nearest even.
struct bf16 {
  uint16_t bits;
};

DUET_BOTH inline float toFloat(bf16 value) {
  uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

DUET_BOTH inline bf16 toBf16(float value) {
#if defined(__CUDA_ARCH__)
  uint16_t half;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half) : "f"(value));
  return {half};
#else
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return {static_cast<uint16_t>((bits >> 16) | 0x40u)};  // NaN stays NaN
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return {static_cast<uint16_t>(bits >> 16)};
#endif
}

float halfToFloat(uint16_t bits);
uint16_t floatToHalf(float value);

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::u8;
};

/// Up to six dimensions.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);
  explicit Shape(const std::vector<int64_t>& dims);
  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return dims_[axis]; }
  int64_t& operator[](int axis) { return dims_[axis]; }
  int64_t elements() const;
  bool operator==(const Shape& other) const;
  bool operator!=(const Shape& other) const { return !(*this == other); }
  std::string text() const;  // "[3, 64]"
  std::vector<int64_t> vector() const { return {dims_.begin(), dims_.begin() + rank_}; }

 private:
  std::array<int64_t, 6> dims_{};
  int rank_ = 0;
};

/// Owns (or borrows, e.g. from a mapped file) a run of bytes. Freed when the last tensor lets go.
class Storage {
 public:
  virtual ~Storage() = default;
  std::byte* bytes() const { return bytes_; }
  size_t size() const { return size_; }

 protected:
  std::byte* bytes_ = nullptr;
  size_t size_ = 0;
};

class Tensor {
 public:
  Tensor() = default;
  Tensor(std::shared_ptr<Storage> storage, size_t offset, Shape shape, DType dtype);

  /// Persistent memory of this thread's device, 64-byte aligned, zero-filled. For parameters and what
  /// outlives a step.
  static Tensor zeros(const Shape& shape, DType dtype = DType::f32);

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int64_t dim(int axis) const { return shape_[axis < 0 ? axis + shape_.rank() : axis]; }
  int64_t elements() const { return shape_.elements(); }
  DType dtype() const { return dtype_; }
  size_t bytes() const { return static_cast<size_t>(elements()) * sizeOf(dtype_); }
  /// Rows and columns when everything but the last dimension is flattened.
  int64_t columns() const { return shape_.rank() == 0 ? 1 : shape_[shape_.rank() - 1]; }
  int64_t rowCount() const { return columns() == 0 ? 0 : elements() / columns(); }

  void* raw() const { return storage_ ? storage_->bytes() + offset_ : nullptr; }
  template <typename T>
  T* data() const {
    checkType(DTypeOf<T>::value);
    return static_cast<T*>(raw());
  }
  float* f32() const { return data<float>(); }

  /// The same elements in another shape.
  Tensor reshape(const Shape& shape) const;
  /// Rows [begin, end) of the leading dimension.
  Tensor rows(int64_t begin, int64_t end) const;
  /// Whether nobody else holds this storage, so that it may be written in place.
  bool unique() const { return storage_.use_count() == 1; }
  bool sameStorage(const Tensor& other) const { return storage_ == other.storage_; }

 private:
  void checkType(DType wanted) const;
  std::shared_ptr<Storage> storage_;
  size_t offset_ = 0;
  Shape shape_;
  DType dtype_ = DType::f32;
};

}  // namespace duet
