/**
 * One lane of the page: a cache, the text it gives, what it costs.
 *
 * @module
 */

import type { CacheBytes } from '../../ts/src/cache/contract.js';
import { parseCacheSpec } from '../../ts/src/cache/presets.js';
import { storedBytes } from '../../ts/src/cache/stored-matrix.js';
import { type BytesByKind, bytesByKind } from '../../ts/src/memory-totals.js';
import { formatBytes, formatCount, formatTimes, make } from './dom.js';
import type { LaneReport, LaneStart } from './protocol.js';

/** Caches of the list, with what they are. */
const CHOICES: readonly (readonly [cache: string, label: string])[] = [
  ['kv', 'kv: f16 keys and values'],
  ['kivi:4', 'kivi:4: keys and values, 4 bits'],
  ['kivi:2', 'kivi:2: keys and values, 2 bits'],
  ['xquant:4@paper', 'xquant:4@paper: X, 4 bits'],
  ['xquant:2@paper', 'xquant:2@paper: X, 2 bits'],
  ['xquant:4@tuned', 'xquant:4@tuned'],
  ['xquant:2@tuned', 'xquant:2@tuned'],
  ['xquant-cl:2@paper', 'xquant-cl:2@paper: differences, 2 bits'],
  ['xquant-cl:2@tuned', 'xquant-cl:2@tuned'],
  ['xquant-cl:1@tuned', 'xquant-cl:1@tuned: differences, 1 bit'],
  ['xquant-cl:2.25@calibrated', 'xquant-cl:2.25@calibrated: learned basis, 2.25 bits'],
  ['xquant-cl:1@calibrated', 'xquant-cl:1@calibrated: learned basis, 1 bit'],
];

const KINDS: readonly (readonly [kind: keyof BytesByKind, label: string])[] = [
  ['keysAndValues', 'f16 keys and values'],
  ['codes', 'codes'],
  ['scales', 'scales'],
  ['mins', 'minima'],
  ['window', 'window (f16)'],
  ['outliers', 'unquantized'],
  ['baseLayers', 'base layers'],
  ['scratch', 'accumulator'],
];

/** What a lane asks of the page. */
export interface LaneEvents {
  readonly save: () => void;
  readonly open: (file: File) => void;
  readonly changed: () => void;
}

/** A column of the page. */
export class LaneView {
  /** Ids generated so far. */
  readonly ids: number[] = [];
  readonly element: HTMLElement;
  readonly #select: HTMLSelectElement;
  readonly #custom: HTMLInputElement;
  readonly #output: HTMLElement;
  readonly #given: HTMLElement;
  readonly #stats: Readonly<Record<'tokens' | 'rate' | 'loss' | 'size' | 'total', HTMLElement>>;
  readonly #bar: HTMLElement;
  readonly #legend: HTMLElement;
  readonly #save: HTMLButtonElement;
  readonly #note: HTMLElement;
  /** One for each generated token, so that one of them can be marked. */
  #pieces: HTMLElement[] = [];
  #resume = false;

  /** @param index from 0 */
  constructor(index: number, cache: string, events: LaneEvents) {
    const name = `Lane ${index + 1}`;
    this.#select = make('select', { id: `cache-${index}` });
    for (const [value, label] of CHOICES) this.#select.append(make('option', { value }, label));
    this.#select.append(make('option', { value: '' }, 'another one…'));
    this.#select.value = cache;
    this.#custom = make('input', {
      id: `custom-${index}`,
      type: 'text',
      value: 'xquant-cl:2@tuned?baseBits=2',
      spellcheck: 'false',
      autocomplete: 'off',
    });
    const custom = make('label', { hidden: '' }, 'NAME:BITS@PRESET?option=value', this.#custom);
    this.#select.addEventListener('change', () => {
      custom.hidden = this.#select.value !== '';
      this.forgetSnapshot();
      events.changed();
    });
    this.#custom.addEventListener('change', () => events.changed());

    this.#given = make('span', { class: 'given' });
    this.#output = make('div', {
      class: 'output',
      tabindex: '0',
      role: 'region',
      'aria-label': `Text of lane ${index + 1}`,
    });
    this.#output.append(this.#given);
    const rows: HTMLElement[] = [];
    const stat = (label: string) => {
      const value = make('dd', {}, '–');
      rows.push(make('div', {}, make('dt', {}, label), value));
      return value;
    };
    this.#stats = {
      rate: stat('tokens a second'),
      loss: stat('loss on the text of lane 1, nats a token'),
      tokens: stat('tokens in the cache'),
      size: stat('cache alone, against f16 KV'),
      total: stat('with accumulator and plan'),
    };
    this.#bar = make('div', { class: 'bar', role: 'img', 'aria-label': 'No bytes yet' });
    this.#legend = make('ul', { class: 'legend' });
    this.#save = make('button', { type: 'button', disabled: '' }, 'Save snapshot');
    this.#save.addEventListener('click', events.save);
    const file = make('input', { type: 'file', accept: '.xqs', id: `snapshot-${index}` });
    file.addEventListener('change', () => {
      const [chosen] = file.files ?? [];
      if (chosen) events.open(chosen);
      file.value = '';
    });
    this.#note = make('p', { class: 'note', role: 'status' });
    const title = make('h3', { id: `lane-${index}` }, name);
    this.element = make(
      'article',
      { class: 'lane', 'aria-labelledby': `lane-${index}` },
      make('div', { class: 'fields' }, title, make('label', {}, 'Cache', this.#select), custom),
      make('dl', { class: 'stats' }, ...rows),
      this.#bar,
      this.#legend,
      this.#output,
      make('div', { class: 'fields' }, this.#save, make('label', {}, 'Open a snapshot', file)),
      this.#note,
    );
  }

  /** Saves a snapshot. */
  get saveButton(): HTMLButtonElement {
    return this.#save;
  }

  /** The cache argument. */
  get cache(): string {
    return this.#select.value || this.#custom.value.trim();
  }

  /** What a run starts with. */
  get start(): LaneStart {
    return { cache: this.cache, resume: this.#resume };
  }

  /** Empties the lane for a run; a lane with a snapshot keeps its text. */
  begin(prompt: string): void {
    if (!this.#resume) this.#given.textContent = prompt;
    this.#resume = false;
    this.#note.textContent = '';
    this.ids.length = 0;
    for (const piece of this.#pieces) piece.remove();
    this.#pieces = [];
  }

  /** Shows a step. */
  show(report: LaneReport): void {
    const { bytes, float16Bytes, totalBytes, generated, seconds, loss, length, id, text, stopped } = report;
    if (id !== undefined) {
      this.ids.push(id);
      const piece = make('span', { 'data-token': String(id) }, text);
      this.#pieces.push(piece);
      const atEnd = this.#output.scrollTop + this.#output.clientHeight >= this.#output.scrollHeight - 40;
      this.#output.append(piece);
      if (atEnd) this.#output.scrollTop = this.#output.scrollHeight;
    }
    this.#save.disabled = false;
    const stored = storedBytes(bytes);
    this.#stats.tokens.textContent = formatCount(length);
    if (generated > 1) this.#stats.rate.textContent = (generated / seconds).toFixed(1);
    this.#stats.loss.textContent = Number.isFinite(loss) ? loss.toFixed(3) : '–';
    this.#stats.size.textContent = formatTimes(float16Bytes / stored);
    this.#stats.total.textContent = formatTimes(float16Bytes / totalBytes);
    if (stopped) this.#note.textContent = `Stopped: ${stopped}.`;
    this.#showBytes(bytes, stored, float16Bytes);
  }

  /** Marks the token at which the lanes part. */
  mark(index: number): void {
    const piece = this.#pieces[index];
    if (!piece || piece.querySelector('mark')) return;
    piece.replaceChildren(make('mark', {}, piece.textContent || '·'));
  }

  /** Shows the text of a snapshot; the next run goes on from it. */
  openSnapshot(cache: string, text: string, length: number): void {
    this.begin('');
    if ([...this.#select.options].some(({ value }) => value === cache)) this.#select.value = cache;
    this.#given.textContent = text;
    this.#resume = true;
    this.#note.textContent = `Snapshot of ${formatCount(length)} tokens (${cache}). “Generate” goes on from here.`;
  }

  /** The next run starts with the prompt again. */
  forgetSnapshot(): void {
    this.#resume = false;
  }

  #showBytes(bytes: CacheBytes, stored: number, float16Bytes: number): void {
    const booked = bytesByKind(parseCacheSpec(this.cache), bytes);
    const parts = KINDS.filter(([kind]) => booked[kind] > 0);
    const full = Math.max(float16Bytes, stored + bytes.scratch);
    this.#bar.replaceChildren(
      ...parts.map(([kind]) =>
        make('i', { style: `width:${(100 * booked[kind]) / full}%;background:var(--${kind})` }),
      ),
    );
    const texts = parts.map(([kind, label]) => `${label} ${formatBytes(booked[kind])}`);
    const total = `${formatBytes(stored)} of ${formatBytes(float16Bytes)} that f16 keys and values would take`;
    this.#bar.setAttribute('aria-label', `${total}: ${texts.join(', ')}`);
    this.#legend.replaceChildren(
      ...parts.map(([kind], i) =>
        make('li', {}, make('i', { style: `background:var(--${kind})`, 'aria-hidden': 'true' }), texts[i]),
      ),
      make('li', {}, `all of the bar: f16 KV, ${formatBytes(float16Bytes)}`),
    );
  }
}
