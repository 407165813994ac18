/**
 * Families of models beside transformers: log-probabilities over 300 tokens, from a Hugging Face folder and from GGUF,
 * by both backends, at once and token by token. The models are small and random: golden/generate/families_hf.py.
 */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { WasmModel } from '../../src/engine/wasm-model.js';
import { loadModelFile } from '../../src/io/load-model.js';
import type { ModelFile } from '../../src/io/model-file.js';
import { readSafetensors, toFloat32 } from '../../src/io/safetensors.js';
import type { LanguageModel } from '../../src/model/language-model.js';
import { referenceWeights } from '../../src/model/weights.js';
import { type Matrix, row } from '../../src/numerics/matrix.js';
import { ReferenceModel } from '../../src/reference-model.js';
import { logSumExp } from '../../src/sampling.js';

const families = new URL('../../../golden/families/', import.meta.url).pathname;

/** Largest difference of a log-probability that counts as the same model. */
const BOUND = 2e-4;

/** The same for caches that rematerialize keys in the engine, which cuts f32 rows to 13 bits for it (docs/engine.md). */
const ENGINE_KEYS_BOUND = 2e-2;

/** Tokens that are run one by one. */
const SINGLE = 12;

interface Expected {
  tokens: number[];
  /** [tokens, 8], of tokens (next + 4 j) mod vocabulary */
  logprobs: Float32Array;
}

function readExpected(family: string): Expected {
  const path = `${families}${family}/expected.safetensors`;
  const { tensors } = readSafetensors(readFileSync(path), path);
  const [tokens, logprobs] = ['tokens', 'logprobs'].map((name) => toFloat32(tensors.get(name)!));
  return { tokens: Array.from(tokens), logprobs };
}

/** Largest difference of the log-probabilities after tokens `first` and so on. */
function difference(logits: Matrix, { tokens, logprobs }: Expected, first: number): number {
  let largest = 0;
  for (let r = 0; r < logits.rows; r++) {
    const values = row(logits, r);
    const normalizer = logSumExp(values);
    const next = tokens[first + r + 1] ?? 3;
    for (let j = 0; j < 8; j++) {
      const value = values[(next + 4 * j) % values.length] - normalizer;
      largest = Math.max(largest, Math.abs(value - logprobs[(first + r) * 8 + j]));
    }
  }
  return largest;
}

async function open(file: ModelFile, backend: string): Promise<LanguageModel> {
  if (backend === 'reference') return new ReferenceModel(file.config, referenceWeights(file.weights));
  return WasmModel.load(file.config, file.weights, { threads: 1 });
}

describe.each(
  readdirSync(families, { withFileTypes: true }).flatMap((each) => (each.isDirectory() ? each.name : [])),
)('%s', (family) => {
  const expected = readExpected(family);
  const { tokens } = expected;
  const files = ['', '/model.gguf'].filter((file) => existsSync(`${families}${family}${file}`));

  it.each(files.flatMap((file) => ['reference', 'wasm'].map((backend) => [file || 'folder', backend])))(
    '%s, %s: as transformers, at once and token by token',
    async (file, backend) => {
      const path = `${families}${family}${file === 'folder' ? '' : file}`;
      await using model = await open(await loadModelFile(path), backend);
      const cache = model.createCache('kv?quantizer=identity&window=4');
      expect(difference(await model.forward(tokens, cache, { logits: 'all' }), expected, 0)).toBeLessThan(
        BOUND,
      );
      // the last tokens again, one by one
      const first = tokens.length - SINGLE;
      cache.trim(first);
      for (let t = first; t < tokens.length; t++) {
        const logits = await model.forward([tokens[t]], cache);
        expect(difference(logits, expected, t)).toBeLessThan(BOUND);
      }
    },
  );

  it.each(['reference', 'wasm'])('%s: XQuant without quantization changes nothing', async (backend) => {
    await using model = await open(await loadModelFile(`${families}${family}`), backend);
    for (const variant of ['xquant', 'xquant-cl', 'xquant-cl@tuned']) {
      const cache = model.createCache(`${variant}?quantizer=identity&window=16&group=16`);
      const first = 95;
      await model.forward(tokens.slice(0, first), cache);
      for (let t = first; t < first + 5; t++) {
        const bound = backend === 'wasm' ? ENGINE_KEYS_BOUND : BOUND;
        const logits = await model.forward([tokens[t]], cache);
        expect(difference(logits, expected, t), variant).toBeLessThan(bound);
      }
    }
  });
});

describe('layers with windows between layers without', () => {
  it.each(['f32', 'int8', 'recompute'])(
    'hand the differences on that they do not see themselves: %s',
    async (accumulator) => {
      const { config, weights } = await loadModelFile(`${families}gemma3`);
      const layers = config.layers?.map((layer, i) => (i === 3 ? {} : layer)); // layer 5 sees everything, too
      const mixed = { ...config, layers };
      const reference = new ReferenceModel(mixed, referenceWeights(weights));
      await using engine = await WasmModel.load(mixed, weights, { threads: 1 });
      const { tokens } = readExpected('gemma3');
      const spec = `xquant-cl:4?window=16&group=16&accumulator=${accumulator}`;
      const [ours, theirs] = [engine.createCache(spec), reference.createCache(spec)];
      // many rows, then few, so that both ways of attention meet blocks behind windows
      for (const [from, to] of [[0, 95] as const, [95, 160] as const, [160, 161] as const]) {
        const got = await engine.forward(tokens.slice(from, to), ours);
        const wanted = await reference.forward(tokens.slice(from, to), theirs);
        const difference = Math.max(...got.data.map((value, i) => Math.abs(value - wanted.data[i])));
        expect(difference).toBeLessThan(ENGINE_KEYS_BOUND);
      }
    },
  );
});

describe.each(['', '/model.gguf'])('LongRoPE%s', (file) => {
  it('is refused by name beyond the original context', async () => {
    const { config, weights } = await loadModelFile(`${families}phi4-mini${file}`);
    expect(config.maxPositionEmbeddings).toBe(512);
    const model = new ReferenceModel(config, referenceWeights(weights));
    const tokens = new Array<number>(513).fill(3);
    await expect(model.forward(tokens, model.createCache('kv'))).rejects.toThrow(
      /512 tokens \(of 4096; beyond, LongRoPE has other factors/,
    );
  });
});
