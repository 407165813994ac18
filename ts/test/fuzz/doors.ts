/**
 * The doors through which bytes and text of others come in, one a family, each used the way a program would use it:
 * a model is opened, its weights read, its tokenizer built and tried, its chat rendered.
 *
 * A door may refuse with an error of the package. Anything else that it throws is a fault, see `judge.ts`.
 *
 * @module
 */

import { readFile } from 'node:fs/promises';
import { cacheSize } from '../../src/analysis/memory.js';
import { parseCacheSpec, resolveCacheOptions } from '../../src/cache/presets.js';
import { readNpzCase } from '../../src/check/case/golden.js';
import { readNpy } from '../../src/check/case/npy.js';
import { WasmModel } from '../../src/engine/wasm-model.js';
import { readCalibrationFile } from '../../src/io/calibration-file.js';
import { readCalibration } from '../../src/io/kvquant-calibration.js';
import { loadModelFile, type ModelSource, readModelHeader } from '../../src/io/load-model.js';
import type { ModelFile } from '../../src/io/model-file.js';
import { readSafetensors, toFloat32 } from '../../src/io/safetensors.js';
import { restoreSnapshot } from '../../src/io/snapshot.js';
import { memorySource } from '../../src/io/source.js';
import { readFactors } from '../../src/io/svd-factors.js';
import { renderChat } from '../../src/text/chat-template.js';
import { Tokenizer } from '../../src/text/tokenizer.js';
import type { TokenizerSource } from '../../src/text/tokenizer-source.js';
import { asFiles } from '../helpers/hugging-face-folder.js';
import { TINY_GQA_CONFIG, tinyModel } from '../helpers/tiny-model.js';

/** Kinds of input. */
export const FAMILIES = [
  'gguf',
  'folder',
  'tokenizer',
  'template',
  'safetensors',
  'cache',
  'snapshot',
  'factors',
  'calibration',
  'transforms',
  'npy',
  'npz',
  'engine',
] as const;

/** One of {@link FAMILIES}. */
export type Family = (typeof FAMILIES)[number];

/** Texts that a tokenizer is tried on: plain, long without a space, odd characters, special spellings. */
const TEXTS = [
  'It was a dark night, and the old man',
  'the'.repeat(400),
  ` \n\t${'\u{1F600}e\u0301\uFEFF\u0085'.repeat(3)}\uD800`,
  "<|endoftext|><s></s> 1234567 don't",
];

const MESSAGES = [
  { role: 'user', content: 'aaaaaaaaaaaaaaaaaaaaaaaaaaaa!' },
  { role: 'assistant', content: 'Yes.' },
  { role: 'user', content: 'Why?' },
];

/** Of the model that snapshots, factors and calibrations are for. */
export const FINGERPRINT = '0123456789abcdef';

/** Of books-gqa, whose calibration is the seed. */
const CALIBRATED = (await readModelHeader('books-gqa')).config;

const gqa = tinyModel(TINY_GQA_CONFIG);

const doors: Readonly<Record<Family, (bytes: Uint8Array) => Promise<void> | void>> = {
  gguf: (bytes) => tryModel(bytes),
  folder: (bytes) => tryModel(asFiles(unpackFolder(bytes))),
  tokenizer: (bytes) => {
    const json = parseJson(bytes);
    // A file whose JSON is no object is refused by the reader of folders; see `folder`.
    if (typeof json !== 'object' || json === null || Array.isArray(json)) return;
    const source = { kind: 'tokenizer.json', path: 'tokenizer.json', json, eosTokenIds: [] } as const;
    tryTokenizer({ ...source, json: json as Record<string, unknown> });
  },
  template: (bytes) => void renderChat(textOf(bytes), MESSAGES),
  safetensors: (bytes) => {
    for (const tensor of readSafetensors(bytes, 'fuzz.safetensors').tensors.values()) {
      if (tensor.bytes.length < 2 ** 20) toFloat32(tensor);
    }
  },
  cache: async (bytes) => {
    const text = textOf(bytes);
    parseCacheSpec(text);
    const options = resolveCacheOptions(text, gqa.config);
    for (const tokens of [1, 128, 100_000]) cacheSize(options, gqa.config, tokens);
    if (options.variant === 'kvquant') return; // needs a calibration
    const cache = gqa.createCache(options);
    await gqa.forward([1, 2, 3], cache);
    cache.clone().trim(1);
  },
  snapshot: (bytes) => void restoreSnapshot(bytes, 'fuzz.xqs', { model: gqa, fingerprint: FINGERPRINT }),
  factors: (bytes) =>
    void readFactors(bytes, 'fuzz.safetensors', { config: gqa.config, fingerprint: FINGERPRINT }),
  calibration: (bytes) => void readCalibration(bytes, 'fuzz.safetensors', CALIBRATED),
  transforms: (bytes) =>
    void readCalibrationFile(bytes, 'fuzz.safetensors', { config: gqa.config, fingerprint: FINGERPRINT }),
  npy: (bytes) => void readNpy(bytes, 'fuzz.npy'),
  npz: async (bytes) => void (await readNpzCase(memorySource(bytes, 'fuzz.npz'))),
  engine: (bytes) => tryEngine(bytes),
};

/** Puts one input through the door of its family. */
export async function enter(family: Family, bytes: Uint8Array): Promise<void> {
  await doors[family](bytes);
}

async function tryModel(source: ModelSource): Promise<void> {
  const file: ModelFile = await loadModelFile(source);
  if (file.tokenizer.kind !== 'none') tryTokenizer(file.tokenizer);
  if (file.chatTemplate !== undefined) renderChat(file.chatTemplate, MESSAGES);
}

/** Runs weights of others in the kernels: numbers that are not finite must end in an error, not in logits. */
async function tryEngine(bytes: Uint8Array): Promise<void> {
  const { config, weights } = await loadModelFile(bytes);
  const binary = await kernels();
  await using model = await WasmModel.load(config, weights, { threads: 1, kernel: 'simd', binary });
  for (const cache of ['kv', 'xquant-cl:2?window=16&group=16&sinks=1']) {
    const logits = await model.forward(ENGINE_TOKENS, model.createCache(cache), { logits: 'all' });
    const bad = logits.data.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) throw new Error(`logit ${bad} is ${logits.data[bad]}`);
  }
}

/** Two blocks of a cache and some. */
const ENGINE_TOKENS = Array.from({ length: 40 }, (_, i) => i);

let compiled: Promise<WebAssembly.Module> | undefined;

/** The kernels that `npm run build` made, compiled once. */
function kernels(): Promise<WebAssembly.Module> {
  compiled ??= readFile('dist/wasm/simd.wasm').then((binary) => WebAssembly.compile(binary));
  return compiled;
}

function tryTokenizer(source: TokenizerSource): void {
  const tokenizer = new Tokenizer(source);
  for (const text of TEXTS) {
    const ids = tokenizer.encode(text);
    tokenizer.encode(text, { addSpecial: false, parseSpecial: true });
    tokenizer.decode(ids);
    const decoder = tokenizer.createDecoder(ids.slice(0, 3), { skipSpecial: false });
    for (const id of ids) decoder.push(id);
    decoder.flush();
  }
}

/** A folder as one input: JSON of files by name; `.json` and `.jinja` are text, all others base64. */
export function packFolder(files: ReadonlyMap<string, Uint8Array>): Uint8Array {
  const entries = [...files].map(([name, bytes]) => [
    name,
    /\.(json|jinja)$/.test(name) ? textOf(bytes) : Buffer.from(bytes).toString('base64'),
  ]);
  return new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
}

/** The way back from {@link packFolder}; what is no such JSON is a folder without files. */
export function unpackFolder(bytes: Uint8Array): Map<string, Uint8Array> {
  const json = parseJson(bytes);
  if (typeof json !== 'object' || json === null) return new Map();
  return new Map(
    Object.entries(json).map(([name, content]) => [
      name,
      /\.(json|jinja)$/.test(name)
        ? new TextEncoder().encode(String(content))
        : new Uint8Array(Buffer.from(String(content), 'base64')),
    ]),
  );
}

function textOf(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(textOf(bytes));
  } catch {
    return undefined;
  }
}
