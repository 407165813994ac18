/**
 * How far two calibrations of one model agree, for instance that of `xquant calibrate` and that of golden/generate/calibrate.py:
 * in how many channels they give the same bits, and what caches with either lose on the same windows.
 *
 *     node scripts/compare-calibrations.mjs FIRST SECOND --model books-gqa --text FILE [--windows 4] [--threads 1]
 *
 * Channels of a layer are compared in the order of their importance. Needs a build.
 */

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { calibratedPlan } from '../dist/cache/calibration.js';
import { loadModelFile, measurePerplexity, Tokenizer, WasmModel } from '../dist/index.js';
import { openCalibrationFile } from '../dist/io/calibration-file.js';
import { nodeStore } from '../dist/io/node-calibration.js';
import { syncFile } from '../dist/io/node-file.js';
import { estimate } from '../dist/reproduce/statistics.js';

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    model: { type: 'string', default: 'books-gqa' },
    text: { type: 'string' },
    windows: { type: 'string', default: '4' },
    threads: { type: 'string', default: '1' },
  },
});
if (positionals.length !== 2 || !options.text) {
  process.stderr.write(
    'usage: compare-calibrations.mjs FIRST SECOND --model MODEL --text FILE [--windows N]\n',
  );
  process.exit(2);
}
const file = await loadModelFile(options.model);
const [first, second] = positionals.map((path) => openCalibrationFile(syncFile(path), file));
const kvDim = file.config.numKeyValueHeads * file.config.headDim;
const shared = first.sets.filter((set) =>
  second.sets.some((each) => each.predict === set.predict && each.basis === set.basis),
);

for (const { predict, basis, bits: fitted } of shared) {
  for (const bits of fitted === null ? [2.25, 4.25] : [fitted]) {
    const [a, b] = [first, second].map(
      (each) => calibratedPlan(each, { predict, basis, bits, groupSize: 128 }, kvDim).channelBits,
    );
    let [equal, near, all] = [0, 0, 0];
    a.forEach((layer, i) => {
      // Bits follow importance, so that in this order they descend in both.
      const [own, other] = [layer, b[i]].map((each) => [...each].sort((x, y) => y - x));
      own.forEach((width, k) => {
        all++;
        if (width === other[k]) equal++;
        if (Math.abs(width - other[k]) <= 1) near++;
      });
    });
    const percent = (count) => `${((100 * count) / all).toFixed(1)} %`;
    console.log(
      `predict=${predict} basis=${basis} at ${bits} bits: the same in ${percent(equal)} of ${all} channels, one step apart at most in ${percent(near)}`,
    );
  }
}

const caches = shared.map(({ predict, basis, bits }) => {
  if (predict === 0) return `xquant:4.25@calibrated?basis=${basis}`;
  return `xquant-cl:${bits}@calibrated?predict=${predict}`;
});
const ids = new Tokenizer(file.tokenizer).encode(readFileSync(options.text, 'utf8'), { parseSpecial: true });
const model = await WasmModel.load(file.config, file.weights, { threads: Number(options.threads) });
model.factors.useKeeper(nodeStore(options.model, file));
const both = caches.flatMap((cache) => positionals.map((path) => `${cache}&calibration=${path}`));
const windows = Number(options.windows);
const report = await measurePerplexity(model, [...ids.slice(0, windows * 2048)], { caches: both, windows });
const losses = ({ windowLosses }) => windowLosses.map((loss, w) => loss - report.baseline.windowLosses[w]);
for (const [i, cache] of caches.entries()) {
  const [a, b] = [report.caches[2 * i], report.caches[2 * i + 1]].map(losses);
  const percent = ({ mean, stdErr }) => `${(100 * mean).toFixed(3)} ± ${(100 * stdErr).toFixed(3)} %`;
  console.log(
    `${cache}, ${windows} windows: ${percent(estimate(a))} and ${percent(estimate(b))}, apart ${percent(estimate(a.map((loss, w) => loss - b[w])))}`,
  );
}
await model.dispose();
