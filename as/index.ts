/** The exports of every build; ts/src/engine/kernels.ts says what each does. */

export { attendBlock, attendHalfBlock } from './attend';
export { finishKeys } from './attend-keys';
export { crossLayerEncode } from './cross-layer';
export { addBias, addInto, findNonFinite, geluGate, rmsNorm, rope, scaleBy, siluGate } from './elementwise';
export * from './embed-blocks';
export * from './float16';
export { hadamardRows } from './hadamard';
export * from './matmul-blocks';
export {
  embedBF16,
  embedF16,
  embedF32,
  matmulBF16,
  matmulF16,
  matmulF32,
  repackF16,
  repackF32,
} from './matmul-float';
export { packWeights, packWeightsInt8 } from './pack-weights';
export {
  dequantizeAddColumns,
  dequantizeAddRows,
  dequantizeColumns,
  dequantizeRows,
  quantizeColumns,
  quantizeRows,
} from './quantize';
export { matmulTile, matmulTileFloat, matmulTileFloatAdd, matmulTileInt8 } from './register-tile';
export * from './repack-blocks';
export { attendBegin, attendFinish, attendMerge } from './running-softmax';
export { dequantizeSymmetric, multiplySymmetric, quantizeSymmetric } from './symmetric';
export { quantizeTile } from './tile';
export { unpackTile, unpackTileInt8 } from './unpack-tile';
export { copyBytes, copyRows, multiplyRows, placeKeys, subtractInto } from './window';
