/**
 * Speed of every kernel, against the plain tile product of the same instruction set in the same run.
 *
 *     npm run bench:kernels -- [--kernel simd|relaxed|auto] [--only text] [--seconds s] [--wasm folder] [--json]
 *
 * Products are given in GMAC/s (10^9 multiply-adds a second) and as a ratio to the plain tile, which multiplies
 * 16-bit integers that are there already, with one scale a row; everything else in 10^9 elements a second. Each
 * measurement is the median of rounds in which all kernels take their turn, so that a busy machine slows all alike,
 * and time is processor time, which does not count waiting for a core.
 *
 * @module
 */

import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import {
  ACTIVATION_TILE,
  attendScratchBytes,
  INTEGER_LIMITS,
  type Kernels,
  matmulScratchBytes,
  packedWeightsBytes,
  panelBytes,
  quantizeScratchBytes,
  RANGE_CODES,
  tileBytes,
  weightKernels,
} from '../src/engine/kernels.js';
import { compileKernels, instantiateKernels, type KernelChoice } from '../src/engine/load-wasm.js';
import { type BlockKernel, PARAMETER_BYTES, type ParameterBlock } from '../src/engine/parameter-blocks.js';
import { PRODUCT_TYPES, weightBytes } from '../src/quant/weight-types.js';
import { writeBlock } from '../test/unit/engine/kernels/call-block.js';
import { type Environment, environment } from './report.js';

const { values: options } = parseArgs({
  options: {
    kernel: { type: 'string', default: 'auto' },
    only: { type: 'string', default: '' },
    seconds: { type: 'string', default: '0.2' },
    rounds: { type: 'string', default: '5' },
    wasm: { type: 'string', default: 'dist/wasm' },
    json: { type: 'boolean', default: false },
  },
});

/** What `--json` prints. */
export interface KernelReport extends Environment {
  readonly results: readonly {
    readonly name: string;
    readonly rate: number;
    readonly unit: Subject['unit'];
    /** To the plain tile; of products only. */
    readonly ratio?: number;
  }[];
}

/** One thing to measure. */
interface Subject {
  readonly name: string;
  /** What one run does: multiply-adds for products, elements otherwise. */
  readonly work: number;
  readonly unit: 'GMAC/s' | 'Gelement/s';
  readonly run: () => void;
}

// SmolLM2-135M: hidden 576, 9 query heads and 3 KV heads of 64, ffn 1536
const HIDDEN = 576;
const KV_DIM = 192;
const INTERMEDIATE = 1536;
const HEAD = 64;
const BLOCK_TOKENS = 128;

const compiled = await compileKernels({
  kernel: options.kernel as KernelChoice,
  binary: (build) => pathToFileURL(resolve(options.wasm, `${build}.wasm`)),
});
const memory = new WebAssembly.Memory({ initial: 2048 });
const kernels: Kernels = instantiateKernels(compiled, memory);

let top = 65536;
function reserve(bytes: number): number {
  const at = top;
  top = Math.ceil((top + bytes) / 64) * 64 + 64;
  const missing = top - memory.buffer.byteLength;
  if (missing > 0) memory.grow(Math.ceil(missing / 65536));
  return at;
}

function random(count: number, scale = 1): number {
  const at = reserve(count * 4);
  const data = new Float32Array(memory.buffer, at, count);
  for (let i = 0; i < count; i++) data[i] = (Math.random() + Math.random() + Math.random() - 1.5) * scale;
  return at;
}

/** A call of a kernel whose parameter block is written once: what is measured is the kernel. */
function prepared<K extends BlockKernel>(kernel: K, block: ParameterBlock<K>): () => void {
  const at = reserve(PARAMETER_BYTES);
  writeBlock(memory, at, kernel, block);
  return () => kernels[kernel](at);
}

const subjects: Subject[] = [];
const product = (name: string, work: number, run: () => void): void => {
  subjects.push({ name, work, unit: 'GMAC/s', run });
};
const pass = (name: string, work: number, run: () => void): void => {
  subjects.push({ name, work, unit: 'Gelement/s', run });
};

const out = reserve(512 * INTERMEDIATE * 4);

// ---- plain tiles ---------------------------------------------------------------------------------------------

const plainPanels = reserve(packedWeightsBytes(KV_DIM, HIDDEN, HIDDEN));
const plainTile = reserve(tileBytes(BLOCK_TOKENS, HIDDEN, HIDDEN));
new Int8Array(memory.buffer, plainPanels, KV_DIM * HIDDEN * 2).forEach((_, i, all) => {
  all[i] = (i % 15) - 7;
});
new Int8Array(memory.buffer, plainTile, BLOCK_TOKENS * HIDDEN * 2).fill(3);
const tileWork = BLOCK_TOKENS * KV_DIM * HIDDEN;
product('plain tile, 16-bit', tileWork, () =>
  kernels.matmulTileFloat(plainPanels, plainTile, BLOCK_TOKENS, HIDDEN, HIDDEN, KV_DIM, out, KV_DIM),
);
product('plain tile, 8-bit', tileWork, () =>
  kernels.matmulTileInt8(plainPanels, plainTile, BLOCK_TOKENS, HIDDEN, HIDDEN, KV_DIM, out, KV_DIM),
);

// ---- weights of a file -----------------------------------------------------------------------------------------

for (const type of PRODUCT_TYPES) {
  const k = type.endsWith('_K') ? 1536 : HIDDEN;
  // decode walks through more weights than the caches hold, as a model does
  const rows = type === 'F32' ? 16384 : 24576;
  const source = reserve(weightBytes(type, 8, k));
  new Uint8Array(memory.buffer, source, weightBytes(type, 8, k)).fill(0x11);
  const { matmul, repack, takesTile } = weightKernels(kernels, type);
  const many = k === HIDDEN ? rows : 12288;
  const panel = panelBytes(type, 8, k);
  const weights = reserve(panelBytes(type, many, k));
  repack(source, 8, k, weights);
  const bytes = new Uint8Array(memory.buffer);
  for (let j = 8; j < many; j += 8) bytes.copyWithin(weights + (j / 8) * panel, weights, weights + panel);
  const x = random(BLOCK_TOKENS * k);
  const { block, limit } = ACTIVATION_TILE;
  const one = reserve(tileBytes(1, k, block));
  const tile = reserve(tileBytes(BLOCK_TOKENS, k, block));
  kernels.quantizeTile(x, 1, k, block, limit, one);
  kernels.quantizeTile(x, BLOCK_TOKENS, k, block, limit, tile);
  const space = reserve(matmulScratchBytes(k));
  product(`${type} decode`, many * k, () =>
    matmul(weights, takesTile ? one : x, 1, k, many, out, many, space),
  );
  product(`${type} prefill of 128`, BLOCK_TOKENS * HIDDEN * k, () =>
    matmul(weights, takesTile ? tile : x, BLOCK_TOKENS, k, HIDDEN, out, HIDDEN, space),
  );
  if (type === 'Q8_0') {
    pass('quantize activations', BLOCK_TOKENS * k, () =>
      kernels.quantizeTile(x, BLOCK_TOKENS, k, block, limit, tile),
    );
  }
}

// ---- rematerialization -----------------------------------------------------------------------------------------

const stored = {
  packed: reserve(BLOCK_TOKENS * HIDDEN),
  scales: reserve(BLOCK_TOKENS * 5 * 2 + HIDDEN * 2),
  mins: reserve(BLOCK_TOKENS * 5 * 2 + HIDDEN * 2),
  scratch: reserve(quantizeScratchBytes(128)),
};
const keyWeights = random(KV_DIM * HIDDEN, 0.05);
const x = random(BLOCK_TOKENS * HIDDEN);
for (const [label, columns] of [
  ['form x', HIDDEN],
  ['latent', KV_DIM],
] as const) {
  const work = BLOCK_TOKENS * KV_DIM * columns;
  for (const bits of [2, 3, 4, 8]) {
    for (const keys of ['exact', 'int8'] as const) {
      if (keys === 'int8' && bits > 4) continue;
      const packed = reserve(BLOCK_TOKENS * columns);
      const scales = reserve(BLOCK_TOKENS * 5 * 2);
      const mins = reserve(BLOCK_TOKENS * 5 * 2);
      const codes = { packed, scales, mins, rows: BLOCK_TOKENS, columns, bits, groupSize: 128 };
      const { scratch } = stored;
      prepared('quantizeRows', { ...codes, scratch, source: x, range: 0 })();
      const weights = reserve(packedWeightsBytes(KV_DIM, columns, 128));
      const tile = reserve(tileBytes(BLOCK_TOKENS, columns, 128));
      const kernel = keys === 'exact' ? 'unpackTile' : 'unpackTileInt8';
      const unpack = prepared(kernel, { ...codes, scratch, perChannel: 0, block: 128, tile });
      const multiply = keys === 'exact' ? kernels.matmulTile : kernels.matmulTileInt8;
      if (keys === 'exact') {
        kernels.packWeights(keyWeights, KV_DIM, columns, 128, INTEGER_LIMITS.codes, 0, 0, weights);
      } else {
        kernels.packWeightsInt8(keyWeights, KV_DIM, columns, 128, 0, 0, weights);
      }
      product(`remat ${label}, ${bits} bits per token, ${keys}`, work, () => {
        unpack();
        multiply(weights, tile, BLOCK_TOKENS, columns, 128, KV_DIM, out, KV_DIM);
      });
    }
  }
  const bits = 4;
  const packed = reserve(BLOCK_TOKENS * columns);
  const scales = reserve(columns * 2);
  const mins = reserve(columns * 2);
  const space = reserve(quantizeScratchBytes(128));
  const codes = { packed, scales, mins, rows: BLOCK_TOKENS, columns, bits, groupSize: 128, scratch: space };
  prepared('quantizeColumns', { ...codes, source: x, range: 0 })();
  const weights = reserve(packedWeightsBytes(KV_DIM, columns, 128));
  const tile = reserve(tileBytes(BLOCK_TOKENS, columns, 128));
  const unpack = prepared('unpackTile', { ...codes, perChannel: 1, block: 128, tile });
  product(`remat ${label}, 4 bits per channel, exact`, work, () => {
    unpack();
    kernels.packWeights(keyWeights, KV_DIM, columns, 128, INTEGER_LIMITS.codes, scales, mins, weights);
    kernels.matmulTile(weights, tile, BLOCK_TOKENS, columns, 128, KV_DIM, out, KV_DIM);
  });
  const floatWeights = reserve(packedWeightsBytes(KV_DIM, columns, 32));
  const floatTile = reserve(tileBytes(BLOCK_TOKENS, columns, 32));
  kernels.packWeights(keyWeights, KV_DIM, columns, 32, INTEGER_LIMITS.float, 0, 0, floatWeights);
  product(`remat ${label}, f32 accumulator, exact`, work, () => {
    kernels.quantizeTile(x, BLOCK_TOKENS, columns, 32, INTEGER_LIMITS.float, floatTile);
    kernels.matmulTileFloat(floatWeights, floatTile, BLOCK_TOKENS, columns, 32, KV_DIM, out, KV_DIM);
  });
}

// ---- attention ---------------------------------------------------------------------------------------------------

const keysT = random(KV_DIM * BLOCK_TOKENS);
const values = random(BLOCK_TOKENS * HIDDEN);
const cos = random(BLOCK_TOKENS * HEAD);
const maxima = reserve(BLOCK_TOKENS * 9 * 4);
const sums = reserve(BLOCK_TOKENS * 9 * 4);
const acc = reserve(BLOCK_TOKENS * 9 * HIDDEN * 4);
const attendScratch = reserve(attendScratchBytes(BLOCK_TOKENS));
const queries = random(BLOCK_TOKENS * HIDDEN);
for (const [label, count, heads, kvHeads] of [
  ['decode, 9 heads on 3', 1, 9, 3],
  ['decode, 4 heads on 4', 1, 4, 4],
  ['128 queries, 9 heads on 3', BLOCK_TOKENS, 9, 3],
] as const) {
  const kvDim = kvHeads * HEAD;
  const attend = (width: number, valueHeadStride: number): (() => void) => {
    const block = prepared('attendBlock', {
      q: queries,
      heads,
      kvHeads,
      headDim: HEAD,
      keys: keysT,
      tokens: BLOCK_TOKENS,
      values,
      valueStride: kvDim,
      valueHeadStride,
      width,
      scale: 0.125,
      firstQuery: 1000,
      firstKey: 0,
      maxima,
      sums,
      acc,
      headStart: 0,
      headEnd: kvHeads,
      queryStart: 0,
      queryEnd: count,
      window: 0,
      scratch: attendScratch,
    });
    return () => {
      kernels.attendBegin(maxima, sums, acc, count * heads, width);
      block();
    };
  };
  const work = count * heads * BLOCK_TOKENS;
  product(`attend ${label}, values`, work * HEAD * 2, attend(HEAD, HEAD));
  if (count > 1) continue;
  product(`attend ${label}, latents of ${kvDim}`, work * (HEAD + kvDim), attend(kvDim, 0));
}
const keys = random(BLOCK_TOKENS * KV_DIM);
const halves = reserve(BLOCK_TOKENS * KV_DIM * 2);
kernels.encodeFloat16(keys, halves, BLOCK_TOKENS * KV_DIM);
pass('f16 to f32', BLOCK_TOKENS * KV_DIM, () => kernels.decodeFloat16(halves, out, BLOCK_TOKENS * KV_DIM));
pass('finish keys (RoPE, transpose)', BLOCK_TOKENS * KV_DIM, () =>
  kernels.finishKeys(keys, BLOCK_TOKENS, 3, HEAD, cos, cos, 0, keysT),
);

// ---- writing ---------------------------------------------------------------------------------------------------

const written = { ...stored, rows: BLOCK_TOKENS, columns: HIDDEN, groupSize: 128 };
for (const [label, range] of Object.entries(RANGE_CODES)) {
  for (const bits of [2, 4]) {
    const rows = prepared('quantizeRows', { ...written, bits, source: x, range });
    pass(`quantize ${bits} bits per token, ${label}`, BLOCK_TOKENS * HIDDEN, rows);
  }
  const columns = prepared('quantizeColumns', { ...written, bits: 4, source: x, range });
  pass(`quantize 4 bits per channel, ${label}`, BLOCK_TOKENS * HIDDEN, columns);
}
const deltas = { ...written, bits: 2 };
prepared('quantizeRows', { ...deltas, source: x, range: 0 })();
const target = random(BLOCK_TOKENS * HIDDEN);
pass('accumulate 2-bit deltas', BLOCK_TOKENS * HIDDEN, prepared('dequantizeAddRows', { ...deltas, target }));
const rotating = random(BLOCK_TOKENS * HIDDEN);
pass('rotate', BLOCK_TOKENS * HIDDEN, () => kernels.hadamardRows(rotating, BLOCK_TOKENS, HIDDEN));

// ---- the rest ----------------------------------------------------------------------------------------------------

const gain = random(HIDDEN);
pass('RMSNorm', BLOCK_TOKENS * HIDDEN, () => kernels.rmsNorm(x, BLOCK_TOKENS, HIDDEN, gain, 1e-5, 0, out));
const [gate, up] = [random(BLOCK_TOKENS * INTERMEDIATE), random(BLOCK_TOKENS * INTERMEDIATE)];
pass('SiLU gate', BLOCK_TOKENS * INTERMEDIATE, () =>
  kernels.siluGate(gate, up, out, BLOCK_TOKENS * INTERMEDIATE),
);

// ---- measure -----------------------------------------------------------------------------------------------------

const chosen = subjects.filter(({ name }, i) => i < 2 || name.includes(options.only ?? ''));
const seconds = Number(options.seconds) / Number(options.rounds);
const rates = new Map<Subject, number[]>(chosen.map((subject) => [subject, []]));
for (const { run } of chosen) {
  // long enough for the optimizing compiler to have taken over
  const start = performance.now();
  while (performance.now() - start < 30) run();
}
for (let round = 0; round < Number(options.rounds); round++) {
  for (const subject of chosen) {
    const start = process.cpuUsage();
    let runs = 0;
    let elapsed = 0;
    do {
      subject.run();
      runs++;
      const { user, system } = process.cpuUsage(start);
      elapsed = user + system;
    } while (elapsed < seconds * 1e6);
    rates.get(subject)?.push((subject.work * runs) / elapsed / 1e3);
  }
}

const median = (numbers: readonly number[]): number =>
  [...numbers].sort((a, b) => a - b)[numbers.length >> 1];
const plain = median(rates.get(chosen[0]) ?? []);
const results = chosen.map((subject) => {
  const rate = median(rates.get(subject) ?? []);
  const ratio = subject.unit === 'GMAC/s' ? rate / plain : undefined;
  return { name: subject.name, rate, unit: subject.unit, ratio };
});
const where = environment('bench:kernels', compiled.build);
if (options.json) {
  console.log(JSON.stringify({ ...where, results } satisfies KernelReport, null, 2));
} else {
  for (const [name, value] of Object.entries(where)) console.log(`${name.padEnd(8)} ${value}`);
  console.log();
  for (const { name, rate, unit, ratio } of results) {
    const share = ratio === undefined ? '' : `${ratio.toFixed(2)} x plain tile`;
    console.log(`${name.padEnd(44)} ${rate.toFixed(2).padStart(7)} ${unit.padEnd(11)} ${share}`);
  }
}
