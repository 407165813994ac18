/**
 * Guessing the next tokens and checking the guesses in one pass: the same tokens in less time.
 *
 * A pass over the newest token and some guesses (a draft) gives the logits of every position. A guess is accepted if
 * it is what sampling takes from the logits before it; the first that is not, and all after it, are taken back. The
 * pass runs in mode `stepwise`, whose logits are those of passes of one token each to the bit, and every position is
 * sampled with its own random number. So the text is the one without guessing, greedy or not.
 *
 * Rebuilding keys and values costs a pass the same for one row as for several, which is where the gain comes from
 * (docs/engine.md). Whether there is one, the machine and the text decide: `auto` measures.
 *
 * @module
 */

import type { ModelCache } from './cache/contract.js';
import { assertPositiveInteger, ConfigError, ShapeError } from './errors.js';
import type { ForwardOptions, LanguageModel } from './model/language-model.js';
import { stepwiseRoom } from './model/tokens.js';
import { type Matrix, row } from './numerics/matrix.js';

/**
 * Where guesses come from:
 *
 * - `ngram` continues the newest tokens as they went on before (prompt lookup);
 * - `window` runs the model itself, attending only to the first tokens, the newest blocks and what is in none, whose
 *   keys and values need not be rebuilt. Engine only. Where n-grams match, they come first.
 */
export type DraftSource = 'ngram' | 'window';

/** The choices of {@link DraftSource}. */
const DRAFT_SOURCES: readonly DraftSource[] = ['ngram', 'window'];

/** How to guess. */
export interface DraftOptions {
  readonly draft: DraftSource;
  /** Guesses checked in one pass at most, from 1 to {@link MAX_DRAFT}. Default {@link DEFAULT_DRAFT}. */
  readonly maxTokens?: number;
}

/** `auto` guesses from both sources as long as it measures a gain; `off` never does; a source guesses always. */
export type Speculate = 'auto' | 'off' | DraftOptions;

/** What guessing has done. */
export interface SpeculationCounts {
  /** Passes that checked guesses. */
  readonly passes: number;
  /** Rows of those passes: guesses, and one certain token each. */
  readonly verified: number;
  /** Guesses. */
  readonly drafted: number;
  /** Guesses that were right. */
  readonly accepted: number;
}

/** Most guesses in one pass: more rows would rematerialize values, too, and need larger buffers. */
export const MAX_DRAFT = 15;

/** Guesses in one pass at most, unless asked otherwise. */
export const DEFAULT_DRAFT = 8;

/**
 * Requires a choice that exists and that the model can make.
 *
 * @returns what it means
 * @throws {ConfigError | RangeError} names what does not
 */
export function resolveSpeculate(
  speculate: Speculate,
  { backend }: Pick<LanguageModel, 'backend'>,
): Required<DraftOptions> & { readonly auto: boolean } {
  const wanted: DraftOptions = typeof speculate === 'string' ? { draft: 'window' } : speculate;
  if (typeof speculate === 'string' && speculate !== 'auto' && speculate !== 'off') {
    throw new ConfigError('speculate', speculate, 'auto, off, or an object with "draft"');
  }
  const { draft, maxTokens = DEFAULT_DRAFT } = wanted ?? {};
  if (!DRAFT_SOURCES.includes(draft)) throw new ConfigError('draft', draft, DRAFT_SOURCES.join(' or '));
  if (typeof speculate === 'object' && draft === 'window' && backend === 'reference') {
    throw new ConfigError('draft', draft, 'ngram on the reference backend');
  }
  assertPositiveInteger(maxTokens, 'maxTokens of speculate');
  if (maxTokens > MAX_DRAFT)
    throw new ConfigError('maxTokens of speculate', maxTokens, `at most ${MAX_DRAFT}`);
  return { draft, maxTokens, auto: speculate === 'auto' };
}

/**
 * Reads `auto`, `off`, or a source with a number of guesses after a colon, for instance `ngram:12`.
 *
 * @throws {ConfigError | RangeError} if the text is none of these
 */
export function parseSpeculate(text: string): Speculate {
  const [draft, count, ...more] = text.split(':');
  if (text === 'auto' || text === 'off') return text;
  const known = DRAFT_SOURCES.find((source) => source === draft);
  if (!known || more.length > 0 || (count !== undefined && !/^\d+$/.test(count))) {
    throw new ConfigError(
      'speculate',
      text,
      `auto, off, or ${DRAFT_SOURCES.join(', ')} with a count: "ngram:12"`,
    );
  }
  const options = count === undefined ? { draft: known } : { draft: known, maxTokens: Number(count) };
  resolveSpeculate(options, { backend: 'wasm' });
  return options;
}

/** Tokens that must have come before in the same order; fewer match by chance. */
const SHORTEST_MATCH = 3;

/** Matches are not told apart beyond this length. */
const LONGEST_MATCH = 16;

/**
 * Continues a text as it went on where its newest tokens stood before: after the longest match, the newest of equals.
 *
 * @param history ids so far, oldest first
 * @param count guesses wanted
 * @returns at most `count` ids; none if the newest three ids have not stood side by side before
 */
export function ngramDraft(history: readonly number[], count: number): number[] {
  const last = history.length - 1;
  let best = -1;
  let longest = SHORTEST_MATCH - 1;
  for (let end = last - 1; end >= SHORTEST_MATCH - 1 && longest < LONGEST_MATCH; end--) {
    let length = 0;
    while (length < LONGEST_MATCH && length <= end && history[end - length] === history[last - length])
      length++;
    if (length <= longest) continue;
    longest = length;
    best = end;
  }
  if (best < 0) return [];
  const draft: number[] = [];
  // A match that reaches into the present repeats with the distance between the two as its period.
  for (let at = best + 1; draft.length < count; at++) draft.push(history[at] ?? draft[at - history.length]);
  return draft;
}

/** How many tokens `auto` waits before it tries again, at first and at most. */
const FIRST_PAUSE = 32;
const LONGEST_PAUSE = 1024;

/** Passes measured before `auto` judges. */
const TRIALS = 3;

/** Blocks of text from which on `auto` lets the model guess with a short sight. */
const WINDOW_BLOCKS = 5;

/** Weight of the newest of the measured passes. */
const NEWEST = 1 / 8;

/** Decides how much to guess, from what guessing has cost and brought. */
export class DraftPolicy {
  readonly #most: number;
  readonly #auto: boolean;
  #length: number;
  /** Seconds of a pass of one row; a moving average, as the others. */
  #single = 0;
  #singles = 0;
  /** Seconds and tokens of a pass with guesses. */
  #seconds = 0;
  #tokens = 0;
  #trials = 0;
  #pause = FIRST_PAUSE;
  #waiting = 0;

  /**
   * @param most guesses in one pass
   * @param auto whether to stop where there is no gain
   */
  constructor(most: number, auto: boolean) {
    this.#most = most;
    this.#auto = auto;
    this.#length = Math.min(auto ? 2 : 4, most);
  }

  /** Guesses wanted for the next pass. */
  get length(): number {
    if (!this.#auto) return this.#length;
    return this.#singles < TRIALS || this.#waiting > 0 ? 0 : this.#length;
  }

  /** Notes a pass of one row. */
  noteSingle(seconds: number): void {
    // the first passes after a prompt are slower than those that follow
    if (this.#singles < TRIALS) this.#single = Math.min(this.#single || seconds, seconds);
    else this.#single = average(this.#single, seconds, this.#singles);
    this.#singles++;
    if (this.#waiting > 0) this.#waiting--;
  }

  /** Notes a pass with guesses. It brought those accepted and one token more. */
  noteDraft(drafted: number, accepted: number, seconds: number): void {
    this.#length = accepted === drafted ? Math.min(this.#most, 2 * drafted) : Math.max(1, accepted + 1);
    this.#length = Math.min(this.#most, this.#length);
    this.#seconds = average(this.#seconds, seconds, this.#trials);
    this.#tokens = average(this.#tokens, accepted + 1, this.#trials++);
    if (!this.#auto || this.#trials < TRIALS) return;
    if (this.#seconds < this.#single * this.#tokens) {
      this.#pause = FIRST_PAUSE;
      return;
    }
    this.#waiting = this.#pause;
    this.#pause = Math.min(LONGEST_PAUSE, 2 * this.#pause);
    this.#trials = 0;
  }
}

function average(sofar: number, value: number, count: number): number {
  return sofar + (value - sofar) * Math.max(NEWEST, 1 / (count + 1));
}

/** What {@link Lookahead} needs to know of a generation. */
export interface LookaheadOptions {
  readonly speculate: Speculate;
  /** Starts choosing tokens as the generation would choose its next ones, without changing them. */
  readonly chooser: () => (logits: Float32Array, history: readonly number[]) => number;
  readonly signal?: AbortSignal;
  /** Called after every pass that checked guesses. */
  readonly onSpeculation?: (counts: SpeculationCounts) => void;
}

/** The sequence that is continued; `CachedSequence` is one. */
export interface RunningSequence {
  readonly cache: ModelCache;
  run(model: LanguageModel, tokens: readonly number[], options?: ForwardOptions): Promise<Matrix>;
  dropNewest(count: number): void;
}

/** Guesses, and where they come from. */
interface Draft {
  readonly ids: readonly number[];
  readonly source: DraftSource;
}

/** The logits of a sequence, position by position; runs passes ahead of what is asked for. */
export class Lookahead {
  readonly #model: LanguageModel;
  readonly #sequence: RunningSequence;
  readonly #options: LookaheadOptions;
  /** Of each source that is used. */
  readonly #policies = new Map<DraftSource, DraftPolicy>();
  /** Of the position after the token that the last pass began with, and after each guess. */
  #logits: Matrix;
  /** Which of them are those of the next token. */
  #row = 0;
  /** Guesses that the cache holds; the first `#row` were right, and the others are not judged yet. */
  #draft: Draft | undefined;
  #seconds = 0;
  #counts = { passes: 0, verified: 0, drafted: 0, accepted: 0 };

  /** @param logits after the last token of the sequence, [1, vocabSize] */
  constructor(model: LanguageModel, sequence: RunningSequence, logits: Matrix, options: LookaheadOptions) {
    this.#model = model;
    this.#sequence = sequence;
    this.#logits = logits;
    this.#options = options;
    const { auto, draft, maxTokens } = resolveSpeculate(options.speculate, model);
    // The reference runs rows one by one: a guess that is wrong costs a whole pass.
    if (options.speculate === 'off' || (auto && model.backend === 'reference')) return;
    for (const source of DRAFT_SOURCES) {
      if (source === 'ngram' || source === draft)
        this.#policies.set(source, new DraftPolicy(maxTokens, auto));
    }
  }

  /** Logits of the next token, [vocabSize]. */
  get logits(): Float32Array {
    return row(this.#logits, this.#row);
  }

  /** What guessing has done so far. */
  get counts(): SpeculationCounts {
    return { ...this.#counts };
  }

  /**
   * Moves on to the logits after a token: they are there if it was guessed, else a pass runs.
   *
   * @param history ids so far, oldest first, `id` included
   * @param wanted tokens that are still wanted after it, at least one
   * @throws what the model throws
   */
  async advance(id: number, history: readonly number[], wanted: number): Promise<void> {
    if (this.#draft?.ids[this.#row] === id) {
      this.#row++;
      return;
    }
    this.settle();
    const { signal } = this.#options;
    const started = performance.now();
    const draft = await this.#guess(id, history, wanted);
    if (!draft) {
      this.#take(await this.#sequence.run(this.#model, [id], { signal }), undefined);
      const seconds = (performance.now() - started) / 1000;
      for (const policy of this.#policies.values()) policy.noteSingle(seconds);
      return;
    }
    const pass = { signal, mode: 'stepwise', logits: 'all' } as const;
    this.#take(await this.#sequence.run(this.#model, [id, ...draft.ids], pass), draft);
    this.#seconds = (performance.now() - started) / 1000;
  }

  /** Takes back the guesses in the cache that have not turned out right. The logits stay. */
  settle(): void {
    if (!this.#draft) return;
    const { ids, source } = this.#draft;
    const drafted = ids.length;
    const accepted = this.#row;
    this.#draft = undefined;
    if (accepted < drafted) this.#sequence.dropNewest(drafted - accepted);
    this.#policies.get(source)?.noteDraft(drafted, accepted, this.#seconds);
    const { passes, ...counts } = this.#counts;
    this.#counts = {
      passes: passes + 1,
      verified: counts.verified + drafted + 1,
      drafted: counts.drafted + drafted,
      accepted: counts.accepted + accepted,
    };
    this.#options.onSpeculation?.(this.counts);
  }

  #take(logits: Matrix, draft: Draft | undefined): void {
    const rows = 1 + (draft?.ids.length ?? 0);
    if (logits.rows !== rows) throw new ShapeError('forward', 'logits', [rows], [logits.rows]);
    this.#logits = logits;
    this.#row = 0;
    this.#draft = draft;
  }

  async #guess(id: number, history: readonly number[], wanted: number): Promise<Draft | undefined> {
    const { cache } = this.#sequence;
    const context = this.#model.config.maxPositionEmbeddings - cache.length;
    const room = Math.min(wanted - 1, stepwiseRoom(cache) - 1, context - 1);
    for (const [source, policy] of this.#policies) {
      const count = Math.min(policy.length, room);
      if (count < 1 || !this.#mayPay(source)) continue;
      const ids =
        source === 'ngram' ? ngramDraft(history, count) : await this.#windowDraft(id, history, count);
      if (ids.length > 0) return { ids, source };
    }
    return undefined;
  }

  /** Whether a source is worth trying: a short sight saves nothing where nothing is rebuilt, or little is out of it. */
  #mayPay(source: DraftSource): boolean {
    const { length, options } = this.#sequence.cache;
    if (source !== 'window' || this.#options.speculate !== 'auto') return true;
    return options.variant !== 'kv' && length >= WINDOW_BLOCKS * options.residualWindow;
  }

  /** Runs the model over its own guesses, with a short sight, and takes them all back. */
  async #windowDraft(id: number, history: readonly number[], count: number): Promise<number[]> {
    const choose = this.#options.chooser();
    const { length } = this.#sequence.cache;
    const ids: number[] = [];
    const pass = { signal: this.#options.signal, attention: 'recent' } as const;
    try {
      while (ids.length < count) {
        const logits = await this.#sequence.run(this.#model, [ids.at(-1) ?? id], pass);
        const next = row(logits, 0);
        if (!next.every(Number.isFinite)) break; // what is kept in f16 for guesses may not fit
        ids.push(choose(next, [...history, ...ids]));
      }
    } finally {
      this.#sequence.dropNewest(this.#sequence.cache.length - length);
    }
    return ids;
  }
}
