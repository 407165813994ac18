/**
 * The inputs that the fuzz tests start from: good ones of every family, and hostile ones that were once answered
 * wrongly (`fixtures/hostile`, and the larger ones made here).
 *
 * @module
 */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { zipSync } from 'fflate';
import { writeCalibrationFile } from '../../src/io/calibration-file.js';
import { writeSnapshot } from '../../src/io/snapshot.js';
import { writeFactors } from '../../src/io/svd-factors.js';
import { type GgufWriteTensor, type GgufWriteValue, tinyModelGguf } from '../helpers/gguf-writer.js';
import { tinyFolder } from '../helpers/hugging-face-folder.js';
import { randomInputs } from '../helpers/random-layers.js';
import { randomTokens, TINY_GQA_CONFIG, tinyModel } from '../helpers/tiny-model.js';
import { sampleTransforms } from '../helpers/transforms.js';
import { type Family, FINGERPRINT, packFolder } from './doors.js';

/** An input with a name. */
export interface Seed {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** Of the repository: tests and the command both run there. */
const root = process.cwd();

type Metadata = Record<string, GgufWriteValue>;

/** Hostile models: what is changed in a good one. */
const HOSTILE_GGUF: Readonly<Record<string, (metadata: Metadata, tensors: GgufWriteTensor[]) => void>> = {
  'jinja-nested-loops': (metadata) => {
    const loops = '{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}';
    metadata['tokenizer.chat_template'] = `${loops}{{ messages[0].content }}`;
  },
  'jinja-long-range': (metadata) => {
    metadata['tokenizer.chat_template'] = '{% for i in range(1000000000) %}{% endfor %}x';
  },
  'name-steers-terminal': (metadata) => {
    metadata['general.name'] = 'x\u001b]0;PWNED\u0007\u001b[31mred\u001b[2J';
  },
  'tensor-steers-terminal': (_, tensors) => {
    tensors.push({ ...tensors[1], name: 'evil\u001b[2J\u0007.weight' });
  },
  'key-steers-terminal': (metadata) => {
    metadata['general.architecture'] = 'll\u009b2Jama\r\n';
  },
  'empty-token-and-merge': (metadata) => {
    metadata['tokenizer.ggml.merges'] = ['', ' ', 'a', 'a b c', 'h e'];
  },
  'three-dimensions': (_, tensors) => {
    tensors[3].shape.unshift(1);
  },
};
/** A template with what real ones use. */
const TEMPLATE =
  "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[' + m.content | trim + ']' }}{% else %}" +
  '{{ m.content.split(",")[0][::-1] }}{% endif %}{% endfor %}{% set ns = namespace(x=1) %}{{ bos_token ~ ns.x }}';

const known = new Map<Family, readonly Seed[]>();

/** All seeds of a family. */
export function seedsOf(family: Family): readonly Seed[] {
  let seeds = known.get(family);
  if (!seeds) {
    seeds = [...good[family](), ...made(family), ...stored(family)];
    known.set(family, seeds);
  }
  return seeds;
}

const good: Readonly<Record<Family, () => Seed[]>> = {
  gguf: () =>
    (['llama', 'qwen2', 'qwen3'] as const).map((architecture) => ({
      name: `good ${architecture}`,
      bytes: smallGguf(architecture),
    })),
  folder: () =>
    [1, 2].map((shards) => ({ name: `good, ${shards} files`, bytes: packFolder(smallFolder(shards)) })),
  tokenizer: () => [{ name: 'good', bytes: smallFolder(1).get('tokenizer.json')! }],
  template: () => [{ name: 'good', bytes: utf8(TEMPLATE) }],
  safetensors: () => [{ name: 'good', bytes: smallFolder(1).get('model.safetensors')! }],
  cache: () =>
    [
      'kv',
      'kivi:2',
      'xquant:4@paper?form=x',
      'xquant-cl:2@tuned?baseStore=latent&firstLayers=1',
      'kvquant:3',
    ].map((text) => ({ name: text, bytes: utf8(text) })),
  snapshot: () => [
    { name: 'good, empty', bytes: snapshotBytes('xquant:4', 0) },
    { name: 'good, xquant', bytes: snapshotBytes('xquant:4?window=16&group=16', 40) },
    { name: 'good, kv', bytes: snapshotBytes('kv?window=16', 40) },
    { name: 'good, xquant-cl', bytes: snapshotBytes('xquant-cl:2?window=16&group=16', 40) },
  ],
  factors: () => [{ name: 'good', bytes: factorBytes() }],
  calibration: () => [
    {
      name: 'good',
      bytes: new Uint8Array(readFileSync(join(root, 'golden/calibration/books-gqa.safetensors'))),
    },
  ],
  transforms: () => [{ name: 'good', bytes: transformBytes() }],
  npy: () => [{ name: 'good', bytes: npyBytes() }],
  npz: () => [
    { name: 'good', bytes: npzBytes(0) },
    { name: 'good, compressed', bytes: npzBytes(9) },
  ],
  engine: () =>
    (['F16', 'Q8_0', 'Q4_0'] as const).map((type) => ({ name: `good ${type}`, bytes: engineModel(type) })),
};

/** Hostile inputs too large to be stored. */
function made(family: Family): Seed[] {
  if (family === 'template') {
    return [{ name: 'deep parentheses', bytes: utf8(`{{ ${'('.repeat(1e5)}1${')'.repeat(1e5)} }}`) }];
  }
  if (family !== 'gguf') return [];
  return Object.entries(HOSTILE_GGUF).map(([name, change]) => ({ name, bytes: smallGguf('llama', change) }));
}

/** Hostile inputs of `fixtures/hostile`. */
function stored(family: Family): Seed[] {
  const folder = join(root, 'ts/test/fixtures/hostile', family);
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .sort()
    .map((name) => ({ name, bytes: new Uint8Array(readFileSync(join(folder, name))) }));
}

function smallGguf(
  architecture: 'llama' | 'qwen2' | 'qwen3',
  change: (metadata: Metadata, tensors: GgufWriteTensor[]) => void = () => undefined,
): Uint8Array {
  const edit = ({ metadata, tensors }: { metadata: Metadata; tensors: GgufWriteTensor[] }) =>
    change(metadata, tensors);
  return tinyModelGguf({
    architecture,
    hiddenSize: 32,
    heads: 2,
    kvHeads: 2,
    layers: 1,
    ffn: 32,
    type: 'F16',
    edit,
  });
}

function smallFolder(shards: number): Map<string, Uint8Array> {
  const sizes = { hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2 };
  const files = tinyFolder({ shards, config: { ...sizes, num_key_value_heads: 2 } });
  files.set(
    'tokenizer_config.json',
    utf8(JSON.stringify({ chat_template: TEMPLATE, bos_token: { content: 'x' } })),
  );
  files.set('generation_config.json', utf8(JSON.stringify({ eos_token_id: [0, 1] })));
  return files;
}

/** Of an empty cache, or of one with two sealed blocks and a window. */
function snapshotBytes(argument: string, tokens: number): Uint8Array {
  const model = tinyModel(TINY_GQA_CONFIG);
  const cache = model.createCache(argument);
  const inputs = randomInputs(model.projections, tokens, 1);
  for (const [i, layer] of cache.layers.entries()) if (tokens > 0) layer.append(inputs[i]);
  return writeSnapshot({
    cache,
    tokens: randomTokens(tokens),
    pending: randomTokens(5),
    fingerprint: FINGERPRINT,
    messages: [{ role: 'user', content: 'Hi' }],
  });
}

function factorBytes(): Uint8Array {
  return writeFactors([{ layer: 0, matrix: 'key' }], tinyModel(TINY_GQA_CONFIG).factors, FINGERPRINT);
}

function transformBytes(): Uint8Array {
  const { config, projections } = tinyModel(TINY_GQA_CONFIG);
  return writeCalibrationFile(
    sampleTransforms(projections, randomInputs(projections, 300, 1), config),
    FINGERPRINT,
  );
}

function npzBytes(level: 0 | 9): Uint8Array {
  const description = JSON.stringify({ operation: 'quantize', options: { bits: 4, groupSize: 32 } });
  return zipSync({ 'case.json': utf8(description), 'x.npy': npyBytes(), 'codes.npy': npyBytes() }, { level });
}

/** As {@link smallGguf}, with enough vocabulary for the tokens that are run. */
function engineModel(type: 'F16' | 'Q8_0' | 'Q4_0'): Uint8Array {
  return tinyModelGguf({ hiddenSize: 64, heads: 2, kvHeads: 2, layers: 4, ffn: 64, type });
}

function npyBytes(): Uint8Array {
  const header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }".padEnd(117) + '\n';
  return Uint8Array.from([
    0x93,
    ...utf8('NUMPY'),
    1,
    0,
    header.length,
    0,
    ...utf8(header),
    ...new Array(24).fill(0),
  ]);
}

function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
