/**
 * Weights in linear memory: matrices of a file as panels, vectors and tables as f32.
 *
 * @module
 */

import { NumericError } from '../errors.js';
import type { UnreadTensor } from '../model/weights.js';
import { type Matrix, matrix } from '../numerics/matrix.js';
import {
  findNonFiniteBlock,
  type ProductType,
  rewriteBlocks,
  WEIGHT_BLOCKS,
  weightBytes,
} from '../quant/weight-types.js';
import { ACTIVATION_TILE, panelBytes, tileBytes } from './kernels.js';
import type { LinearMemory } from './memory.js';
import { type Recorder, THREAD_SCRATCH } from './team.js';

/** A weight matrix of a file, as the product kernels take it. */
export interface PlacedMatrix {
  readonly type: ProductType;
  readonly rows: number;
  readonly columns: number;
  readonly pointer: number;
}

/** Whether the product of a weight type takes activations cut to integers. */
export function takesTile(type: ProductType): boolean {
  return type.startsWith('Q');
}

/** Bytes read and repacked at a time. */
const PIECE_BYTES = 1 << 20;

/**
 * Where the pieces of a file pass through: one piece of memory for all, since the garbage of one for each would come to
 * the size of the file.
 */
export class PieceBuffer {
  #bytes = new Uint8Array(0);

  /** At least so many bytes; those of the piece before are lost. */
  room(length: number): Uint8Array {
    if (this.#bytes.length < length) this.#bytes = new Uint8Array(length);
    return this.#bytes;
  }
}

/**
 * Copies a matrix into linear memory, in panels, piece by piece.
 *
 * @param tensor read
 * @throws {LoadError} if it cannot be read
 * @throws {MemoryError} if there is no room
 * @throws {NumericError} if a weight is NaN or infinite
 */
export async function placeMatrix(
  memory: LinearMemory,
  immediate: Recorder,
  tensor: UnreadTensor,
  buffer: PieceBuffer,
): Promise<PlacedMatrix> {
  const { name, rows, columns } = tensor;
  const { product: type } = WEIGHT_BLOCKS[tensor.type];
  const pointer = memory.allocate(panelBytes(type, rows, columns), `weights "${name}"`);
  const source = WEIGHT_BLOCKS[tensor.type].rewrite ? type : (tensor.type as RepackedType);
  const rowBytes = weightBytes(source, 1, columns);
  const fileRowBytes = weightBytes(tensor.type, 1, columns);
  const step = Math.max(8, Math.floor(PIECE_BYTES / rowBytes / 8) * 8);
  const staging = memory.allocate(Math.min(step, rows) * rowBytes, `weights "${name}"`);
  const kernel = source === 'BF16' ? 'repackF16' : (`repack${source}` as const);
  for (let from = 0; from < rows; from += step) {
    const count = Math.min(step, rows - from);
    const length = count * fileRowBytes;
    const bytes = await tensor.read(from * fileRowBytes, length, buffer.room(length));
    assertFiniteWeights(tensor, bytes, from * columns);
    memory.write(staging, rewriteBlocks(tensor.type, bytes));
    immediate.call(kernel, staging, count, columns, pointer + panelBytes(type, from, columns));
  }
  memory.free(staging);
  return { type, rows, columns, pointer };
}

/** Types whose blocks a repacking kernel reads as they are in the file. */
type RepackedType = ProductType | 'IQ4_XS';

/**
 * Reads a placed matrix back.
 *
 * @returns fresh, [rows, columns]: what `dequantizeWeights` gives
 */
export function readMatrix(memory: LinearMemory, immediate: Recorder, placed: PlacedMatrix): Matrix {
  const { type, rows, columns, pointer } = placed;
  const result = matrix(rows, columns);
  const line = memory.allocate(columns * 4, 'scratch');
  for (let r = 0; r < rows; r++) {
    immediate.call(`embed${type}`, pointer, rows, columns, r, line);
    result.data.set(memory.f32.subarray(line / 4, line / 4 + columns), r * columns);
  }
  memory.free(line);
  return result;
}

/** Copies f32 numbers into linear memory. */
export function placeFloats(memory: LinearMemory, values: Float32Array, purpose: string): number {
  return memory.write(memory.allocate(values.byteLength, purpose), values);
}

/**
 * Rows of activations, cut into chunks that a core's cache holds next to a panel of weights; each chunk has a
 * tile of its own.
 */
export interface Activations {
  /** f32 [rows, columns] */
  readonly floats: number;
  /** A tile for each chunk, `tileStride` bytes apart. */
  readonly tiles: number;
  readonly tileStride: number;
  readonly rows: number;
  readonly columns: number;
  /** Rows of a chunk. */
  readonly chunk: number;
}

/** Bytes of a chunk's integers: about half of a core's second-level cache. */
const CHUNK_BYTES = 192 * 1024;

/** Rows of a chunk for activations of a width. */
export function chunkRows(columns: number): number {
  return Math.min(128, Math.max(16, Math.floor(CHUNK_BYTES / 2 / columns / 4) * 4));
}

/** Bytes of the tiles of `rows` rows. */
export function activationTileBytes(
  rows: number,
  columns: number,
): { chunk: number; stride: number; bytes: number } {
  const chunk = Math.min(chunkRows(columns), rows);
  const stride = Math.ceil(tileBytes(chunk, columns, ACTIVATION_TILE.block) / 64) * 64;
  return { chunk, stride, bytes: stride * Math.ceil(rows / chunk) };
}

/** Visits the chunks of some rows. */
export function forEachChunk(
  { rows, chunk }: Pick<Activations, 'rows' | 'chunk'>,
  visit: (first: number, count: number, index: number) => void,
): void {
  for (let first = 0, index = 0; first < rows; first += chunk, index++) {
    visit(first, Math.min(chunk, rows - first), index);
  }
}

/**
 * Tasks of one product: a few for each thread, so that a slow thread does not hold up the stage. One for each when
 * few rows meet many weights: every task then starts a new stream of memory reads, which costs more.
 */
const TASKS_PER_THREAD = 3;
const FEW_ROWS = 4;

/**
 * Records `out = x W^T`, as tasks of the current stage.
 *
 * @param x its tiles are ready if the weight type takes them
 * @param out f32, element (row, output) at `row * outStride + output`
 */
export function recordLinear(
  recorder: Recorder,
  weights: PlacedMatrix,
  x: Activations,
  out: number,
  outStride = weights.rows,
): void {
  const { type, rows, columns, pointer } = weights;
  const chunks = Math.ceil(x.rows / x.chunk);
  const each = x.rows <= FEW_ROWS ? 1 : TASKS_PER_THREAD;
  const wanted = recorder.threads === 1 ? 1 : Math.ceil((recorder.threads * each) / chunks);
  const step = Math.max(8, Math.ceil(rows / wanted / 8) * 8);
  const tiled = takesTile(type);
  forEachChunk(x, (first, count, index) => {
    const source = tiled ? x.tiles + index * x.tileStride : x.floats + first * columns * 4;
    const target = out + first * outStride * 4;
    for (let from = 0; from < rows; from += step) {
      const to = Math.min(from + step, rows);
      recorder.task();
      recorder.call(
        `matmul${type}`,
        pointer + panelBytes(type, from, columns),
        source,
        count,
        columns,
        to - from,
        target + from * 4,
        outStride,
        THREAD_SCRATCH,
      );
    }
  });
}

/** Records the cutting of one chunk to integers, as part of the current task. */
export function recordTile(
  recorder: Recorder,
  x: Activations,
  first: number,
  count: number,
  index: number,
): void {
  const { block, limit } = ACTIVATION_TILE;
  const source = x.floats + first * x.columns * 4;
  recorder.call('quantizeTile', source, count, x.columns, block, limit, x.tiles + index * x.tileStride);
}

/**
 * Requires all weights of a piece to be finite. In the block formats only the scales can fail to be.
 *
 * @param first index of its first weight in the matrix
 * @throws {NumericError} names the tensor and the place
 */
function assertFiniteWeights({ name, type }: UnreadTensor, bytes: Uint8Array, first: number): void {
  const element = findNonFiniteBlock({ type, bytes });
  if (element < 0) return;
  const tensor = `${name}, element ${first + element}`;
  throw new NumericError('load', Number.NaN, { tensor }, 'a weight is not a finite number');
}
