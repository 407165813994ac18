/**
 * Products with the matrices of a calibrated basis, without what is known to be zero: blocks off the diagonal, and
 * channels that have no bits.
 *
 * @module
 */

import { type Matrix, matrix } from '../../numerics/matrix.js';
import { type SymmetricFormat, symmetricGroups } from '../../quant/symmetric.js';
import type { TensorPlace } from '../block-layout.js';
import type { SmallProduct } from '../small-product.js';
import type { Recorder } from '../team.js';
import type { ThreadScratch } from '../thread-scratch.js';

/** A product with a square matrix that has blocks along its diagonal. */
export class BlockProduct {
  readonly #parts: readonly SmallProduct[];
  readonly #width: number;

  /** @param parts products with the blocks, in order */
  constructor(parts: readonly SmallProduct[]) {
    this.#parts = parts;
    this.#width = parts.reduce((sum, { inputs }) => sum + inputs, 0);
  }

  /** The product with one block. */
  part(index: number): SmallProduct {
    return this.#parts[index];
  }

  /** The product with the second half of the blocks. */
  secondHalf(): BlockProduct {
    return new BlockProduct(this.#parts.slice(this.#parts.length / 2));
  }

  /**
   * Records the product with rows.
   *
   * @param rows f32 [count, width], read
   * @param out f32 [count, width]
   * @param slice for the columns of one block, f32 [count, channels of a block]; overwritten if there are several
   * @param accumulate whether to add to `out`
   */
  recordRows(
    recorder: Recorder,
    rows: number,
    count: number,
    out: number,
    slice: number,
    scratch: ThreadScratch,
    accumulate = false,
  ): void {
    const stride = this.#width;
    let first = 0;
    for (const part of this.#parts) {
      const { inputs } = part;
      const dense = inputs === stride ? rows : slice;
      if (dense === slice) recorder.call('copyRows', rows + first * 4, stride, slice, inputs, count, inputs);
      part.recordRows(recorder, dense, count, out + first * 4, scratch, { stride, accumulate });
      first += inputs;
    }
  }
}

/** The square blocks along the diagonal of a matrix from a channel on; fresh. */
export function diagonalBlocks({ columns, data }: Matrix, sizes: readonly number[], first = 0): Matrix[] {
  let from = first;
  return sizes.map((size) => {
    const block = matrix(size, size);
    for (let r = 0; r < size; r++) {
      const at = (from + r) * columns + from;
      block.data.set(data.subarray(at, at + size), r * size);
    }
    from += size;
    return block;
  });
}

/** Channels of a tensor in symmetric codes, and the weights that they meet. */
export interface ChannelWeights {
  readonly format: SymmetricFormat;
  /** Channels [first, end). */
  readonly first: number;
  readonly end: number;
  /** W [outputs, channels of the tensor] */
  readonly weights: Matrix;
  /** Rows of W: [from, to). */
  readonly outputs: readonly [from: number, to: number];
  /** t: what is added to the values of the channels, those without bits included. [channels of the tensor] */
  readonly offset: Float32Array;
}

/** The codes of one group of tokens of some channels; offsets in bytes from the tensor's. */
interface CodePiece {
  readonly token: number;
  readonly count: number;
  readonly codes: number;
  readonly scales: number;
}

/**
 * The product of symmetric codes with weights: `(t + z^) W^T` from the codes of z, without making rows of values.
 *
 *     z^[t, c] = (2 code + 1 - 2^b) * s[c] / 2
 *     out[t, j] = sum over c of  (2 code + 1 - 2^b) * (s[c] W[j, c] / 2)  +  sum of t[c] W[j, c]
 *
 * As for any codes with a scale a channel, the scales go into the weights of each group of tokens, inside the kernel.
 */
export class ChannelProduct {
  readonly #from: ChannelWeights;
  /** Channels that have bits. */
  readonly #live: readonly number[];
  readonly #outputs: number;
  /** f32 [outputs, live rounded up to a multiple of 8], halved, zeros behind. */
  readonly #weights: number;
  /** f32 [outputs] */
  readonly #offsets: number;
  /** u8 [live] */
  readonly #bits: number;
  /** By the rows of the tensor, of which blocks have one of two numbers. */
  readonly #pieces = new Map<number, readonly CodePiece[]>();

  /** @param vector puts a vector into linear memory, where it belongs to the plan */
  constructor(from: ChannelWeights, vector: (values: Float32Array | Uint8Array) => number) {
    const { format, first, end, weights, outputs, offset } = from;
    const { data, columns } = weights;
    const channels = Array.from({ length: end - first }, (_, i) => first + i);
    const live = channels.filter((channel) => format.channelBits[channel] > 0);
    const rows = Array.from({ length: outputs[1] - outputs[0] }, (_, i) => (outputs[0] + i) * columns);
    this.#from = from;
    this.#live = live;
    this.#outputs = rows.length;
    const stride = padTo8(live.length);
    const halves = new Float32Array(rows.length * stride);
    for (const [j, row] of rows.entries()) {
      for (const [i, channel] of live.entries()) halves[j * stride + i] = data[row + channel] / 2;
    }
    this.#weights = vector(halves);
    const sum = (row: number) => channels.reduce((total, c) => total + offset[c] * data[row + c], 0);
    this.#offsets = vector(Float32Array.from(rows, sum));
    this.#bits = vector(Uint8Array.from(live, (channel) => format.channelBits[channel]));
  }

  /**
   * Records the product for a sealed tensor.
   *
   * @param block pointer to the block
   * @param rows of the tensor
   * @param out f32, element (token, output) at `token * stride + output`
   */
  record(
    recorder: Recorder,
    place: TensorPlace,
    block: number,
    rows: number,
    out: number,
    stride: number,
    scratch: ThreadScratch,
  ): void {
    const outputs = this.#outputs;
    const channels = this.#live.length;
    if (channels === 0) {
      recorder.call('copyRows', this.#offsets, 0, out, stride, rows, outputs);
      return;
    }
    const { tile, weights: panel, quantize } = scratch;
    const { data, scales } = place;
    for (const piece of this.#piecesOf(rows)) {
      recorder.call(
        'multiplySymmetric',
        block + data + piece.codes,
        this.#bits,
        block + scales + piece.scales,
        piece.count,
        channels,
        this.#weights,
        this.#offsets,
        outputs,
        out + piece.token * stride * 4,
        stride,
        tile,
        panel,
        quantize,
      );
    }
  }

  #piecesOf(rows: number): readonly CodePiece[] {
    const known = this.#pieces.get(rows);
    if (known) return known;
    const { format } = this.#from;
    const [first] = this.#live;
    const pieces = symmetricGroups(rows, format)
      .filter(({ channel }) => channel === first)
      .map(({ token, count, byteOffset, index }) => ({ token, count, codes: byteOffset, scales: 2 * index }));
    this.#pieces.set(rows, pieces);
    return pieces;
  }
}

/** Bytes of a {@link ChannelProduct} in linear memory. */
export function channelProductBytes(outputs: number, live: number): number {
  return 4 * outputs * padTo8(live) + 4 * outputs + live;
}

function padTo8(count: number): number {
  return Math.ceil(count / 8) * 8;
}
