#include "nn/residual_block.h"

#include "nn/gated.h"
#include "nn/group_norm.h"
#include "nn/linear.h"

namespace duet {

ResidualBlock::ResidualBlock(ParameterList& list, const std::string& name, const ResidualBlockShape& shape)
    : shape_(shape) {
  list.norm(name + "norm1", norm1_, shape.in);
  list.convolution(name + "conv1", conv1_, shape.out, shape.in, 3);
  if (shape.time > 0) list.linear(name + "time_emb_proj", time_, shape.out, shape.time);
  list.norm(name + "norm2", norm2_, shape.out);
  list.convolution(name + "conv2", conv2_, shape.out, shape.out, 3);
  if (shape.in != shape.out) list.convolution(name + "conv_shortcut", shortcut_, shape.out, shape.in, 1);
}

Var ResidualBlock::forward(Context& c, const Var& x, const PictureGrid& grid, const Var& time) {
  GroupNormOptions norm;
  norm.groups = shape_.groups;
  norm.epsilon = shape_.epsilon;
  norm.silu = true;
  norm.outType = c.compute;
  Var h = groupNorm(c, x, grid, norm1_.gamma, norm1_.beta, norm);
  h = convolution(c, h, grid, conv1_.kernel, &conv1_.bias);
  Var shift;
  if (shape_.time > 0) {
    shift = linear(c, time, time_.use, &time_.bias);
    norm.clipShift = &shift;
  }
  h = groupNorm(c, h, grid, norm2_.gamma, norm2_.beta, norm);
  const bool widens = shape_.in != shape_.out;
  const Var shortcut =
      widens ? linear(c, cast(c, x, c.compute), shortcut_.kernel.weights, &shortcut_.bias) : x;
  ConvolutionOptions last;
  last.residual = &shortcut;
  return convolution(c, h, grid, conv2_.kernel, &conv2_.bias, last);
}

}  // namespace duet
