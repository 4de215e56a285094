// A named weight: its f32 value, whether it is trained, its gradient, and the packed copies that
// matrix products use.
#pragma once

#include <array>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/tensor.h"
#include "ops/product.h"

namespace duet {

struct Parameter {
  std::string name;
  Tensor value;  // f32
  bool trainable = false;
  bool hasGradient = false;              // whether `gradient` holds one of this pass
  Tensor gradient;                       // f32, allocated when first needed
  std::shared_ptr<Arena> gradientArena;  // null, or where gradients lie from backward pass to update
  bool borrowed = false;                 // the value lies in a mapped file and must not be written
  std::vector<Tensor> parts;  // the row blocks of a stacked value where they lie in a mapped file; `value`
                              // is then untouched memory

  /// Makes the value writable: what is borrowed is copied.
  void own();
  /// Gives the pages of a borrowed value back; they are read from the file again when touched.
  void dropPages() const;
  /// Rows from `first` on, at most `count`, as they lie in memory: no further than to the end of a part.
  Tensor block(int64_t first, int64_t count) const;
  /// `count` rows from `first` on in one piece: a copy where parts lie apart.
  Tensor stacked(int64_t first, int64_t count) const;
  /// Tells the packed copies that the value has changed.
  void changed();
  /// Gradient storage to write into; `accumulate` says whether an earlier contribution is there.
  float* gradientTarget(bool& accumulate);
  /// The gradient has been used, or is not wanted.
  void forgetGradient();
  float* f32() {
    if (!parts.empty()) own();
    return value.f32();
  }
  const float* f32() const {
    if (!parts.empty()) fail(Code::Internal, "The parts of ", name, " lie apart");
    return value.f32();
  }

 private:
  friend struct Weights;
  int64_t version_ = 0;
};

/// The right-hand sides of y = x W^T (forward) and dx = dy W (backward) of a linear layer, or of
/// some rows of stacked ones. W is out x in. In f32 the stored weight serves both directions (except where
/// the kernels want it packed); in bf16 each direction is packed, frozen weights once, trained ones whenever
/// a layer of a training step works with them (StepPacks).
struct Weights {
  Parameter* parameter = nullptr;
  int64_t firstRow = 0, rows = 0;

  int64_t out() const { return rows; }
  int64_t in() const { return parameter->value.dim(1); }
  /// Fills in the right-hand side of a product with the transpose of W (forward) or W (backward).
  /// Stacked rows that lie apart in a mapped file take one product each: a call fills in the next of
  /// them, which starts at row `done` of W, and moves `done` behind it.
  void forward(Product& product, DType compute, int64_t& done);
  void backward(Product& product, DType compute, int64_t& done);

 private:
  struct Packed {
    std::shared_ptr<PackedMatrix> matrix;
    int64_t version = -1;
  };
  friend class StepPacks;
  Packed forward_, backward_;
  Arena* lender_ = nullptr;
  void fill(Product& product, DType compute, Packed& packed, bool transposedUse, int64_t& done);

 public:
  size_t packedBytes() const;
};

/// While one lives, copies that are packed of weights for a training step lie in the memory of the step; they
/// go with it. That is so for trained weights and in f32 for all.
class StepPacks {
 public:
  /// @param arena null outside of training: copies are kept for the next pass
  StepPacks(Arena* arena, DType compute, std::initializer_list<Weights*> weights);
  ~StepPacks();
  StepPacks(const StepPacks&) = delete;
  StepPacks& operator=(const StepPacks&) = delete;

 private:
  std::array<Weights*, 2> lent_{};
};

}  // namespace duet
