/**
 * The parts of the reference, one by one: what a reader of the paper wants to look at, and what an experiment wants
 * to take apart. `import { XQuantCache } from 'xquant/reference'`; models, files and text are in `xquant`.
 *
 * To read them: `BlockCache` (how a block is sealed), then `XQuantCache`, `XQuantLatentCache`, `CrossLayerDeltaCache`
 * with `Accumulator`, `CrossLayerLatentCache`, `CalibratedCache`; then `foldProjection`, and `causalAttention` of the model around them.
 *
 * @module xquant/reference
 */

export { type AccumulatingLayer, Accumulator } from './cache/accumulator.js';
// Sealing and the window (XQuant §4).
export { BlockCache, type TokenRows } from './cache/block.js';
// Calibrated caches.
export { CalibratedCache } from './cache/calibrated.js';
export { calibratedPlan, carrierOf, carrierWidth, findSet } from './cache/calibration.js';
export { Coordinates } from './cache/coordinates.js';
// What is computed before anything is cached (XQuant §3.3), and what is folded into the weights.
export { factoredMatrix } from './cache/factors.js';
export { type FoldedProjection, foldGain, foldProjection, project } from './cache/fold.js';
export { KeyValueCache } from './cache/kv.js';
export { KvquantCache } from './cache/kvquant.js';
export {
  cacheLayout,
  type LayerKind,
  type LayerLayout,
  type LayoutOf,
  type LayoutSizes,
  layerLayout,
  layoutSizes,
  type TensorLayout,
  type WindowTensor,
} from './cache/layout.js';
export { loadMatrix, type StorageFormat, storeMatrix } from './cache/stored-matrix.js';
export { Transform } from './cache/transform.js';
// The caches (XQuant §3).
export { XQuantCache } from './cache/xquant.js';
export { CrossLayerBaseCache, CrossLayerCache, CrossLayerDeltaCache } from './cache/xquant-cl.js';
export { CrossLayerLatentCache } from './cache/xquant-cl-gqa.js';
export { rotateLatent, XQuantLatentCache } from './cache/xquant-gqa.js';
// The model around them.
export { causalAttention } from './model/attention.js';
export { mlp, silu } from './model/mlp.js';
export { applyGain, normalizeHeads, normalizeRows, rmsNorm } from './model/rms-norm.js';
export { applyRope, ropeFrequencies } from './model/rope.js';
// Numbers.
export { roundHalfEven } from './numerics/round.js';
export { type AllocationProblem, allocateBits, type Distortion } from './quant/allocate-bits.js';
export {
  type ChannelBits,
  dequantizeSymmetric,
  quantizeSymmetric,
  type SymmetricFormat,
  type SymmetricMatrix,
} from './quant/symmetric.js';
