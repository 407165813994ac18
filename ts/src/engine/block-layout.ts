/**
 * The places of a cache's tensors within the blocks and the window of a layer: the reference's bytes, part by part.
 *
 *     [ tensor 0: packed codes | scales | mins ] [ tensor 1: ... ]      each part on a 16-byte boundary
 *
 * @module
 */

import { exactFormat, sinkName, sinksOf, type TensorLayout, type WindowTensor } from '../cache/layout.js';
import type { CacheOptions } from '../cache/options.js';
import type { StorageFormat } from '../cache/stored-matrix.js';
import { type GroupedOptions, groupedSizes } from '../quant/grouped.js';
import { type ChannelRun, type SymmetricFormat, symmetricRuns, symmetricSizes } from '../quant/symmetric.js';
import { align } from './memory.js';

/** Formats of sealed tensors that the engine has kernels for. */
export type PlacedFormat = StorageFormat | SymmetricFormat;

/** Whether a tensor is in the codes of quant/grouped.ts. */
export function isGrouped(format: PlacedFormat | undefined): format is GroupedOptions {
  return typeof format === 'object' && 'grouping' in format;
}

/** A tensor and its place in a block; offsets in bytes from the start of the block. */
export interface TensorPlace extends TensorLayout<PlacedFormat> {
  /** Packed codes, or the values themselves where they are not quantized. */
  readonly data: number;
  readonly dataBytes: number;
  readonly scales: number;
  readonly mins: number;
  readonly groups: number;
  /** The runs of groups of symmetric codes. */
  readonly runs: readonly ChannelRun[];
}

/**
 * Lays tensors out one after another.
 *
 * @param start bytes before the first
 * @returns their places, and where the last one ends
 */
export function placeTensors(
  tensors: readonly TensorLayout<PlacedFormat>[],
  rows: number,
  start = 0,
): { places: TensorPlace[]; bytes: number } {
  let bytes = start;
  const take = (size: number): number => {
    const at = bytes;
    bytes += Math.ceil(size / 16) * 16;
    return at;
  };
  const places = tensors.map((tensor) => {
    const { columns, format } = tensor;
    if (typeof format === 'string') {
      const dataBytes = rows * columns * (format === 'f16' ? 2 : 4);
      return { ...tensor, data: take(dataBytes), dataBytes, scales: 0, mins: 0, groups: 0, runs: [] };
    }
    if (!isGrouped(format)) {
      const { groups, codeBytes: dataBytes } = symmetricSizes(rows, format);
      const [data, scales] = [take(dataBytes), take(2 * groups)];
      return { ...tensor, data, dataBytes, scales, mins: 0, groups, runs: symmetricRuns(rows, format) };
    }
    const { groups, packedBytes } = groupedSizes(rows, columns, format);
    const data = take(packedBytes);
    return {
      ...tensor,
      data,
      dataBytes: packedBytes,
      scales: take(2 * groups),
      mins: take(2 * groups),
      groups,
      runs: [],
    };
  });
  return { places, bytes };
}

/** The places of the tensors of a sealed block. */
export interface BlockPlaces {
  /** The first positions of a sequence, as the window held them; none but in block 0. */
  readonly sinks: readonly TensorPlace[];
  readonly sinkRows: number;
  /** The quantized rows, after the sinks. */
  readonly sealed: readonly TensorPlace[];
  readonly rows: number;
  readonly bytes: number;
}

/** The layout of one layer's blocks and window; the same for all sequences with the same options. */
export class BlockLayout {
  readonly options: CacheOptions;
  /** Tensors of the window, each for `residualWindow` tokens. */
  readonly window: readonly TensorPlace[];
  readonly windowBytes: number;
  /** Places in every block but the first. */
  readonly places: BlockPlaces;
  readonly #first: BlockPlaces;

  /**
   * @param sealed what a sealed block holds
   * @param window what the window holds; f16, or f32 with the identity quantizer
   */
  constructor(
    options: CacheOptions,
    sealed: readonly TensorLayout<PlacedFormat>[],
    window: readonly WindowTensor[],
  ) {
    this.options = options;
    const format = exactFormat(options);
    const exact = window.map(({ name, columns }) => ({ name, columns, format }));
    const { places, bytes } = placeTensors(exact, options.residualWindow);
    this.window = places;
    this.windowBytes = align(bytes);
    const sinkTensors = exact.map((tensor) => ({ ...tensor, name: sinkName(tensor.name) }));
    const blockPlaces = (sinkRows: number): BlockPlaces => {
      const rows = options.residualWindow - sinkRows;
      const sinks = placeTensors(sinkRows > 0 ? sinkTensors : [], sinkRows);
      const coded = placeTensors(sealed, rows, sinks.bytes);
      return { sinks: sinks.places, sinkRows, sealed: coded.places, rows, bytes: align(coded.bytes) };
    };
    this.places = blockPlaces(0);
    const sinkRows = sinksOf(options, 0);
    this.#first = sinkRows > 0 ? blockPlaces(sinkRows) : this.places;
  }

  /** The places of a block's tensors. */
  at(index: number): BlockPlaces {
    return index === 0 ? this.#first : this.places;
  }

  /** Bytes of so many blocks from the first on. */
  blockBytes(blocks: number): number {
    return blocks === 0 ? 0 : this.#first.bytes + (blocks - 1) * this.places.bytes;
  }
}

/** The tensors of a block in the order in which they are stored, with their rows. */
export function blockTensors({
  sinks,
  sinkRows,
  sealed,
  rows,
}: BlockPlaces): { place: TensorPlace; rows: number }[] {
  return [...sinks.map((place) => ({ place, rows: sinkRows })), ...sealed.map((place) => ({ place, rows }))];
}
