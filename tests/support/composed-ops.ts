/** Layers that runOp knows by name and that are put together from single ops, which have tests of their own. */
export const composedOps = [
  'attentionLayer',
  'gatedLayer',
  'layers',
  'residualBlock',
  'resize',
  'spatialTransformer',
  'stiLayer',
  'temporalEncoder',
  'temporalTransformer',
  'transformerBlock',
];
