/**
 * Perplexity of a text with the caches of both lanes.
 *
 * @module
 */

import type { App } from './app.js';
import { byId, formatCount, formatTimes, table } from './dom.js';
import type { LaneView } from './lane.js';
import { SAMPLE_TEXT } from './sample-text.js';

const HEADS = [
  'cache',
  'perplexity',
  'loss added, nats',
  'KL divergence, nats',
  'same top token',
  'bits an element',
  'cache alone, against f16 KV',
] as const;

/** Sets the section up. */
export function perplexitySection(app: App, lanes: readonly LaneView[]): void {
  const text = byId('text', HTMLTextAreaElement);
  text.value = SAMPLE_TEXT;
  app.button('measure', async () => {
    await app.loadModel();
    const caches = [...new Set(lanes.map(({ cache }) => cache))];
    const rows = await app.client.request('perplexity', { text: text.value, caches }, app.show);
    const [{ tokens, baseline }] = rows;
    byId('measure-note', HTMLElement).textContent =
      `${formatCount(tokens)} tokens predicted, every key and value read from the cache, as in the paper. With f16 ` +
      `keys and values the perplexity is ${baseline.toFixed(3)}.`;
    const cells = rows.map((row) => [
      String(row.cache),
      row.perplexity.toFixed(3),
      row.loss.toFixed(4),
      row.klDivergence.toFixed(4),
      `${(100 * row.topOneAgreement).toFixed(1)} %`,
      row.bitsPerElement.toFixed(2),
      formatTimes(row.compression),
    ]);
    byId('perplexity-table', HTMLElement).replaceChildren(table('Perplexity of the text', HEADS, cells));
    app.say('Done.');
  });
}
