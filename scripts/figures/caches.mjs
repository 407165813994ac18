/** The figure of the start page: what caches of a real model take in all, and what they lose. */

import { KNOWN_LOSSES } from '../../dist/cli/known-losses.js';
import { cacheTotals, namedShape } from '../../dist/index.js';
import { figure, text } from './draw.mjs';

const TOKENS = 8192;
const CACHES = ['kv', 'xquant:4@tuned', 'xquant-cl:2.25@calibrated', 'xquant-cl:2@tuned', 'kivi:2'];
const [LEFT, WIDTH, ROW, TOP] = [184, 160, 34, 46];

/** Memory and loss of caches of SmolLM2-135M. */
export function caches() {
  const shape = namedShape('smollm2-135m');
  const { percent } = KNOWN_LOSSES.find(({ shape: { hiddenSize } }) => hiddenSize === shape.hiddenSize);
  const rows = CACHES.map((name) => ({ name, loss: percent[name], ...cacheTotals(name, shape, TOKENS) }));
  const largest = Math.max(...rows.map(({ total }) => total));
  const scale = (bytes) => Number(((WIDTH * bytes) / largest).toFixed(1));
  const mb = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;
  const bars = rows.map(({ name, loss, ...memory }, i) => {
    const y = TOP + i * ROW;
    let x = LEFT;
    const parts = ['cache', 'accumulator', 'plan'].map((kind) => {
      const width = scale(memory[kind]);
      const bar = `<rect class="${kind}" x="${x.toFixed(1)}" y="${y}" width="${width}" height="18"/>`;
      x += width;
      return bar;
    });
    const cost = loss === undefined ? 'exact' : `+${loss} % perplexity`;
    return [
      text(LEFT - 8, y + 14, name.replace('@tuned', ''), { at: 'end' }),
      parts,
      text((x + 8).toFixed(1), y + 14, `${mb(memory.total)}, ${cost}`, { at: 'start' }),
    ];
  });
  const height = TOP + CACHES.length * ROW + 30;
  const legend = [
    ['cache', 'cache'],
    ['accumulator', 'accumulator'],
    ['plan', 'plan, once for all conversations'],
  ].map(([kind, label], i) => {
    const x = [0, 74, 184][i];
    return [
      `<rect class="${kind}" x="${x}" y="${height - 20}" width="12" height="12"/>`,
      text(x + 18, height - 10, label, { at: 'start' }),
    ];
  });
  const title = `Caches of SmolLM2-135M at ${TOKENS} tokens: ${rows.map(({ name, total }) => `${name} ${mb(total)}`).join(', ')}`;
  const heading = `SmolLM2-135M (grouped-query), one conversation of ${TOKENS} tokens`;
  return figure(540, height, title, text(0, 20, heading, { at: 'start', style: 'bold' }), bars, legend);
}
