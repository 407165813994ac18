/**
 * XQuant (arXiv 2508.10395, not 2510.11236): LLM inference that caches quantized layer inputs and
 * rematerializes keys and values when they are needed.
 *
 * This file is a table of contents. To read the method, go through `quant/uniform`, `quant/pack`,
 * `quant/grouped`, then `cache/block` and the variants beside it, then `model/transformer`.
 *
 * @module
 */

// The quantizer (XQuant §4): one group, its bytes, a matrix in groups.
export {
  type Bits,
  BITS,
  dequantizeGroup,
  encodeGroup,
  type GroupParameters,
  type GroupPlace,
  maxCode,
  MSE_RANGE_FACTORS,
  quantizeGroup,
  RANGE_RULES,
  type RangeRule,
} from './quant/uniform.js';
export { packCodes, packedBytes, unpackCodes } from './quant/pack.js';
export {
  dequantizeMatrix,
  forEachGroup,
  type GroupedFormat,
  type GroupedOptions,
  type Grouping,
  GROUPINGS,
  type GroupSlot,
  type QuantizedMatrix,
  quantizedBytes,
  quantizeMatrix,
  unpackMatrix,
} from './quant/grouped.js';
export {
  dequantizeWeights,
  WEIGHT_BLOCKS,
  WEIGHT_TYPES,
  type WeightTensor,
  type WeightType,
} from './quant/weight-formats.js';

// Numbers.
export { decodeFloat16, encodeFloat16, fromFloat16Bits, toFloat16Bits } from './numerics/float16.js';
export { hadamardBlock, hadamardInto, type Rotation, rotateRows } from './numerics/hadamard.js';
export { linear, type Matrix, matrix } from './numerics/matrix.js';
export { type ThinSvd, thinSvd } from './numerics/svd.js';

// Caches (XQuant §3).
export {
  cacheOptionNames,
  CACHE_VARIANTS,
  type CacheModelShape,
  type CachePreset,
  type CacheRequest,
  parseCacheSpec,
  resolveCacheOptions,
} from './cache/presets.js';
export { storedBytes, totalBytes } from './cache/stored-matrix.js';
export { ReferenceCache } from './cache/create.js';
export { ComputedFactors, type FactorProgress, latentFactors } from './cache/factors.js';
export type {
  AccumulatorPolicy,
  CacheBytes,
  CacheForm,
  CacheOptions,
  CacheVariant,
  DeltaSpace,
  FactoredMatrix,
  FactorSource,
  Float16Matrix,
  KeysAndValues,
  KeyValueProjection,
  LatentFactors,
  LayerCache,
  LayerInput,
  LayerState,
  ModelCache,
  SealedBlock,
  StoredMatrix,
} from './cache/types.js';

// The model.
export { type Architecture, ARCHITECTURES, type ModelConfig, type RopeLayout } from './model/config.js';
export type {
  AttentionMode,
  ForwardOptions,
  LanguageModel,
  TappedTensor,
  TensorTap,
} from './model/language-model.js';
export { ReferenceModel } from './model/transformer.js';
export {
  type FileWeights,
  type LayerWeights,
  type ModelWeights,
  type ReferenceWeights,
  referenceWeights,
} from './model/weights.js';

// Files and text.
export * from './errors.js';
