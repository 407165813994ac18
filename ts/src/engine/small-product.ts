/**
 * Products of stored blocks, or of f32 rows, with the small matrices of a cache: rematerialization.
 *
 * Three ways lead from a sealed tensor to its product, all without writing dequantized rows where possible
 * (the algebra is in docs/numerics.md):
 *
 *     per token       codes times integer weights; scale and minimum of a group enter once per group
 *     per channel     the block's scales go into the weights, then codes times integer weights
 *     anything else   dequantize, cut to integers, multiply
 *
 * @module
 */

import type { Matrix } from '../numerics/matrix.js';
import type { GroupedOptions } from '../quant/grouped.js';
import type { ChannelRun } from '../quant/symmetric.js';
import { isGrouped, type PlacedFormat, type TensorPlace } from './block-layout.js';
import { INTEGER_LIMITS, packedWeightsBytes, RANGE_CODES } from './kernels.js';
import type { LinearMemory } from './memory.js';
import type { Recorder } from './team.js';
import type { ThreadScratch } from './thread-scratch.js';

/**
 * How precisely key weights are kept: `exact` to 2^-14 of a block's largest weight or better, `int8` in 8 bits,
 * which the byte products of relaxed SIMD need.
 */
export type KeyWeights = 'exact' | 'int8';

/** The choices of {@link KeyWeights}. */
export const KEY_WEIGHTS: readonly KeyWeights[] = ['exact', 'int8'];

/** The uses of a product. */
export interface SmallProductUse {
  /** The format of the stored tensors it multiplies, if it does. */
  readonly format?: PlacedFormat;
  /** Tokens of a block. */
  readonly tokens: number;
  /** Whether f32 rows are multiplied, too. */
  readonly rows: boolean;
  /** Whether codes become f32 rows first: slower, and spares the memory of weights that meet codes. */
  readonly dequantize?: boolean;
  readonly keyWeights: KeyWeights;
}

/** Block of f32 rows in exact products, and of their weights. */
const FLOAT_BLOCK = 32;
/** Block of codes, of 8-bit weights and of weights scaled per channel. */
const CODE_BLOCK = 128;
/** Limit of f32 rows that meet 8-bit weights. */
const WIDE_ROW_LIMIT = 32767;

interface Packed {
  readonly pointer: number;
  readonly block: number;
}

/** A matrix W [outputs, inputs] and the ways to compute `stored W^T` and `rows W^T`. */
export class SmallProduct {
  readonly outputs: number;
  readonly inputs: number;
  readonly #memory: LinearMemory;
  readonly #use: SmallProductUse;
  readonly #route: 'codes' | 'perChannel' | 'rows';
  readonly #bytesProduct: boolean;
  /** For codes. */
  #codes: Packed | undefined;
  /** For f32 rows. */
  #rows: Packed | undefined;
  /** f32 [outputs, inputs], for weights that are scaled block by block. */
  #floats = 0;

  /**
   * @param weights [outputs, inputs], read
   * @throws {MemoryError} if there is no room
   */
  constructor(memory: LinearMemory, immediate: Recorder, weights: Matrix, use: SmallProductUse) {
    this.outputs = weights.rows;
    this.inputs = weights.columns;
    this.#memory = memory;
    this.#use = use;
    this.#route = route(use);
    const { format } = use;
    const bits = isGrouped(format) ? format.bits : 8;
    this.#bytesProduct = use.keyWeights === 'int8' && bits <= 4 && this.#route !== 'rows';
    const floats = memory.allocate(weights.data.byteLength, 'weights of the cache');
    try {
      memory.write(floats, weights.data);
      this.#pack(immediate, floats);
    } catch (error) {
      memory.free(floats);
      this.dispose();
      throw error;
    }
    if (this.#route === 'perChannel') this.#floats = floats;
    else memory.free(floats);
  }

  /** Bytes in linear memory. */
  get bytes(): number {
    const size = (packed: Packed | undefined) =>
      packed ? packedWeightsBytes(this.outputs, this.inputs, packed.block) : 0;
    return size(this.#codes) + size(this.#rows) + (this.#floats ? this.outputs * this.inputs * 4 : 0);
  }

  /**
   * Records `dequantize(tensor) W^T` of a sealed block.
   *
   * @param place of the tensor in its block
   * @param block pointer to the block
   * @param tokens rows of the tensor, at most those of a block
   * @param out f32 [tokens, outputs]
   */
  recordStored(
    recorder: Recorder,
    place: TensorPlace,
    block: number,
    tokens: number,
    out: number,
    scratch: ThreadScratch,
  ): void {
    const { outputs, inputs } = this;
    if (this.#route === 'rows') {
      recordLoad(recorder, place, block, tokens, scratch.rows, scratch);
      this.recordRows(recorder, scratch.rows, tokens, out, scratch);
      return;
    }
    const { bits, groupSize } = place.format as GroupedOptions;
    const bytes = this.#bytesProduct;
    const perChannel = this.#route === 'perChannel' ? 1 : 0;
    const size = this.#codes?.block ?? CODE_BLOCK;
    const scales = block + place.scales;
    const mins = block + place.mins;
    let weights = this.#codes?.pointer ?? scratch.weights;
    if (perChannel) {
      weights = scratch.weights;
      const suffix = bytes ? 'Int8' : '';
      this.#recordPack(recorder, this.#floats, weights, INTEGER_LIMITS.codes, size, scales, mins, suffix);
    }
    const { tile } = scratch;
    recorder.call(bytes ? 'unpackTileInt8' : 'unpackTile', {
      packed: block + place.data,
      scales,
      mins,
      rows: tokens,
      columns: inputs,
      bits,
      groupSize,
      scratch: scratch.quantize,
      perChannel,
      block: size,
      tile,
    });
    const product = bytes ? 'matmulTileInt8' : 'matmulTile';
    recorder.call(product, weights, tile, tokens, inputs, size, outputs, out, outputs);
  }

  /**
   * Records `rows W^T`.
   *
   * @param rows f32 [count, inputs], read
   * @param out f32, element (row, output) at `row * stride + output`
   * @param options outputs to compute (default all; `from` a multiple of 8), stride (default `outputs`), whether to add to `out`
   */
  recordRows(
    recorder: Recorder,
    rows: number,
    count: number,
    out: number,
    scratch: ThreadScratch,
    options: { from?: number; to?: number; stride?: number; accumulate?: boolean } = {},
  ): void {
    const { from = 0, to = this.outputs, stride = this.outputs, accumulate = false } = options;
    const { pointer, block } = this.#rows as Packed;
    const limit = block === FLOAT_BLOCK ? INTEGER_LIMITS.float : WIDE_ROW_LIMIT;
    const { inputs } = this;
    const { tile } = scratch;
    recorder.call('quantizeTile', rows, count, inputs, block, limit, tile);
    const product = accumulate ? 'matmulTileFloatAdd' : 'matmulTileFloat';
    const weights = pointer + packedWeightsBytes(from, inputs, block);
    recorder.call(product, weights, tile, count, inputs, block, to - from, out + from * 4, stride);
  }

  /** Gives the memory back. */
  dispose(): void {
    for (const pointer of [this.#codes?.pointer, this.#rows?.pointer, this.#floats]) {
      if (pointer) this.#memory.free(pointer);
    }
    this.#codes = undefined;
    this.#rows = undefined;
    this.#floats = 0;
  }

  #pack(immediate: Recorder, floats: number): void {
    const { rows, format, keyWeights } = this.#use;
    const int8 = keyWeights === 'int8';
    if (rows || (this.#route === 'rows' && format)) {
      const block = int8 ? CODE_BLOCK : FLOAT_BLOCK;
      const limit = int8 ? INTEGER_LIMITS.int8 : INTEGER_LIMITS.float;
      this.#rows = { pointer: this.#take(block), block };
      this.#recordPack(immediate, floats, this.#rows.pointer, limit, block, 0, 0, '');
    }
    if (isGrouped(format) && this.#route === 'codes') {
      const block = codeBlock(format.groupSize);
      const limit = int8 ? INTEGER_LIMITS.int8 : INTEGER_LIMITS.codes;
      this.#codes = { pointer: this.#take(block), block };
      const suffix = this.#bytesProduct ? 'Int8' : '';
      this.#recordPack(immediate, floats, this.#codes.pointer, limit, block, 0, 0, suffix);
    }
  }

  #take(block: number): number {
    return this.#memory.allocate(
      packedWeightsBytes(this.outputs, this.inputs, block),
      'weights of the cache',
    );
  }

  #recordPack(
    recorder: Recorder,
    floats: number,
    target: number,
    limit: number,
    block: number,
    scales: number,
    mins: number,
    suffix: '' | 'Int8',
  ): void {
    const { outputs, inputs } = this;
    if (suffix) recorder.call('packWeightsInt8', floats, outputs, inputs, block, scales, mins, target);
    else recorder.call('packWeights', floats, outputs, inputs, block, limit, scales, mins, target);
  }
}

/** Bytes that the weights of a {@link SmallProduct} take, [outputs, inputs] in all forms that its use needs. */
export function smallProductBytes(outputs: number, inputs: number, use: SmallProductUse): number {
  const { rows, format, keyWeights } = use;
  const way = route(use);
  const packed = (block: number) => packedWeightsBytes(outputs, inputs, block);
  let bytes = 0;
  if (rows || (way === 'rows' && format)) bytes += packed(keyWeights === 'int8' ? CODE_BLOCK : FLOAT_BLOCK);
  if (way === 'codes') bytes += packed(codeBlock((format as GroupedOptions).groupSize));
  return bytes + (way === 'perChannel' ? outputs * inputs * 4 : 0);
}

/** Records the values of a stored tensor: f32 [tokens, columns] into `target`. */
export function recordLoad(
  recorder: Recorder,
  place: TensorPlace,
  block: number,
  tokens: number,
  target: number,
  scratch: ThreadScratch,
): void {
  const { format, columns } = place;
  const at = block + place.data;
  if (format === 'f16') recorder.call('decodeFloat16', at, target, tokens * columns);
  else if (format === 'f32') recorder.call('copyBytes', at, target, tokens * columns * 4);
  else recordDequantize(recorder, place, block, tokens, target, scratch, false);
}

/** Records `target = dequantize(tensor)`, or `target += ...`; symmetric codes, which are differences, can only be added. */
export function recordDequantize(
  recorder: Recorder,
  place: TensorPlace,
  block: number,
  tokens: number,
  target: number,
  scratch: ThreadScratch,
  add: boolean,
): void {
  const { format } = place;
  if (!isGrouped(format)) {
    if (!add) throw new TypeError('symmetric codes are added to what they are a difference to');
    recordRuns(recorder, place, place.runs, block, target, place.columns, scratch);
    return;
  }
  const { bits, groupSize, grouping } = format;
  const shape = grouping === 'perToken' ? 'Rows' : 'Columns';
  recorder.call(`dequantize${add ? 'Add' : ''}${shape}`, {
    packed: block + place.data,
    scales: block + place.scales,
    mins: block + place.mins,
    rows: tokens,
    columns: place.columns,
    bits,
    groupSize,
    scratch: scratch.quantize,
    target,
  });
}

/**
 * Records the storing of f32 rows as a tensor of a sealed block.
 *
 * @param source f32 [tokens, columns], read
 * @param fail makes the error for a group (or value) that cannot be stored
 */
export function recordStore(
  recorder: Recorder,
  place: TensorPlace,
  source: number,
  block: number,
  tokens: number,
  scratch: ThreadScratch,
  fail: (result: number) => Error,
): void {
  const { format, columns } = place;
  const at = block + place.data;
  if (format === 'f16') recorder.check(fail, 'encodeFloat16', source, at, tokens * columns);
  else if (format === 'f32') recorder.call('copyBytes', source, at, tokens * columns * 4);
  else if (!isGrouped(format)) recordStoreSymmetric(recorder, place, source, block, scratch, fail);
  else {
    const kernel = format.grouping === 'perToken' ? 'quantizeRows' : 'quantizeColumns';
    const { bits, groupSize, range } = format;
    recorder.check(fail, kernel, {
      packed: at,
      scales: block + place.scales,
      mins: block + place.mins,
      rows: tokens,
      columns,
      bits,
      groupSize,
      scratch: scratch.quantize,
      source,
      range: RANGE_CODES[range],
    });
  }
}

function recordStoreSymmetric(
  recorder: Recorder,
  place: TensorPlace,
  source: number,
  block: number,
  scratch: ThreadScratch,
  fail: (group: number) => Error,
): void {
  const { columns } = place;
  for (const { index, token, channel, channels, bits, count, byteOffset } of place.runs) {
    const from = source + (token * columns + channel) * 4;
    const codes = block + place.data + byteOffset;
    const scales = block + place.scales + 2 * index;
    const failAt = (which: number) => fail(index + which);
    const space = scratch.quantize;
    recorder.check(failAt, 'quantizeSymmetric', from, count, columns, channels, bits, codes, scales, space);
  }
}

/**
 * Records the values of symmetric codes.
 *
 * @param runs of the tensor: those whose values are wanted
 * @param target element (token, channel) is at `token * stride + channel`
 * @param offsets f32 [channels], which the values are added to; 0 for what `target` holds
 */
export function recordRuns(
  recorder: Recorder,
  place: TensorPlace,
  runs: readonly ChannelRun[],
  block: number,
  target: number,
  stride: number,
  scratch: ThreadScratch,
  offsets = 0,
): void {
  const { quantize } = scratch;
  for (const { index, token, channel, channels, bits, count, byteOffset } of runs) {
    const to = target + (token * stride + channel) * 4;
    const codes = block + place.data + byteOffset;
    const scales = block + place.scales + 2 * index;
    const from = offsets && offsets + channel * 4;
    recorder.call('dequantizeSymmetric', codes, scales, from, count, stride, channels, bits, to, quantize);
  }
}

/** The way from the stored tensor to the product. */
function route({ format, tokens, dequantize }: SmallProductUse): 'codes' | 'perChannel' | 'rows' {
  if (dequantize || !isGrouped(format) || format.groupSize % 8 !== 0) return 'rows';
  if (format.grouping === 'perToken') return 'codes';
  return tokens <= format.groupSize ? 'perChannel' : 'rows';
}

/** The largest block that the kernels take and that divides the group. */
function codeBlock(groupSize: number): number {
  for (let block = 256; block > 8; block -= 8) if (groupSize % block === 0) return block;
  return 8;
}
