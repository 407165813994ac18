/**
 * The parts of the reference, one by one: what a reader of the paper wants to look at, and what an experiment wants
 * to take apart. `import { XQuantCache } from 'xquant/reference'`; models, files and text are in `xquant`.
 *
 * To read them: `BlockCache` (how a block is sealed), then `XQuantCache`, `XQuantLatentCache`, `CrossLayerDeltaCache`
 * with `Accumulator`, `CrossLayerLatentCache`, `CalibratedCache`; then `foldProjection`, and `causalAttention` of the model around them.
 *
 * @module xquant/reference
 */

// biome-ignore-all assist/source/organizeImports: the sections follow the paper, which sorting would take apart

// Sealing, the window, and what a layer stores (XQuant §4).

export { BlockCache, type TokenRows } from './cache/block.js';
export {
  type AnyLayer,
  type AverageFormat,
  type CalibratedFormat,
  cacheLayout,
  type LayerKind,
  type LayerLayout,
  type LayoutOf,
  type LayoutSizes,
  layerLayout,
  layoutSizes,
  type RowSource,
  type SealedTensors,
  type TensorLayout,
  type WindowTensor,
} from './cache/layout.js';
export { loadMatrix, type StorageFormat, storeMatrix } from './cache/stored-matrix.js';

// Offline (XQuant §3.3), and what is folded into the weights.

export { factoredMatrix } from './cache/factors.js';
export { type FoldedProjection, foldGain, foldProjection, project } from './cache/fold.js';

// The caches (XQuant §3).

export { KeyValueCache } from './cache/kv.js';
export { KvquantCache } from './cache/kvquant.js';
export { XQuantCache } from './cache/xquant.js';
export { rotateLatent, XQuantLatentCache } from './cache/xquant-gqa.js';
export { type AccumulatingLayer, Accumulator } from './cache/accumulator.js';
export { CrossLayerBaseCache, CrossLayerCache, CrossLayerDeltaCache } from './cache/xquant-cl.js';
export { CrossLayerLatentCache } from './cache/xquant-cl-gqa.js';

// Calibrated caches.

export {
  type CalibrationBasis,
  type CalibrationOrigin,
  type CalibrationSet,
  type CalibrationText,
  calibratedPlan,
  type CarrierSizes,
  carrierOf,
  carrierWidth,
  findSet,
  type LayerTransform,
  type MeasuredLoss,
  type PlanRequest,
  type PredictedFrom,
  type SetRequest,
} from './cache/calibration.js';
export { Transform } from './cache/transform.js';
export { Coordinates } from './cache/coordinates.js';
export { CalibratedCache } from './cache/calibrated.js';

// The model around them.

export { type AttentionOptions, causalAttention } from './model/attention.js';
export { mlp, silu } from './model/mlp.js';
export { applyGain, normalizeHeads, normalizeRows, rmsNorm } from './numerics/rms-norm.js';
export { applyRope, ropeFrequencies } from './model/rope.js';
export { Transformer } from './model/transformer.js';

// Numbers.

export { roundHalfEven } from './numerics/round.js';

// Quantizers.

export type { NuqFormat } from './quant/nuq.js';
export { fitQNorm, type WeightedClusters, weightedKMeans } from './quant/nuq-fit.js';
export { type AllocationProblem, allocateBits, type Distortion } from './quant/allocate-bits.js';
export {
  type ChannelBits,
  dequantizeSymmetric,
  quantizeSymmetric,
  type SymmetricFormat,
  type SymmetricMatrix,
} from './quant/symmetric.js';
