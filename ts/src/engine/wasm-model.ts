/**
 * A language model on the WebAssembly kernels: the same caches, the same bytes, the same tokens as the reference.
 *
 *     await using model = await WasmModel.load(file.config, file.weights, { threads: 2 });
 *     const cache = model.createCache('xquant-cl:2@tuned');
 *     const logits = await model.forward(tokens, cache);
 *
 * @module
 */

import type { LayerInput, ModelCache } from '../cache/contract.js';
import { ComputedFactors, type FactorProgress } from '../cache/factors.js';
import type { CacheRequest } from '../cache/options.js';
import { resolveCacheOptions } from '../cache/presets.js';
import type { KeyValueProjection } from '../cache/projection.js';
import { CacheStateError, ConfigError, DisposedError, KernelError } from '../errors.js';
import { assertModelConfig, type ModelConfig } from '../model/config.js';
import { keyValueProjection } from '../model/key-value-projection.js';
import type { BatchOptions, LanguageModel } from '../model/language-model.js';
import { withScoreGains } from '../model/qk-norm.js';
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
import { messageOf } from '../printable.js';
import type { CacheHost, CachePlan, InputRows } from './cache-host.js';
import { CachePlans } from './cache-plans.js';
import { recordFinishRows } from './calls.js';
import { ownColumns } from './exact-window.js';
import { inputRows } from './input-rows.js';
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
import { CallerErrors, isInternal } from './pass-errors.js';
import { type PlacedModel, placeModel } from './placed-model.js';
import { readMatrix } from './placed-weights.js';
import { LayerRopeTables } from './rope-tables.js';
import { KEY_WEIGHTS, type KeyWeights } from './small-product.js';
import { type Recorder, type SpawnThread, Team } from './team.js';
import { WasmCache } from './wasm-cache.js';
import { threadRuntime } from './workers.js';

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
  /** Weights of the model, part of `used`. */
  readonly weights: number;
  /** Cosines and sines of the positions reached so far, part of `used`; the tables double when a sequence outgrows them. */
  readonly ropeTables: number;
}

/** End of the kernels' own constants: AssemblyScript puts them at the start of the memory. */
const STATIC_BYTES = 65536;

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
  /** The projection of each layer, as caches see it. */
  readonly projections: readonly KeyValueProjection[];
  readonly #compiled: CompiledKernels;
  readonly #spawn: SpawnThread | undefined;
  readonly #plans: CachePlans;
  readonly #ropes: LayerRopeTables;
  #memory: LinearMemory | undefined;
  #kernels: Kernels;
  #team: Team;
  #model: PlacedModel;
  readonly #weightBytes: number;
  /** Buffers of passes of few rows. */
  #kept: PassBuffers | undefined;
  /** The first internal error: memory may be in any state since then, so nothing more is computed with it. */
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
    this.projections = model.layers.map((layer, index) =>
      // Matrices are read back from linear memory.
      keyValueProjection(model.config, index, layers[index], (role) =>
        readMatrix(this.memory, this.#team.immediate, layer[role]),
      ),
    );
    this.factors = new ComputedFactors(this.projections, options.onFactor);
    this.#ropes = new LayerRopeTables(memory, model.config);
    const { config, keyWeights, factors, projections } = this;
    this.#plans = new CachePlans({ memory, config, keyWeights, factors, model, projections });
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
    const { threads, spawn } = await threadRuntime(options.threads);
    const shared = threads > 1;
    const compiled = await compileKernels({ kernel, shared, binary });
    const memory = new LinearMemory({ shared, limitBytes: memoryLimit, reservedBytes: STATIC_BYTES });
    const kernels = instantiateKernels(compiled, memory.memory);
    const team = await Team.start({
      threads,
      memory,
      module: compiled.module,
      exports: kernels as unknown as Record<string, unknown>,
      spawn,
    });
    try {
      const given: AnyWeights = weights;
      const layers = given.layers.map((layer) => withScoreGains(layer, config));
      const model = await placeModel(memory, team.immediate, config, { ...given, layers });
      return new WasmModel(model, layers, compiled, memory, kernels, team, spawn, options);
    } catch (error) {
      await team.dispose();
      throw error;
    }
  }

  /** Linear memory. */
  get memoryUse(): WasmMemoryUse {
    const memory = this.memory;
    const { usedBytes: used, peakBytes: peak, committedBytes: committed } = memory;
    return { used, peak, committed, weights: this.#weightBytes, ropeTables: this.#ropes.bytes };
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
    const plan = this.#plans.get(options, this.#team.immediate);
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
  immediate(plan: CachePlan): Recorder {
    void this.memory;
    if (!this.#team.idle) {
      throw new CacheStateError(plan.options.variant, 0, 'use a layer', 'a forward pass is running');
    }
    this.#team.reserveScratch(plan.scratch.bytes);
    return this.#team.immediate;
  }

  /** @internal */
  inputRows(layer: number, plan: CachePlan, input: LayerInput): InputRows {
    const machine = { memory: this.memory, immediate: this.#team.immediate, config: this.config };
    return inputRows(machine, this.#model.layers[layer], plan, layer, input);
  }

  /** @internal */
  finishRows(layer: number, plan: CachePlan, keys: number, values: number, tokens: number): void {
    if (plan.layers[layer].storesFinished) return;
    recordFinishRows(this.#team.immediate, this.config, this.#model.layers[layer], keys, values, tokens);
  }

  /** @internal */
  noteFailure(error: unknown): void {
    if (isInternal(error)) this.#broken ??= { cause: error };
  }

  /** @internal */
  retain(plan: CachePlan): void {
    this.#plans.retain(plan);
  }

  /** @internal */
  release(plan: CachePlan): void {
    this.#plans.release(plan);
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
    const length = Math.max(...sequences.map(({ position, count }) => position + count));
    this.#ropes.reserve(length, plan.options.residualWindow);
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
      tables: this.#ropes.tables,
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
}
