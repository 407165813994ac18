/**
 * XQuant (arXiv 2508.10395, not 2510.11236): LLM inference that caches quantized layer inputs and
 * rematerializes keys and values when they are needed.
 *
 * `loadModel()` and `generate()` run a model, `measurePerplexity` and `cacheSize` say what a cache costs, `writeSnapshot`
 * saves one. The method itself is one group of numbers (`quantizeGroup`), its bytes (`packCodes`), a matrix in groups
 * (`quantizeMatrix`), the caches of `xquant/reference`, and the forward pass (`ReferenceModel`).
 *
 * @module xquant
 */

// biome-ignore-all assist/source/organizeImports: the sections are a table of contents, which sorting would take apart

// Load a model, generate, chat, measure.

export { BACKENDS, type BackendName, type BackendOptions, startModel } from './backends.js';
export {
  type AnswerOptions,
  ChatAnswer,
  type ChatOptions,
  ChatSession,
  type ChatTokenizer,
} from './chat-session.js';
export {
  CachedSequence,
  DEFAULT_CACHE,
  type GeneratedToken,
  type GenerateOptions,
  Generation,
  type GenerationSummary,
  type GenerationTokenizer,
  generate,
  PREFILL_CHUNK,
  type PromptRun,
  runPrompt,
  type StopReason,
  type StreamingDecoder,
} from './generate.js';
export { type LoadedModel, type LoadModelOptions, loadModel } from './load.js';
export {
  type BytesByKind,
  breakEvenTokens,
  bytesByKind,
  cacheTotals,
  type MemoryTotals,
  memoryTotals,
} from './memory-totals.js';
export {
  type CachePerplexity,
  measurePerplexity,
  PERPLEXITY_WINDOW,
  type PerplexityMode,
  type PerplexityOptions,
  type PerplexityReport,
} from './perplexity.js';
export {
  generateSamples,
  SampleGeneration,
  type SampleOptions,
  type SampleToken,
} from './samples.js';
export {
  Random,
  type SampledToken,
  Sampler,
  type SamplingOptions,
  type TokenLogprob,
} from './sampling.js';
export {
  DEFAULT_DRAFT,
  type DraftOptions,
  type DraftSource,
  MAX_DRAFT,
  type Speculate,
  type SpeculationCounts,
} from './speculation.js';

// Caches: what can be asked for, and what they hold (XQuant §3).

export { ReferenceCache } from './cache/create.js';
export { AUTO_CACHE, type CalibrationFinder, type ChosenCache, chooseCache } from './cache/default-cache.js';
export { ComputedFactors, type FactorKeeper, type FactorProgress, latentFactors } from './cache/factors.js';
export type { CalibratedPlan, Calibration } from './cache/calibration.js';
export {
  ACCUMULATOR_POLICIES,
  type AccumulatorPolicy,
  CACHE_FORMS,
  CACHE_VARIANTS,
  type CacheForm,
  type CacheModelShape,
  type CacheOptions,
  type CachePreset,
  type CacheRequest,
  type CacheVariant,
  DELTA_SPACES,
  type DeltaSpace,
} from './cache/options.js';
export {
  cacheOptionNames,
  formatCacheOptions,
  parseCacheSpec,
  resolveCacheOptions,
} from './cache/presets.js';
export { storedBytes, totalBytes } from './cache/stored-matrix.js';
export type { CacheBytes, KeysAndValues, LayerCache, LayerInput, ModelCache } from './cache/contract.js';
export type {
  Calibrations,
  FactoredMatrix,
  FactorSource,
  KeyValueProjection,
  LatentFactors,
} from './cache/projection.js';
export type { Float16Matrix, LayerState, SealedBlock, StoredMatrix } from './cache/state.js';

// Calibrations.

export type {
  CalibratedLevels,
  KvquantCalibration,
  KvquantLayerCalibration,
  KvquantSetting,
} from './cache/kvquant-calibration.js';

// The quantizer, and weights as files store them.

export {
  dequantizeMatrix,
  forEachGroup,
  GROUPINGS,
  type GroupedFormat,
  type GroupedOptions,
  type Grouping,
  type GroupSlot,
  type QuantizedMatrix,
  quantizedBytes,
  quantizeMatrix,
  unpackMatrix,
} from './quant/grouped.js';
export type { NuqBits, NuqMatrix, NuqRanges, QNorm } from './quant/nuq.js';
export { packCodes, packedBytes, unpackCodes } from './quant/pack.js';
export {
  BITS,
  type Bits,
  dequantizeGroup,
  encodeGroup,
  type GroupParameters,
  type GroupPlace,
  MSE_RANGE_FACTORS,
  maxCode,
  quantizeGroup,
  RANGE_RULES,
  type RangeRule,
} from './quant/uniform.js';
export {
  dequantizeWeights,
  WEIGHT_BLOCKS,
  WEIGHT_TYPES,
  type ProductType,
  type WeightTensor,
  type WeightType,
  type WeightTypeRow,
} from './quant/weight-types.js';

// Sizes, roofline, distributions.

export {
  type ChannelProfile,
  type DistributionOptions,
  type Distributions,
  type LayerDistributions,
  type LayerError,
  type LayerStep,
  measureCacheErrors,
  measureDistributions,
  type OutlierPrediction,
  type ProfiledTensor,
  predictOutlierChannel,
  type SteppedTensor,
  type TensorSample,
} from './analysis/distributions.js';
export {
  type CacheSize,
  cacheBytes,
  cacheSize,
  float16KeyValueBytes,
  type MemoryShape,
  NAMED_SHAPES,
  namedShape,
  type ShapeName,
} from './analysis/memory.js';
export {
  DEVICES,
  type Device,
  type DeviceName,
  hiddenTokens,
  parseDevice,
  type RooflineCost,
  type RooflineForm,
  type RooflineLayer,
  ridgePoint,
  rooflineCost,
  rooflineTerms,
} from './analysis/roofline.js';

// Models: the definition.

export type { LayerConfig, ModelConfig, RopeConfig, RopeLayout } from './model/config.js';
export type {
  AttentionMode,
  BatchOptions,
  ForwardOptions,
  LanguageModel,
  TappedTensor,
  TensorTap,
} from './model/language-model.js';
export { ReferenceModel } from './reference-model.js';
export {
  type FileWeights,
  type UnreadTensor,
  type UnreadWeights,
  type LayerWeights,
  type ModelWeights,
  type ReferenceWeights,
  referenceWeights,
} from './model/weights.js';

// The engine.

export {
  KERNEL_CHOICES,
  type KernelChoice,
  WASM_BUILDS,
  type WasmBinary,
  type WasmBuild,
} from './engine/load-wasm.js';
export type { WasmForwardOptions } from './engine/pass-context.js';
export { planBytes } from './engine/plan-bytes.js';
export { KEY_WEIGHTS, type KeyWeights } from './engine/small-product.js';
export { WasmCache } from './engine/wasm-cache.js';
export { type WasmMemoryUse, WasmModel, type WasmModelOptions } from './engine/wasm-model.js';

// Files: models, factors, snapshots.

export { ARCHITECTURES } from './io/families/index.js';
export {
  EMBEDDED_MODELS,
  type EmbeddedModel,
  type LoadOptions,
  loadModelFile,
  type ModelSource,
  readModelHeader,
  useModelFile,
} from './io/load-model.js';
export type {
  ModelFile,
  ModelHeader,
  TensorInfo,
  UnreadModelFile,
  WeightTypeSummary,
} from './io/model-file.js';
export type { LoadProgress } from './io/progress.js';
export { loadSnapshot, saveSnapshot } from './io/snapshot-file.js';
export { SNAPSHOT_VERSION } from './io/snapshot-sections.js';
export {
  type RestoredSnapshot,
  readSnapshotInfo,
  restoreSnapshot,
  type SnapshotContent,
  type SnapshotOwner,
  writeSnapshot,
} from './io/snapshot.js';
export type { SnapshotInfo } from './io/snapshot-metadata.js';
export type { ByteSource } from './io/source.js';
export {
  type FactorName,
  type FactorOwner,
  type NamedFactors,
  readFactors,
  writeFactors,
} from './io/svd-factors.js';

// Text: tokenizers and chat templates.

export {
  type ChatMessage,
  type RenderChatOptions,
  renderChat,
  type TemplateMessage,
} from './text/chat-template.js';
export type { StreamDecoder } from './text/token-bytes.js';
export type {
  GgufTokenizerSource,
  JsonTokenizerSource,
  NoTokenizerSource,
  TokenizerSource,
} from './text/tokenizer-source.js';
export { type DecodeOptions, type EncodeOptions, Tokenizer } from './text/tokenizer.js';

// Numbers.

export { decodeFloat16, encodeFloat16, fromFloat16Bits, toFloat16Bits } from './numerics/float16.js';
export { hadamardBlock, hadamardInto, type Rotation, rotateRows } from './numerics/hadamard.js';
export { linear, type Matrix, matrix } from './numerics/matrix.js';
export { type ThinSvd, thinSvd } from './numerics/svd.js';

// Errors.

export * from './errors.js';
