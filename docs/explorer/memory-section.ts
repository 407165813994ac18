/**
 * What caches take, for any model and length.
 *
 * @module
 */

import { cacheSize, NAMED_SHAPES, namedShape, TABLE_CACHES } from '../../ts/src/analysis/memory.js';
import { ConfigError } from '../../ts/src/errors.js';
import { cacheTotals } from '../../ts/src/memory-totals.js';
import type { App } from './app.js';
import { byId, formatBytes, formatCount, make, table } from './dom.js';
import type { LaneView } from './lane.js';

const OWN_MODEL = 'the loaded model';
const HEADS = [
  'cache',
  'bytes',
  'bits an element',
  'accumulator',
  'plan',
  'in all',
  'smaller',
  'alone',
  'size',
] as const;

/**
 * Sets the section up.
 *
 * @returns draws it again, after a cache or the model has changed
 */
export function memorySection(app: App, lanes: readonly LaneView[]): () => void {
  const shape = byId('shape', HTMLSelectElement);
  const tokens = byId('context', HTMLInputElement);
  const slider = byId('context-slider', HTMLInputElement);
  const target = byId('memory-table', HTMLElement);
  const note = byId('memory-note', HTMLElement);

  function draw(): void {
    const length = tokens.valueAsNumber;
    const own = shape.value === OWN_MODEL;
    const model = own ? app.model?.config : namedShape(shape.value);
    const problem = !model
      ? 'Load a model first.'
      : Number.isSafeInteger(length) && length > 0
        ? ''
        : 'The context must be a positive number of tokens.';
    note.textContent = problem;
    if (!model || problem !== '') {
      target.replaceChildren();
      return;
    }
    const sizes = [...new Set([...TABLE_CACHES, ...lanes.map(({ cache }) => cache)])].flatMap((cache) => {
      try {
        return [
          {
            name: cache,
            bits: cacheSize(cache, model, length).bitsPerElement,
            memory: cacheTotals(cache, model, length),
          },
        ];
      } catch (error) {
        // One that this shape cannot have, or that is typed wrongly: the lane says so when it runs.
        if (error instanceof ConfigError || error instanceof RangeError) return [];
        throw error;
      }
    });
    if (length > model.maxPositionEmbeddings) {
      const limit = formatCount(model.maxPositionEmbeddings);
      note.textContent = `The model was made for ${limit} tokens; the sizes are those of a longer context.`;
    }
    const largest = Math.max(...sizes.map(({ memory }) => memory.total));
    const rows = sizes.map(({ name, bits, memory }) => [
      name,
      formatBytes(memory.cache),
      bits.toFixed(2),
      memory.accumulator === 0 ? '–' : formatBytes(memory.accumulator),
      memory.plan === 0 ? '–' : formatBytes(memory.plan ?? 0),
      formatBytes(memory.total),
      ratio(memory.smaller),
      ratio(memory.cacheSmaller),
      make('span', {
        class: 'size',
        style: `width:${(100 * memory.total) / largest}%`,
        'aria-hidden': 'true',
      }),
    ]);
    target.replaceChildren(table(`${shape.value}, ${formatCount(length)} tokens`, HEADS, rows));
  }

  for (const name of [...Object.keys(NAMED_SHAPES), OWN_MODEL]) {
    shape.append(make('option', { value: name }, name));
  }
  shape.value = 'llama-3.1-8b';
  shape.addEventListener('change', draw);
  slider.addEventListener('input', () => {
    tokens.value = String(Math.round(2 ** slider.valueAsNumber));
    slider.setAttribute('aria-valuetext', `${formatCount(tokens.valueAsNumber)} tokens`);
    draw();
  });
  tokens.addEventListener('input', () => {
    if (tokens.valueAsNumber > 0) slider.value = String(Math.log2(tokens.valueAsNumber));
    draw();
  });
  return draw;
}

/** How many times smaller, or larger. */
function ratio(smaller: number): string {
  return smaller >= 1 ? `${smaller.toFixed(1)}x` : `${(1 / smaller).toFixed(1)}x larger`;
}
