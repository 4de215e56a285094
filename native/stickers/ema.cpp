#include "stickers/ema.h"

#include <algorithm>

#include "ops/kernels.h"

namespace duet {

Ema::Ema(const std::vector<Parameter*>& parameters, double decay) : parameters_(parameters), decay_(decay) {
  require(decay >= 0 && decay < 1, "Expected an EMA decay from 0 to below 1 but received ", decay);
  for (Parameter* p : parameters_) {
    Tensor copy = Tensor::zeros(p->value.shape());
    currentMemory().copy(copy.raw(), p->value.raw(), copy.bytes());
    averages_[p] = copy;
  }
}

void Ema::update() {
  require(!swapped_,
          "Expected the trained weights in place for a training step but their averages are; "
          "exchange them back with swapEma");
  const auto t = static_cast<double>(++updates);
  const auto decay = static_cast<float>(std::min(decay_, (1.0 + t) / (10.0 + t)));
  std::vector<MovingAverage> tensors;
  for (Parameter* p : parameters_) {
    const Tensor& average = averages_.at(p);
    tensors.push_back({average.f32(), p->f32(), average.elements()});
  }
  backend().optimizer.movingAverage(tensors, decay);
}

void Ema::swap() {
  for (Parameter* p : parameters_) {
    std::swap(p->value, averages_.at(p));
    p->changed();
  }
  swapped_ = !swapped_;
}

}  // namespace duet
