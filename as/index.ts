/** The exports of every build; what each does stands in ts/src/engine/kernels.ts. */

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
export { quantizeTile } from './tile';
