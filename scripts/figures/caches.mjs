/** The figure of the start page: what caches of a real model take in all, and what they lose. */

import { KNOWN_LOSSES } from '../../dist/cli/known-losses.js';
import { cacheTotals, namedShape } from '../../dist/index.js';
import { figure, text } from './draw.mjs';

const TOKENS = 8192;
const CACHES = ['kv', 'xquant:4@tuned', 'xquant-cl:2.25@calibrated', 'xquant-cl:2@tuned', 'kivi:2'];
const [WIDTH, ROW, TOP] = [380, 44, 46];

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
    let x = 0;
    const parts = ['cache', 'accumulator', 'plan'].map((kind) => {
      const width = scale(memory[kind]);
      const bar = `<rect class="${kind}" x="${x.toFixed(1)}" y="${y + 20}" width="${width}" height="14"/>`;
      x += width;
      return bar;
    });
    const cost = loss === undefined ? 'exact' : `+${loss} % perplexity`;
    return [
      text(0, y + 14, name.replace('@tuned', ''), { at: 'start' }),
      text(WIDTH, y + 14, `${mb(memory.total)}, ${cost}`, { at: 'end' }),
      parts,
    ];
  });
  const height = TOP + CACHES.length * ROW + 26;
  const legend = [
    ['cache', 'cache', 0],
    ['accumulator', 'accumulator', 74],
    ['plan', 'plan, once for all conversations', 184],
  ].map(([kind, label, x]) => [
    `<rect class="${kind}" x="${x}" y="${height - 18}" width="12" height="12"/>`,
    text(x + 17, height - 8, label, { at: 'start', style: 'small' }),
  ]);
  const title = `Caches of SmolLM2-135M at ${TOKENS} tokens: ${rows.map(({ name, total }) => `${name} ${mb(total)}`).join(', ')}`;
  return figure(
    WIDTH,
    height,
    title,
    text(0, 16, `SmolLM2-135M, a conversation of ${TOKENS} tokens`, { at: 'start', style: 'bold' }),
    text(0, 34, 'memory in all, and what it costs', { at: 'start', style: 'small muted' }),
    bars,
    legend,
  );
}
