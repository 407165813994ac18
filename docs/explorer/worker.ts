/**
 * The explorer's worker: holds the model and the lanes and does all the work, so that the page never waits.
 *
 * @module
 */

import { toPortable } from '../../ts/src/browser/errors.js';
import { type LoadHereOptions, loadHere } from '../../ts/src/browser/load-here.js';
import { OpfsStorage } from '../../ts/src/browser/opfs-storage.js';
import { StorageError } from '../../ts/src/browser/storage.js';
import type { ModelCache } from '../../ts/src/cache/contract.js';
import type { ComputedFactors } from '../../ts/src/cache/factors.js';
import { formatCacheOptions, resolveCacheOptions } from '../../ts/src/cache/presets.js';
import type { WasmModel } from '../../ts/src/engine/wasm-model.js';
import { ConfigError, DisposedError } from '../../ts/src/errors.js';
import { CachedSequence } from '../../ts/src/generate.js';
import { readSnapshotInfo, restoreSnapshot, writeSnapshot } from '../../ts/src/io/snapshot.js';
import { measurePerplexity } from '../../ts/src/perplexity.js';
import { Tokenizer } from '../../ts/src/text/tokenizer.js';
import { PageCalibration } from './calibration.js';
import { disposeCache, LayerInspector } from './inspect.js';
import type {
  Activity,
  FromWorker,
  LaneStart,
  LoadedInfo,
  RequestName,
  Requests,
  ToWorker,
} from './protocol.js';
import { type LoadedModel, TextLane } from './text-lane.js';

/** Where a lane goes on. */
interface LaneBeginning {
  readonly sequence: CachedSequence;
  /** Ids that have not been run. */
  readonly pending: readonly number[];
  /** How many of all ids were generated. */
  readonly generated: number;
}

/** Tokens of a text that is measured: enough for two blocks and a wait of seconds. */
const PERPLEXITY_TOKENS = 512;

const send = (message: FromWorker, transfer: Transferable[] = []) =>
  (globalThis as unknown as Worker).postMessage(message, transfer);

/** The model, and what belongs to it. */
interface Loaded extends LoadedModel {
  readonly factors: ComputedFactors;
  readonly calibration: PageCalibration;
}

let loaded: Loaded | undefined;
let inspector: LayerInspector | undefined;
/** Says what is being done; of the request that runs. */
let tellNow: (activity: Activity) => void = () => undefined;
const lanes: (TextLane | undefined)[] = [];
/** Sequences from snapshots, by lane, until a run takes them. */
const restored: (LaneBeginning | undefined)[] = [];

type Handler<Name extends RequestName> = (
  body: Requests[Name][0],
  tell: (activity: Activity) => void,
  signal: AbortSignal,
) => Promise<Requests[Name][1]> | Requests[Name][1];

const handlers: { readonly [Name in RequestName]: Handler<Name> } = {
  async load({ source, calibration, storage }, tell, signal) {
    forget();
    tell({ kind: 'doing', what: 'Opening the model' });
    const options: LoadHereOptions = {
      signal,
      onProgress: (progress) => tell({ kind: 'loading', progress }),
      onFactor: (layer) =>
        tellNow({ kind: 'doing', what: `Decomposing key and value weights of layer ${layer}, once` }),
    };
    let storageNote = '';
    let from: Awaited<ReturnType<typeof loadHere>>;
    try {
      from = await loadHere(source, {
        ...options,
        storage: storage === 'opfs' ? new OpfsStorage() : undefined,
      });
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      // Not being kept is no reason not to run, but one to say so.
      storageNote = error.message;
      from = await loadHere(source, options);
    }
    tell({ kind: 'doing', what: 'Building the tokenizer' });
    const { model, file, threads, build } = from;
    const { name, config, parameterCount, fingerprint } = file;
    const { factors } = model as WasmModel;
    const isKept = storage === 'opfs' && storageNote === '';
    loaded = {
      model,
      tokenizer: new Tokenizer(file.tokenizer),
      fingerprint,
      factors,
      calibration: new PageCalibration(calibration, factors, { config, fingerprint }, isKept),
    };
    return {
      name,
      config,
      parameterCount,
      threads,
      build: build ?? 'reference',
      storageNote,
    } satisfies LoadedInfo;
  },

  async run({ prompt, lanes: starts, options }, tell, signal) {
    const own = required();
    const ids = Array.from(own.tokenizer.encode(prompt));
    if (ids.length === 0) throw new ConfigError('prompt', prompt, 'at least one token');
    await own.calibration.prepare(
      starts.map(({ cache }) => cache),
      signal,
    );
    for (const [index, start] of starts.entries()) {
      const { sequence, pending, generated } = beginningOf(index, start, ids, own);
      lanes[index]?.dispose();
      lanes[index] = new TextLane(own, sequence, pending, generated, options);
    }
    const running = starts.map((_, index) => lanes[index] as TextLane);
    const [first, ...others] = running;
    for (const lane of others) lane.readTextOf(first);
    for (const [index, lane] of running.entries()) {
      const count = lane.pending.length;
      tell({ kind: 'doing', what: `Lane ${index + 1}: reading ${count} token${count === 1 ? '' : 's'}` });
      await lane.catchUp(signal);
      lane.resetClock();
      tell({ kind: 'lane', report: lane.report(index) });
    }
    // One token in each lane in turn, so that they can be compared while they grow.
    for (let step = 1; step <= options.maxTokens; step++) {
      let written: number | undefined; // by lane 1
      for (const [index, lane] of running.entries()) {
        signal.throwIfAborted();
        if (!lane.stopped) {
          const report = await lane.step(index, step === options.maxTokens, signal, written);
          if (index === 0) written = report.id;
          tell({ kind: 'lane', report });
        } else if (index > 0 && written !== undefined) {
          tell({ kind: 'lane', report: await lane.read(index, written, signal) });
        }
      }
      if (step % 8 === 0) await new Promise((resolve) => setTimeout(resolve, 0)); // so that "stop" is heard
    }
    return undefined;
  },

  async inspect({ text, cache, layer }, tell, signal) {
    const { model, tokenizer, factors, calibration } = required();
    await calibration.prepare([cache], signal);
    inspector ??= new LayerInspector(model, factors);
    const tokens = Array.from(tokenizer.encode(text));
    return inspector.inspect(tokens, cache, layer, signal, (what) => tell({ kind: 'doing', what }));
  },

  async perplexity({ text, caches }, tell, signal) {
    const { model, tokenizer, calibration } = required();
    await calibration.prepare(caches, signal);
    const ids = Array.from(tokenizer.encode(text)).slice(0, PERPLEXITY_TOKENS);
    if (ids.length < 2) throw new ConfigError('text', text, 'at least two tokens');
    const report = await measurePerplexity(model, ids, {
      caches: [...caches],
      windowSize: Math.min(ids.length, model.config.maxPositionEmbeddings),
      windows: 1,
      signal,
      onProgress: (done, total) => tell({ kind: 'measuring', done, total }),
    });
    return report.caches;
  },

  save({ lane: index }) {
    const lane = lanes[index];
    if (!lane) throw new ConfigError('lane', index + 1, 'one that has a text');
    const { cache, tokens } = lane.sequence;
    const { pending, generated } = lane;
    const { fingerprint } = required();
    return writeSnapshot({ cache, tokens, pending, generated, fingerprint }) as Uint8Array<ArrayBuffer>;
  },

  async restore({ lane: index, bytes, name }, _tell, signal) {
    const own = required();
    const saved = formatCacheOptions(readSnapshotInfo(bytes, name).options, own.model.config);
    await own.calibration.prepare([saved], signal);
    const { cache, tokens, pending, generated } = restoreSnapshot(bytes, name, own);
    const before = restored[index];
    if (before) disposeCache(before.sequence.cache);
    const sequence = new CachedSequence(cache, tokens);
    restored[index] = { sequence, pending, generated };
    const text = own.tokenizer.decode([...tokens, ...pending]);
    return { cache: describe(cache), text, length: cache.length };
  },
};

/** Where a lane begins: with an empty cache and the prompt, or where its snapshot ends. */
function beginningOf(
  index: number,
  { cache, resume }: LaneStart,
  prompt: readonly number[],
  own: LoadedModel,
): LaneBeginning {
  const from = restored[index];
  if (!resume || !from) {
    resolveCacheOptions(cache, own.model.config); // says what is wrong before anything is thrown away
    return { sequence: new CachedSequence(own.model.createCache(cache)), pending: prompt, generated: 0 };
  }
  restored[index] = undefined;
  if (from.pending.length > 0) return from;
  // The last token has to run again to say what follows it.
  const tokens = [...from.sequence.tokens];
  const kept = from.sequence.keepPrefix(tokens);
  return { ...from, pending: tokens.slice(kept) };
}

/** The cache argument that makes such a cache, as far as it matters to a reader. */
function describe({ options }: ModelCache): string {
  const { variant, bits, range, form } = options;
  if (variant === 'kv') return variant;
  const name = form === 'calibrated' ? form : range === 'mse' ? 'tuned' : 'paper';
  const preset = variant === 'kivi' ? '' : `@${name}`;
  return `${variant}:${bits}${preset}`;
}

function required(): Loaded {
  if (!loaded) throw new DisposedError('model');
  return loaded;
}

function forget(): void {
  for (const lane of lanes) lane?.dispose();
  for (const each of restored) if (each) disposeCache(each.sequence.cache);
  inspector?.dispose();
  inspector = undefined;
  lanes.length = 0;
  restored.length = 0;
  void loaded?.model.dispose();
  loaded = undefined;
}

const running = new Map<number, AbortController>();
let last: Promise<unknown> = Promise.resolve();

globalThis.onmessage = ({ data }: MessageEvent<ToWorker>) => {
  if (data.kind === 'stop') {
    running.get(data.id)?.abort();
    return;
  }
  const { id, name, body } = data;
  const controller = new AbortController();
  running.set(id, controller);
  const tell = (activity: Activity) => send({ kind: 'activity', id, activity });
  last = last.then(async () => {
    tellNow = tell;
    try {
      const handle = handlers[name] as Handler<RequestName>;
      const result = await handle(body as never, tell, controller.signal);
      send({ kind: 'done', id, body: result }, buffersOf(result));
    } catch (error) {
      send({ kind: 'failed', id, error: toPortable(error) });
    } finally {
      running.delete(id);
    }
  });
};

/** Large results are handed over, not copied. */
function buffersOf(result: unknown): Transferable[] {
  if (result instanceof Uint8Array) return [result.buffer];
  const { views = [] } = (result ?? {}) as { views?: readonly Record<string, unknown>[] };
  return views.flatMap((view) =>
    Object.values(view).flatMap((value) => (ArrayBuffer.isView(value) ? [value.buffer as ArrayBuffer] : [])),
  );
}
