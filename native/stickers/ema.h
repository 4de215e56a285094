// The exponential moving average of all weights. It follows quickly at first: the decay of update t (from 1)
// is min(decay, (1 + t) / (10 + t)).
#pragma once

#include <map>
#include <vector>

#include "nn/parameter.h"

namespace duet {

class Ema {
 public:
  /// Begins with the weights as they are.
  Ema(const std::vector<Parameter*>& parameters, double decay);

  void update();
  /// Exchanges weights and averages; a second call brings the weights back.
  void swap();
  bool swapped() const { return swapped_; }
  const Tensor& average(const Parameter& parameter) const { return averages_.at(&parameter); }
  int64_t updates = 0;

 private:
  std::vector<Parameter*> parameters_;
  double decay_;
  bool swapped_ = false;
  std::map<const Parameter*, Tensor> averages_;
};

}  // namespace duet
