/** The exports of every build; ts/src/engine/kernels.ts says what each does. */

export { attendBegin, attendBlock, attendFinish, attendHalfBlock, attendMerge, finishKeys } from './attend';
export { plainTileInt16, plainTileInt8 } from './bench';
export { crossLayerAdvanceInt8, crossLayerEncode } from './cross-layer';
export { addBias, addInto, argmax, findNonFinite, geluGate, rmsNorm, rope, scaleBy, siluGate, softmaxRows } from './elementwise';
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
export { packCodes, unpackCodes } from './pack';
export {
  dequantizeAddColumns,
  dequantizeAddRows,
  dequantizeColumns,
  dequantizeRows,
  quantizeColumns,
  quantizeRows,
  unpackColumns,
  unpackRows,
} from './quantize';
export {
  matmulTile,
  matmulTileFloat,
  matmulTileInt8,
  packWeights,
  packWeightsInt8,
  unpackTile,
  unpackTileInt8,
} from './rematerialize';
export { dequantizeSymmetric, multiplySymmetric, quantizeSymmetric } from './symmetric';
export { quantizeTile } from './tile';
export { copyBytes, copyRows, multiplyRows, placeKeys, subtractInto } from './window';
