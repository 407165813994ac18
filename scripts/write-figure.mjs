/**
 * Writes docs/caches.svg, the figure of the start page: what caches of a real model take in all, and what they lose.
 * `--check` writes nothing and fails if the figure is not what the numbers say. Needs a build.
 */

import { readFileSync, writeFileSync } from 'node:fs';
import { KNOWN_LOSSES } from '../dist/cli/known-losses.js';
import { cacheTotals, namedShape } from '../dist/index.js';

const FILE = new URL('../docs/caches.svg', import.meta.url);
const TOKENS = 8192;
const CACHES = ['kv', 'xquant:4@tuned', 'xquant-cl:2@tuned', 'kivi:2'];

const shape = namedShape('smollm2-135m');
const { percent } = KNOWN_LOSSES.find(({ shape: { hiddenSize } }) => hiddenSize === shape.hiddenSize);
const rows = CACHES.map((name) => ({ name, loss: percent[name], ...cacheTotals(name, shape, TOKENS) }));
const largest = Math.max(...rows.map(({ total }) => total));

const [LEFT, WIDTH, ROW, TOP] = [132, 300, 34, 46];
const scale = (bytes) => ((WIDTH * bytes) / largest).toFixed(1);
const mb = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;

const bars = rows.map(({ name, loss, ...memory }, i) => {
  const y = TOP + i * ROW;
  let x = LEFT;
  const parts = [
    ['cache', memory.cache],
    ['accumulator', memory.accumulator],
    ['plan', memory.plan],
  ].map(([kind, bytes]) => {
    const bar = `<rect class="${kind}" x="${x.toFixed(1)}" y="${y}" width="${scale(bytes)}" height="18"/>`;
    x += Number(scale(bytes));
    return bar;
  });
  const cost = loss === undefined ? 'exact' : `+${loss} % perplexity`;
  return `  <text x="${LEFT - 8}" y="${y + 14}" text-anchor="end">${name.split('@')[0]}</text>
  ${parts.join('')}
  <text x="${(x + 8).toFixed(1)}" y="${y + 14}">${mb(memory.total)}, ${cost}</text>`;
});
const height = TOP + CACHES.length * ROW + 30;
const legend = [
  ['cache', 'cache'],
  ['accumulator', 'accumulator'],
  ['plan', 'plan, once for all conversations'],
].map(([kind, text], i) => {
  const x = LEFT + i * 112;
  return `<rect class="${kind}" x="${x}" y="${height - 20}" width="12" height="12"/><text x="${x + 18}" y="${height - 10}">${text}</text>`;
});

const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 ${height}" role="img" aria-labelledby="title">
  <title id="title">Caches of SmolLM2-135M at ${TOKENS} tokens: ${rows.map(({ name, total }) => `${name} ${mb(total)}`).join(', ')}</title>
  <style>
    text { font: 13px system-ui, sans-serif; fill: #1d2026 }
    .head { font-weight: 600 }
    .cache { fill: #0b6aa2 } .accumulator { fill: #b0388a } .plan { fill: #8a8f99 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6e4df }
      .cache { fill: #4fa8dc } .accumulator { fill: #ea86c6 } .plan { fill: #737a86 }
    }
  </style>
  <text class="head" x="0" y="20">SmolLM2-135M (grouped-query), one conversation of ${TOKENS} tokens</text>
${bars.join('\n')}
  ${legend.join('')}
</svg>
`;

if (!process.argv.includes('--check')) writeFileSync(FILE, svg);
else if (readFileSync(FILE, 'utf8') !== svg) {
  process.stderr.write('docs/caches.svg is not what the numbers say: run "node scripts/write-figure.mjs"\n');
  process.exitCode = 1;
}
