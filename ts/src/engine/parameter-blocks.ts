/**
 * Parameter blocks: a kernel that needs more than eight numbers takes the address of one block of them.
 *
 * A call names the fields. They are recorded in the order of this table, and the thread that makes the call writes
 * them to {@link PARAMETERS} in its part of the first page of linear memory, four bytes each. as/parameters.ts has the
 * same fields in the same order.
 *
 * @module
 */

/** Rows and one block of keys and values. */
const ATTEND = [
  /** f32 [queries, heads, headDim], after RoPE. */
  'q',
  'heads',
  'kvHeads',
  'headDim',
  /** f32 from `finishKeys`. Of `attendHalfBlock`: f16 [tokens, kvHeads, headDim] before RoPE, otherwise finished. */
  'keys',
  'tokens',
  /**
   * f32 (`attendHalfBlock`: f16), `width` numbers of token t for KV head g at element
   * `t * valueStride + g * valueHeadStride`: values [tokens, kvHeads, headDim] with valueHeadStride = headDim, or
   * latents (or X^) [tokens, width] shared by all heads with valueHeadStride = 0.
   */
  'values',
  'valueStride',
  'valueHeadStride',
  /** A multiple of 4. */
  'width',
  /** f32. Multiplies scores. */
  'scale',
  /** Position of the first query; the others follow one by one. */
  'firstQuery',
  /** Position of the first token of the block. */
  'firstKey',
  /** f32 [queries, heads] */
  'maxima',
  /** f32 [queries, heads] */
  'sums',
  /** f32 [queries, heads, width] */
  'acc',
  /** KV heads [headStart, headEnd) and queries [queryStart, queryEnd) of this call. */
  'headStart',
  'headEnd',
  'queryStart',
  'queryEnd',
  /** Tokens that a query sees, its own included; 0 for all. */
  'window',
  /** `attendScratchBytes`, or `attendHalfScratchBytes` */
  'scratch',
] as const;

/** Codes of a matrix [rows, columns] and their parameters; any alignment, `scales` and `mins` of 2. */
const CODES = [
  'packed',
  /** f16 */
  'scales',
  /** f16 */
  'mins',
  'rows',
  'columns',
  'bits',
  'groupSize',
  /** `quantizeScratchBytes` */
  'scratch',
] as const;

const QUANTIZE = [
  ...CODES,
  /** f32 [rows, columns] */
  'source',
  /** `RANGE_CODES` */
  'range',
] as const;

const DEQUANTIZE = [
  ...CODES,
  /** f32 [rows, columns] */
  'target',
] as const;

const UNPACK_TILE = [
  ...CODES,
  /** 0: scale and offset of a block are those of its group. 1: they are 1; at most one group of tokens. */
  'perChannel',
  /** Columns of a block, at most 256. Divides `groupSize`, or both reach `columns`. */
  'block',
  /** `tileBytes` */
  'tile',
] as const;

/** The fields of each kernel that takes a block, in order. */
export const PARAMETER_BLOCKS = {
  attendBlock: ATTEND,
  /** The RoPE tables and the layout (`ROPE_CODES`) besides. */
  attendHalfBlock: [...ATTEND, 'cos', 'sin', 'layout'],
  quantizeRows: QUANTIZE,
  quantizeColumns: QUANTIZE,
  dequantizeRows: DEQUANTIZE,
  dequantizeColumns: DEQUANTIZE,
  dequantizeAddRows: DEQUANTIZE,
  dequantizeAddColumns: DEQUANTIZE,
  unpackTile: UNPACK_TILE,
  unpackTileInt8: UNPACK_TILE,
  /** `source` is overwritten by the difference; the values of the codes are added to `accumulator`. */
  crossLayerEncode: [...QUANTIZE, 'accumulator', 'perChannel'],
} as const;

/** Names of the kernels that take a block. */
export type BlockKernel = keyof typeof PARAMETER_BLOCKS;

/** The block of a kernel. */
export type ParameterBlock<K extends BlockKernel> = Readonly<
  Record<(typeof PARAMETER_BLOCKS)[K][number], number>
>;

/** Fields that are f32; all others are 32-bit integers. */
const FLOAT_FIELDS: readonly string[] = ['scale'];

/** Where the block of thread 0 lies; the kernels have no constants there. Those of other threads follow. */
export const PARAMETERS = 32768;

/** Bytes from thread to thread. */
export const PARAMETER_BYTES = 256;

/** Whether a kernel takes a block. */
export function takesBlock(kernel: string): kernel is BlockKernel {
  return Object.hasOwn(PARAMETER_BLOCKS, kernel);
}

/** The values of a block in order. */
export function blockValues<K extends BlockKernel>(kernel: K, block: ParameterBlock<K>): number[] {
  const fields: readonly string[] = PARAMETER_BLOCKS[kernel];
  const named = block as Readonly<Record<string, number>>;
  const values = new Array<number>(fields.length);
  for (let i = 0; i < fields.length; i++) values[i] = named[fields[i]];
  return values;
}

/** Whether each field of a kernel's block is f32; undefined for kernels that take no block. */
export function floatFields(kernel: string): readonly boolean[] | undefined {
  if (!takesBlock(kernel)) return undefined;
  return PARAMETER_BLOCKS[kernel].map((field) => FLOAT_FIELDS.includes(field));
}
