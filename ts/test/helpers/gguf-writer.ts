/**
 * Writes GGUF files for tests, and tiny random models with a tokenizer inside.
 *
 * @module
 */

import { encodeFloat16, toFloat16Bits } from '../../src/numerics/float16.js';
import { WEIGHT_BLOCKS, type WeightType, weightBytes } from '../../src/quant/weight-types.js';

/** A metadata value. Integers become u32 or i32, other numbers f32; `{ u64 }` and `{ f64 }` are explicit. */
export type GgufWriteValue =
  | string
  | boolean
  | number
  | { readonly u64: bigint }
  | { readonly f64: number }
  | readonly string[]
  | Int32Array
  | Uint32Array
  | Float32Array
  | Uint8Array;

/** A tensor to write. */
export interface GgufWriteTensor {
  name: string;
  /** Outermost first, [rows, columns] or [length]. */
  shape: number[];
  /** A weight type, or ggml's number of another one. */
  type: WeightType | number;
  bytes: Uint8Array;
}

/** Writes a GGUF file. */
export function writeGguf(
  metadata: Readonly<Record<string, GgufWriteValue>>,
  tensors: readonly GgufWriteTensor[],
  options: { version?: number } = {},
): Uint8Array {
  const out = new ByteWriter();
  const alignment = Number(metadata['general.alignment'] ?? 32);
  out.bytes(new TextEncoder().encode('GGUF'));
  out.u32(options.version ?? 3);
  out.u64(BigInt(tensors.length));
  out.u64(BigInt(Object.keys(metadata).length));
  for (const [key, value] of Object.entries(metadata)) {
    out.string(key);
    writeValue(out, value);
  }
  let offset = 0;
  const padded = (length: number) => Math.ceil(length / alignment) * alignment;
  for (const { name, shape, type, bytes } of tensors) {
    out.string(name);
    out.u32(shape.length);
    for (const size of shape.toReversed()) out.u64(BigInt(size));
    out.u32(typeof type === 'number' ? type : WEIGHT_BLOCKS[type].ggml);
    out.u64(BigInt(offset));
    offset += padded(bytes.length);
  }
  out.bytes(new Uint8Array(padded(out.length) - out.length));
  for (const { bytes } of tensors) {
    out.bytes(bytes);
    out.bytes(new Uint8Array(padded(bytes.length) - bytes.length));
  }
  return out.finish();
}

function writeValue(out: ByteWriter, value: GgufWriteValue): void {
  if (typeof value === 'string') {
    out.u32(8);
    out.string(value);
  } else if (typeof value === 'boolean') {
    out.u32(7);
    out.bytes(Uint8Array.of(value ? 1 : 0));
  } else if (typeof value === 'number') {
    if (!Number.isInteger(value)) {
      out.u32(6);
      out.bytes(new Uint8Array(Float32Array.of(value).buffer));
    } else {
      out.u32(value < 0 ? 5 : 4);
      out.u32(value >>> 0);
    }
  } else if ('u64' in value) {
    out.u32(10);
    out.u64(value.u64);
  } else if ('f64' in value) {
    out.u32(12);
    out.bytes(new Uint8Array(Float64Array.of(value.f64).buffer));
  } else if (ArrayBuffer.isView(value)) {
    const type = { Uint8Array: 0, Uint32Array: 4, Int32Array: 5, Float32Array: 6 }[value.constructor.name];
    if (type === undefined) throw new TypeError(`no array of ${value.constructor.name}`);
    out.u32(9);
    out.u32(type);
    out.u64(BigInt(value.length));
    out.bytes(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
  } else {
    out.u32(9);
    out.u32(8);
    out.u64(BigInt(value.length));
    for (const each of value) out.string(each);
  }
}

/** What a tiny model looks like. */
export interface TinyModelOptions {
  architecture?: 'llama' | 'qwen2' | 'qwen3';
  hiddenSize?: number;
  layers?: number;
  heads?: number;
  kvHeads?: number;
  headDim?: number;
  ffn?: number;
  vocab?: number;
  context?: number;
  /** Of the matrices; norms and biases are F32. */
  type?: WeightType;
  seed?: number;
  tied?: boolean;
  /** Stored as `rope_freqs.weight`. [headDim / 2] */
  ropeDivisors?: Float32Array;
  /** Size of the random weights. */
  scale?: number;
  /** Changes the file before it is written, for tests of bad files. */
  edit?: (file: { metadata: Record<string, GgufWriteValue>; tensors: GgufWriteTensor[] }) => void;
}

/**
 * A random model as a GGUF file. Its tokenizer is byte-level BPE: id 0 is `<|endoftext|>`, 1 to 256 are the
 * bytes, then a few merges, then unused tokens up to `vocab`.
 */
export function tinyModelGguf(options: TinyModelOptions = {}): Uint8Array {
  const { architecture = 'llama', hiddenSize = 64, layers = 2, heads = 4, kvHeads = 2, ffn = 96 } = options;
  const { vocab = 288, context = 256, type = 'F32', seed = 1, tied = true, scale = 0.08 } = options;
  const headDim = options.headDim ?? hiddenSize / heads;
  const random = generator(seed);
  const [queryDim, kvDim] = [heads * headDim, kvHeads * headDim];

  const metadata: Record<string, GgufWriteValue> = {
    'general.architecture': architecture,
    'general.name': `tiny ${architecture}`,
    [`${architecture}.context_length`]: context,
    [`${architecture}.embedding_length`]: hiddenSize,
    [`${architecture}.block_count`]: layers,
    [`${architecture}.feed_forward_length`]: ffn,
    [`${architecture}.attention.head_count`]: heads,
    [`${architecture}.attention.head_count_kv`]: kvHeads,
    [`${architecture}.attention.key_length`]: headDim,
    [`${architecture}.attention.value_length`]: headDim,
    [`${architecture}.attention.layer_norm_rms_epsilon`]: 1e-5,
    [`${architecture}.rope.freq_base`]: 10000,
    ...tinyTokenizer(vocab),
  };
  const tensors: GgufWriteTensor[] = [];
  const matrix = (name: string, rows: number, columns: number) => {
    tensors.push({
      name,
      shape: [rows, columns],
      type,
      bytes: randomWeights(type, rows, columns, scale, random),
    });
  };
  const vector = (name: string, length: number, center: number) => {
    const values = Float32Array.from({ length }, () => center + 0.1 * normal(random));
    tensors.push({ name, shape: [length], type: 'F32', bytes: new Uint8Array(values.buffer) });
  };

  matrix('token_embd.weight', vocab, hiddenSize);
  for (let i = 0; i < layers; i++) {
    const at = `blk.${i}.`;
    vector(`${at}attn_norm.weight`, hiddenSize, 1);
    matrix(`${at}attn_q.weight`, queryDim, hiddenSize);
    matrix(`${at}attn_k.weight`, kvDim, hiddenSize);
    matrix(`${at}attn_v.weight`, kvDim, hiddenSize);
    matrix(`${at}attn_output.weight`, hiddenSize, queryDim);
    if (architecture === 'qwen2') {
      vector(`${at}attn_q.bias`, queryDim, 0);
      vector(`${at}attn_k.bias`, kvDim, 0);
      vector(`${at}attn_v.bias`, kvDim, 0);
    }
    if (architecture === 'qwen3') {
      vector(`${at}attn_q_norm.weight`, headDim, 1);
      vector(`${at}attn_k_norm.weight`, headDim, 1);
    }
    vector(`${at}ffn_norm.weight`, hiddenSize, 1);
    matrix(`${at}ffn_gate.weight`, ffn, hiddenSize);
    matrix(`${at}ffn_up.weight`, ffn, hiddenSize);
    matrix(`${at}ffn_down.weight`, hiddenSize, ffn);
  }
  vector('output_norm.weight', hiddenSize, 1);
  if (!tied) matrix('output.weight', vocab, hiddenSize);
  if (options.ropeDivisors) {
    const bytes = new Uint8Array(options.ropeDivisors.slice().buffer);
    tensors.push({ name: 'rope_freqs.weight', shape: [headDim / 2], type: 'F32', bytes });
  }
  options.edit?.({ metadata, tensors });
  return writeGguf(metadata, tensors);
}

const MERGES = ['Ġ t', 'h e', 'Ġt he', 'i n', 'Ġ a', 'e r', 'a n', 'an d', 'Ġ and', 'o u'];

function tinyTokenizer(vocab: number): Record<string, GgufWriteValue> {
  const tokens = ['<|endoftext|>', ...byteCharacters(), ...MERGES.map((merge) => merge.replace(' ', ''))];
  if (vocab < tokens.length) throw new RangeError(`"vocab" must be at least ${tokens.length}, got ${vocab}`);
  const types = new Int32Array(vocab).fill(5);
  types.fill(1, 0, tokens.length);
  types[0] = 3;
  while (tokens.length < vocab) tokens.push(`[unused ${tokens.length}]`);
  return {
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': 'gpt-2',
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.token_type': types,
    'tokenizer.ggml.merges': MERGES,
    'tokenizer.ggml.eos_token_id': 0,
    'tokenizer.ggml.add_bos_token': false,
  };
}

/** GPT-2's character of each byte. */
export function byteCharacters(): string[] {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable =
      (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
    return String.fromCharCode(printable ? byte : next++);
  });
}

/** Random weights of any type: floats, or random codes under scales that give about the same size. */
function randomWeights(
  type: WeightType,
  rows: number,
  columns: number,
  scale: number,
  random: () => number,
): Uint8Array {
  if (type === 'F32' || type === 'F16' || type === 'BF16') {
    const values = Float32Array.from({ length: rows * columns }, () => scale * normal(random));
    if (type === 'F32') return new Uint8Array(values.buffer);
    if (type === 'F16') return new Uint8Array(encodeFloat16(values).buffer);
    return new Uint8Array(Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16).buffer);
  }
  const bytes = Uint8Array.from({ length: weightBytes(type, rows, columns) }, () => random() * 256);
  // Spread of the integer that the scale multiplies, and the size of what the min multiplies.
  const spreads = { Q8_0: 74, Q4_0: 4.6, Q4_1: 4.6, Q5_0: 9.2, Q5_1: 9.2, Q2_K: 14, Q3_K: 41 };
  const more = { Q4_K: 180, Q5_K: 370, Q6_K: 1370, IQ4_NL: 70, IQ4_XS: 1300, MXFP4: 4 };
  const spread = { ...spreads, ...more }[type];
  const view = new DataView(bytes.buffer);
  for (let block = 0; block < bytes.length; block += WEIGHT_BLOCKS[type].bytes) {
    if (type === 'MXFP4') {
      bytes[block] = 127 + Math.round(Math.log2(scale / spread));
      continue;
    }
    const { at } = WEIGHT_BLOCKS[type].floats;
    view.setUint16(block + at[0], toFloat16Bits(scale / spread), true);
    // The min that centers the codes: ggml subtracts it in the K formats and adds it in Q4_1 and Q5_1.
    const codes = { Q4_1: -7.5, Q5_1: -15.5, Q2_K: 1.5, Q4_K: 7.5, Q5_K: 15.5 } as Record<string, number>;
    if (at.length > 1) view.setUint16(block + at[1], toFloat16Bits((codes[type] * scale) / spread), true);
  }
  return bytes;
}

/** A seeded uniform generator on [0, 1) (mulberry32). */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function normal(random: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

class ByteWriter {
  length = 0;
  private readonly parts: Uint8Array[] = [];

  bytes(part: Uint8Array): void {
    this.parts.push(part);
    this.length += part.length;
  }

  u32(value: number): void {
    this.bytes(new Uint8Array(Uint32Array.of(value).buffer));
  }

  u64(value: bigint): void {
    this.bytes(new Uint8Array(BigUint64Array.of(value).buffer));
  }

  string(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.u64(BigInt(bytes.length));
    this.bytes(bytes);
  }

  finish(): Uint8Array {
    const whole = new Uint8Array(this.length);
    let at = 0;
    for (const part of this.parts) {
      whole.set(part, at);
      at += part.length;
    }
    return whole;
  }
}
