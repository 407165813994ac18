/**
 * A language model on the WebAssembly kernels: the same caches, the same bytes, the same tokens as the reference.
 *
 *     await using model = await WasmModel.load(file.config, file.weights, { threads: 2 });
 *     const cache = model.createCache('xquant-cl:2@tuned');
 *     const logits = await model.forward(tokens, cache);
 *
 * @module
 */

import { planOf } from '../cache/calibrated-plan.js';
import type { LayerInput, ModelCache } from '../cache/contract.js';
import { ComputedFactors, type FactorProgress } from '../cache/factors.js';
import type { CacheOptions, CacheRequest } from '../cache/options.js';
import { resolveCacheOptions } from '../cache/presets.js';
import type { KeyValueProjection } from '../cache/projection.js';
import { CacheStateError, ConfigError, DisposedError, KernelError, XQuantError } from '../errors.js';
import { assertModelConfig, derivedSizes, hasInputNorms, type ModelConfig } from '../model/config.js';
import type { BatchOptions, LanguageModel } from '../model/language-model.js';
import { withScoreGains } from '../model/qk-norm.js';
import { normalizeHeads, normalizeRows } from '../model/rms-norm.js';
import { layerRope, type Rope } from '../model/rope.js';
import {
  assertBatch,
  assertCache,
  assertForwardOptions,
  assertMode,
  assertRoom,
  assertTokens,
} from '../model/tokens.js';
import {
  type AnyWeights,
  assertWeightShapes,
  type FileWeights,
  type LayerWeights,
  type UnreadWeights,
} from '../model/weights.js';
import type { Matrix } from '../numerics/matrix.js';
import { inNode } from '../platform.js';
import { messageOf } from '../printable.js';
import { type RopeTables, recordFinishRows } from './calls.js';
import { ownColumns } from './exact-window.js';
import type { Kernels } from './kernels.js';
import {
  type CompiledKernels,
  compileKernels,
  instantiateKernels,
  type KernelChoice,
  type LoadOptions,
  type WasmBuild,
} from './load-wasm.js';
import { LinearMemory } from './memory.js';
import { runPass } from './pass.js';
import { KEPT_ROWS, PassBuffers, type PassSize } from './pass-buffers.js';
import type { SequenceRows, WasmForwardOptions } from './pass-context.js';
import { type PlacedLayer, type PlacedModel, placeModel } from './placed-model.js';
import { placeFloats, readMatrix } from './placed-weights.js';
import { createPlan } from './plans/create-plan.js';
import type { LayerPlan, PassRows } from './plans/plan.js';
import { KEY_WEIGHTS, type KeyWeights } from './small-product.js';
import { type Recorder, type SpawnThread, Team, TRAPPED } from './team.js';
import { threadScratch } from './thread-scratch.js';
import { type CacheHost, type CachePlan, WasmCache } from './wasm-cache.js';

/** How to run a model. */
export interface WasmModelOptions {
  /** Threads, this one included. Default: the machine's physical cores, or 1 without shared memory. */
  readonly threads?: number;
  /** Instruction set. Default `'auto'`. */
  readonly kernel?: KernelChoice;
  /** Most bytes of linear memory. Default: 4 GiB. */
  readonly memoryLimit?: number;
  /** How precisely the weights are kept that rematerialize keys. Default `'exact'`. */
  readonly keyWeights?: KeyWeights;
  /** Takes the place of the kernels that come with the package. */
  readonly binary?: LoadOptions['binary'];
  /** Called before each decomposition that a latent cache needs. */
  readonly onFactor?: FactorProgress;
}

/** Bytes of linear memory. */
export interface WasmMemoryUse {
  /** Handed out now. */
  readonly used: number;
  /** The most that was handed out at once. */
  readonly peak: number;
  /** Taken from the runtime. */
  readonly committed: number;
  /** Of `used`: the weights of the model. */
  readonly weights: number;
  /** Of `used`: cosines and sines of the positions reached so far, which double when they are outgrown. */
  readonly ropeTables: number;
}

/** RoPE tables start with this many positions and double. */
const FIRST_POSITIONS = 1024;

/** See the module. */
export class WasmModel implements LanguageModel, CacheHost {
  readonly backend = 'wasm';
  readonly config: ModelConfig;
  /** The build that runs. */
  readonly build: WasmBuild;
  readonly threads: number;
  readonly keyWeights: KeyWeights;
  /** SVD factors for the latent forms; see io/svd-factors.ts to load them from a file. */
  readonly factors: ComputedFactors;
  /** What the caches know of each layer's weights. */
  readonly projections: readonly KeyValueProjection[];
  readonly #compiled: CompiledKernels;
  readonly #spawn: SpawnThread | undefined;
  readonly #plans = new Map<string, { plan: CachePlan; users: number }>();
  #memory: LinearMemory | undefined;
  #kernels: Kernels;
  #team: Team;
  #model: PlacedModel;
  readonly #weightBytes: number;
  /** Buffers of passes of few rows. */
  #kept: PassBuffers | undefined;
  #ropePositions = 0;
  /** Of each layer; layers that rotate alike share them. */
  #ropes: readonly RopeTables[] = [];
  /** What went wrong inside: memory may be in any state since then, so nothing more is computed with it. */
  #broken: { readonly cause: unknown } | undefined;
  /** The pass that runs, or ran last: passes go one after another. */
  #last: Promise<unknown> = Promise.resolve();

  private constructor(
    model: PlacedModel,
    layers: readonly LayerWeights<unknown>[],
    compiled: CompiledKernels,
    memory: LinearMemory,
    kernels: Kernels,
    team: Team,
    spawn: SpawnThread | undefined,
    options: WasmModelOptions,
  ) {
    this.config = model.config;
    this.build = compiled.build;
    this.threads = team.threads;
    this.keyWeights = options.keyWeights ?? 'exact';
    this.#compiled = compiled;
    this.#memory = memory;
    this.#kernels = kernels;
    this.#team = team;
    this.#spawn = spawn;
    this.#model = model;
    this.#weightBytes = memory.usedBytes;
    this.projections = model.layers.map((layer, index) => this.#projection(index, layer, layers[index]));
    this.factors = new ComputedFactors(this.projections, options.onFactor);
  }

  /**
   * Compiles the kernels, starts the threads and copies the weights into linear memory.
   *
   * @param weights read, and nothing of them is kept; those in files are read piece by piece
   * @throws {LoadError} if weights cannot be read
   * @throws {ConfigError | ShapeError | NumericError} if config and weights do not fit together, or an option is
   *   outside its set
   * @throws {KernelError} if the runtime lacks a feature, or a binary is missing or damaged
   * @throws {MemoryError} if the model does not fit in the memory limit
   */
  static async load(
    config: ModelConfig,
    weights: FileWeights | UnreadWeights,
    options: WasmModelOptions = {},
  ): Promise<WasmModel> {
    assertModelConfig(config);
    assertWeightShapes(weights, config);
    if (config.headDim % 8 !== 0) {
      throw new ConfigError(
        'headDim',
        config.headDim,
        'a multiple of 8; other sizes run on the reference backend',
      );
    }
    const { keyWeights, kernel, binary, memoryLimit } = options;
    if (keyWeights !== undefined && !KEY_WEIGHTS.includes(keyWeights)) {
      throw new ConfigError('keyWeights', keyWeights, KEY_WEIGHTS.join(' or '));
    }
    const runtime = await workers();
    const threads = options.threads ?? (canShare() ? runtime.physicalCores() : 1);
    if (!Number.isInteger(threads) || threads < 1 || threads > 64) {
      throw new ConfigError('threads', threads, 'an integer from 1 to 64');
    }
    const shared = threads > 1;
    const compiled = await compileKernels({ kernel, shared, binary });
    const memory = new LinearMemory({ shared, limitBytes: memoryLimit, reservedBytes: STATIC_BYTES });
    const kernels = instantiateKernels(compiled, memory.memory);
    const team = await Team.start({
      threads,
      memory,
      module: compiled.module,
      exports: kernels as unknown as Record<string, unknown>,
      spawn: runtime.spawnThread,
    });
    try {
      const given: AnyWeights = weights;
      const layers = given.layers.map((layer) => withScoreGains(layer, config));
      const model = await placeModel(memory, team.immediate, config, { ...given, layers });
      return new WasmModel(model, layers, compiled, memory, kernels, team, runtime.spawnThread, options);
    } catch (error) {
      await team.dispose();
      throw error;
    }
  }

  /** Linear memory. */
  get memoryUse(): WasmMemoryUse {
    const memory = this.memory;
    const { usedBytes: used, peakBytes: peak, committedBytes: committed } = memory;
    const ropeTables = new Set(this.#ropes).size * this.#ropePositions * this.config.headDim * 4;
    return { used, peak, committed, weights: this.#weightBytes, ropeTables };
  }

  /**
   * @throws {DisposedError} after {@link dispose}
   * @throws {KernelError} after an error from inside
   * @internal
   */
  get memory(): LinearMemory {
    if (!this.#memory) throw new DisposedError('model');
    if (this.#broken) {
      const { cause } = this.#broken;
      const reason = `an internal error has stopped this model, load it again (it was: ${messageOf(cause)})`;
      throw new KernelError('model', reason, { cause });
    }
    return this.#memory;
  }

  createCache(request: CacheRequest | string): WasmCache {
    const options = resolveCacheOptions(request, this.config, this.factors);
    const plan = this.#plan(options);
    this.factors.keepComputed();
    return new WasmCache(this, plan);
  }

  async forward(
    tokens: ArrayLike<number>,
    cache: ModelCache,
    options: WasmForwardOptions = {},
  ): Promise<Matrix> {
    assertForwardOptions(options);
    const own = this.#own(cache);
    const ids = assertTokens(tokens, own, this.config);
    return this.#inTurn(() => this.#forward([ids], [own], options));
  }

  /** Blocks that all sequences share are rematerialized once. */
  async forwardBatch(
    tokens: readonly ArrayLike<number>[],
    caches: readonly ModelCache[],
    options: BatchOptions = {},
  ): Promise<Matrix> {
    assertForwardOptions(options);
    assertBatch(tokens, caches);
    const own = caches.map((cache) => this.#own(cache));
    const ids = own.map((cache, i) => assertTokens(tokens[i], cache, this.config));
    return this.#inTurn(() => this.#forward(ids, own, options));
  }

  async dispose(): Promise<void> {
    if (!this.#memory) return;
    await this.#last.catch(() => {});
    await this.#team.dispose();
    this.#plans.clear();
    this.#kept = undefined;
    this.#memory = undefined;
    this.#model = { ...this.#model, layers: [] };
    this.#kernels = {} as Kernels;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  // ---- for its caches ---------------------------------------------------------------------------------------

  /** @internal */
  direct(plan: CachePlan): Recorder {
    void this.memory;
    if (!this.#team.idle) {
      throw new CacheStateError(plan.options.variant, 0, 'use a layer', 'a forward pass is running');
    }
    this.#team.reserveScratch(plan.scratch.bytes);
    return this.#team.immediate;
  }

  /** @internal */
  passRows(layer: number, plan: CachePlan, input: LayerInput): { rows: PassRows; free: readonly number[] } {
    const { memory } = this;
    const { immediate } = this.#team;
    const { hiddenSize, kvDim, down, direct, storesProjections } = plan.layers[layer];
    const tokens = input.x.rows;
    const free: number[] = [];
    const take = (columns: number, source?: Float32Array): number => {
      const pointer = memory.allocate(tokens * columns * 4, 'scratch');
      free.push(pointer);
      return source ? memory.write(pointer, source) : pointer;
    };
    const x = take(hiddenSize, input.x.data);
    const normalized = take(hiddenSize, input.normalized.data);
    const stream = take(hiddenSize, input.stream.data);
    const keys = take(kvDim);
    const values = take(kvDim);
    const latents = down.map(({ outputs }) => take(outputs));
    const step = plan.options.residualWindow;
    for (let first = 0; first < tokens; first += step) {
      const count = Math.min(step, tokens - first);
      const source = x + first * hiddenSize * 4;
      if (storesProjections) {
        const at = first * kvDim * 4;
        plan.layers[layer].recordProjection(immediate, source, count, keys + at, values + at, plan.scratch);
      }
      down.forEach((product, which) => {
        const out = latents[which] + first * product.outputs * 4;
        product.recordRows(immediate, source, count, out, plan.scratch);
      });
    }
    if (direct) recordFinishRows(immediate, this.config, this.#model.layers[layer], keys, values, tokens);
    const [keyLatent = 0, valueLatent = 0] = latents;
    const rows = { x, normalized, stream, keys, values, keyLatent, valueLatent };
    return { rows, free };
  }

  /** @internal */
  finishRows(layer: number, plan: CachePlan, keys: number, values: number, tokens: number): void {
    if (plan.layers[layer].direct) return;
    recordFinishRows(this.#team.immediate, this.config, this.#model.layers[layer], keys, values, tokens);
  }

  /** @internal */
  noteFailure(error: unknown): void {
    if (isInternal(error)) this.#broken ??= { cause: error };
  }

  /** @internal */
  retain(plan: CachePlan): void {
    for (const entry of this.#plans.values()) if (entry.plan === plan) entry.users++;
  }

  /** @internal */
  release(plan: CachePlan): void {
    for (const entry of this.#plans.values()) if (entry.plan === plan) entry.users--;
  }

  // ---- passes ------------------------------------------------------------------------------------------------

  #own(cache: ModelCache): WasmCache {
    assertCache(cache);
    if (!(cache instanceof WasmCache) || cache.host !== this) {
      const owner = cache instanceof WasmCache ? 'another model' : `backend "${cache.backend}"`;
      throw new CacheStateError(cache.options.variant, cache.length, 'run', `it belongs to ${owner}`);
    }
    return cache;
  }

  /** Runs after whatever runs now. */
  #inTurn<T>(run: () => Promise<T>): Promise<T> {
    void this.memory; // a disposed model says so at once
    const turn = this.#last.then(run, run);
    this.#last = turn.catch(() => {});
    return turn;
  }

  /** @param tokens checked, but for the room that passes before this one have left */
  async #forward(
    tokens: readonly (readonly number[])[],
    caches: readonly WasmCache[],
    options: WasmForwardOptions,
  ): Promise<Matrix> {
    const { memory } = this;
    let first = 0;
    const sequences: SequenceRows[] = caches.map((cache, i) => {
      cache.assertUsable();
      assertRoom(tokens[i].length, cache, this.config);
      assertMode(tokens[i].length, cache, options);
      const sequence = { cache, first, count: tokens[i].length, position: cache.length };
      first += sequence.count;
      return sequence;
    });
    await this.#reviveTeam();
    const team = this.#team;
    const { plan } = caches[0];
    team.reserveScratch(plan.scratch.bytes);
    this.#reserveRope(Math.max(...sequences.map(({ position, count }) => position + count)), plan.options);
    const buffers = this.#buffers(plan, {
      rows: first,
      ownColumns: sequences.reduce((sum, sequence) => sum + ownColumns(sequence, options.mode), 0),
      logitRows: options.logits === 'all' ? first : sequences.length,
    });
    const ids = tokens.flat();
    const caller = new CallerErrors(options);
    const shared = {
      memory,
      team,
      model: this.#model,
      tables: this.#ropes,
      plan,
      options: caller.options,
      buffers,
    };
    for (const cache of caches) cache.begin();
    try {
      const logits = await runPass({ ...shared, sequences, rows: ids.length }, ids);
      for (const cache of caches) cache.commit();
      return logits;
    } catch (error) {
      if (!caller.threw(error)) this.noteFailure(error);
      if (team.failure)
        await team.dispose(); // no thread may write into what is given back below
      else team.discard();
      for (const cache of caches) cache.rollback();
      throw error;
    } finally {
      if (buffers !== this.#kept) buffers.dispose();
    }
  }

  /** Buffers for a pass: those of the pass before if they serve. Those of few rows are kept. */
  #buffers(plan: CachePlan, size: PassSize): PassBuffers {
    if (size.rows > KEPT_ROWS) return new PassBuffers(this.memory, this.config, plan, size);
    if (!this.#kept?.serves(plan, size)) {
      this.#kept?.dispose();
      this.#kept = undefined;
      this.#kept = new PassBuffers(this.memory, this.config, plan, size);
    }
    return this.#kept;
  }

  /** Starts new threads if one has died. */
  async #reviveTeam(): Promise<void> {
    if (!this.#team.failure) return;
    this.#team = await Team.start({
      threads: this.threads,
      memory: this.memory,
      module: this.#compiled.module,
      exports: this.#kernels as unknown as Record<string, unknown>,
      spawn: this.#spawn,
    });
  }

  /** Tables of the angles of positions up to `length`, and to the end of its block. */
  #reserveRope(length: number, { residualWindow }: CacheOptions): void {
    const needed = Math.ceil(length / residualWindow) * residualWindow;
    if (needed <= this.#ropePositions) return;
    let positions = Math.max(FIRST_POSITIONS, this.#ropePositions);
    while (positions < needed) positions *= 2;
    const { memory } = this;
    for (const { cos, sin } of new Set(this.#ropes)) for (const table of [cos, sin]) memory.free(table);
    this.#ropePositions = 0;
    this.#ropes = [];
    const kinds = new Map<string, RopeTables>();
    try {
      this.#ropes = this.#model.layers.map((_, layer) => {
        const rope = layerRope(this.config, layer);
        const kind = `${rope.frequencies} ${rope.magnitudes}`;
        const tables = kinds.get(kind) ?? placeRopeTables(memory, rope, positions);
        kinds.set(kind, tables);
        return tables;
      });
    } catch (error) {
      this.#ropes = [...kinds.values()]; // freed by the next attempt
      throw error;
    }
    this.#ropePositions = positions;
  }

  #plan(options: CacheOptions): CachePlan {
    const { memory } = this;
    const key = JSON.stringify(options);
    const known = this.#plans.get(key);
    if (known) return known.plan;
    for (const [other, { plan, users }] of this.#plans) {
      if (users > 0) continue;
      for (const layer of plan.layers) layer.dispose();
      this.#plans.delete(other);
    }
    // Without input norms X, the normalized stream and the stream are one, and the plans need not tell them apart.
    const planned = hasInputNorms(this.config) ? options : { ...options, deltaSpace: 'x' as const };
    const calibrated =
      options.form === 'calibrated' ? planOf(options, this.projections[0], this.factors) : undefined;
    const layers: LayerPlan[] = [];
    try {
      for (const [index, weights] of this.#model.layers.entries()) {
        layers.push(
          createPlan({
            memory,
            recorder: this.#team.immediate,
            config: this.config,
            options: planned,
            keyWeights: this.keyWeights,
            projection: this.projections[index],
            weights,
            factors: this.factors,
            calibrated,
          }),
        );
      }
    } catch (error) {
      for (const layer of layers) layer.dispose();
      throw error;
    }
    const windowBytes = Math.max(...layers.map(({ layout }) => layout.windowBytes));
    const plan = { options, layers, scratch: threadScratch(this.config, options, windowBytes), calibrated };
    this.#plans.set(key, { plan, users: 0 });
    return plan;
  }

  /** The layer as the reference's caches see it; matrices are read back from linear memory when asked for. */
  #projection(layer: number, placed: PlacedLayer, file: LayerWeights<unknown>): KeyValueProjection {
    const { hiddenSize, rmsNormEps } = this.config;
    const { kvDim } = derivedSizes(this.config);
    const read = (matrix: PlacedLayer['wK']) => readMatrix(this.memory, this.#team.immediate, matrix);
    const { keyNorm, bK, bV, attentionNorm } = file;
    return {
      layer,
      hiddenSize,
      kvDim,
      get wK() {
        return read(placed.wK);
      },
      get wV() {
        return read(placed.wV);
      },
      bK,
      bV,
      normGain: attentionNorm ?? new Float32Array(hiddenSize).fill(1),
      normalize: (stream) => (attentionNorm ? normalizeRows(stream, rmsNormEps) : stream),
      finishKeys: (keys) => (keyNorm ? normalizeHeads(keys, keyNorm, rmsNormEps) : keys),
    };
  }
}

/** Cosines and sines of the angles of positions, times the magnitudes of their pairs. */
function placeRopeTables(
  memory: LinearMemory,
  { frequencies, magnitudes }: Rope,
  positions: number,
): RopeTables {
  const pairs = frequencies.length;
  const cos = new Float32Array(positions * pairs);
  const sin = new Float32Array(positions * pairs);
  for (let p = 0, at = 0; p < positions; p++) {
    for (let i = 0; i < pairs; i++, at++) {
      const magnitude = magnitudes?.[i] ?? 1;
      cos[at] = Math.cos(p * frequencies[i]) * magnitude;
      sin[at] = Math.sin(p * frequencies[i]) * magnitude;
    }
  }
  const purpose = 'RoPE tables';
  return { cos: placeFloats(memory, cos, purpose), sin: placeFloats(memory, sin, purpose) };
}

/** Where the kernels' own constants end: AssemblyScript puts them at the start of the memory. */
const STATIC_BYTES = 65536;

/**
 * Whether an error comes from inside: a trap of a kernel (a pointer outside the memory), or a mistake of ours. Errors
 * that the package throws on purpose leave everything as it was.
 */
function isInternal(error: unknown): boolean {
  if (error instanceof KernelError) return error.kernel === TRAPPED;
  return !(error instanceof XQuantError);
}

/** Tells errors that the caller of a pass has thrown: by a signal, or in its own function. */
class CallerErrors {
  readonly options: WasmForwardOptions;
  readonly #signal: AbortSignal | undefined;
  #thrown: { readonly error: unknown } | undefined;

  constructor(options: WasmForwardOptions) {
    const { onTensor, onFreshKeysAndValues, signal } = options;
    this.#signal = signal;
    this.options = {
      ...options,
      onTensor: onTensor && this.#watched(onTensor),
      onFreshKeysAndValues: onFreshKeysAndValues && this.#watched(onFreshKeysAndValues),
    };
  }

  threw(error: unknown): boolean {
    return this.#thrown?.error === error || (this.#signal?.aborted === true && this.#signal.reason === error);
  }

  #watched<T extends unknown[]>(use: (...args: T) => void): (...args: T) => void {
    return (...args) => {
      try {
        use(...args);
      } catch (error) {
        this.#thrown = { error };
        throw error;
      }
    };
  }
}

function canShare(): boolean {
  return typeof SharedArrayBuffer === 'function' && (inNode() || globalThis.crossOriginIsolated === true);
}

async function workers(): Promise<{ spawnThread: SpawnThread; physicalCores: () => number }> {
  try {
    return inNode() ? await import('./workers-node.js') : await import('./workers-browser.js');
  } catch (cause) {
    throw new KernelError('threads', 'the code for worker threads is missing', { cause });
  }
}
