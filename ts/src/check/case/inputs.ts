/**
 * What an operation is given: tensors and options of one case, read with the checks at the door.
 *
 * Everything that is wrong with a dump is said here, by tensor and coordinate, before the reference sees it.
 *
 * @module
 */

import { ConfigError, FormatError, NumericError, ShapeError } from '../../errors.js';
import { fromFloat16Bits, toFloat16Bits } from '../../numerics/float16.js';
import type { Rotation } from '../../numerics/hadamard.js';
import { type Matrix, matrix } from '../../numerics/matrix.js';
import {
  forEachGroup,
  GROUPINGS,
  type GroupedFormat,
  type GroupedOptions,
  type Grouping,
  groupedSizes,
  type QuantizedMatrix,
} from '../../quant/grouped.js';
import { assertBits, type Bits, RANGE_RULES, type RangeRule } from '../../quant/uniform.js';
import { placeOf } from '../compare/compare.js';
import { isFloating, type Numbers, numbersOf, type Tensor } from './tensor.js';

/** One case in memory: an operation, its options, its inputs and (in a dump) the kernel's outputs. */
export interface CheckCase {
  /** File or folder, for messages. */
  readonly name: string;
  readonly operation: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly tensors: ReadonlyMap<string, Tensor>;
}

/** Names of sizes, from the outermost to the innermost. */
export type Dimensions = readonly string[];

/** Typed access to a {@link CheckCase}. */
export class CaseInputs {
  readonly case: CheckCase;

  constructor(source: CheckCase) {
    this.case = source;
  }

  /** The same case with other options or tensors. */
  with(change: {
    options?: Readonly<Record<string, unknown>>;
    tensors?: Readonly<Record<string, Tensor>>;
  }): CaseInputs {
    const tensors = new Map(this.case.tensors);
    for (const [name, tensor] of Object.entries(change.tensors ?? {})) tensors.set(name, tensor);
    return new CaseInputs({ ...this.case, options: { ...this.case.options, ...change.options }, tensors });
  }

  has(name: string): boolean {
    return this.case.tensors.has(name);
  }

  /** @throws {FormatError} if there is no such tensor */
  tensor(name: string): Tensor {
    const found = this.case.tensors.get(name);
    if (found) return found;
    const known = [...this.case.tensors.keys()].join(', ') || 'none';
    throw new FormatError(
      this.case.name,
      name,
      `${this.case.operation} needs this tensor; the file has ${known}`,
    );
  }

  /**
   * A tensor of finite f32 numbers.
   *
   * @param dimensions names of its sizes; a dump may have no other number of sizes
   * @throws {ShapeError} if it has another number of sizes
   * @throws {NumericError} if a value is not finite; names the coordinate
   */
  floats(name: string, dimensions: Dimensions): { shape: readonly number[]; data: Float32Array } {
    const tensor = this.tensor(name);
    if (tensor.shape.length !== dimensions.length) {
      throw new ShapeError(this.case.operation, name, dimensions, tensor.shape);
    }
    const numbers = numbersOf(tensor, `${this.case.name}: ${name}`);
    const data = numbers instanceof Float32Array ? numbers : Float32Array.from(numbers);
    const bad = data.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) {
      const place = { tensor: name, ...placeOf(bad, tensor.shape, dimensions) };
      throw new NumericError(this.case.operation, data[bad], place, 'an input is not a finite number');
    }
    return { shape: tensor.shape, data };
  }

  /** A matrix of finite f32 numbers. */
  matrix(name: string, rows = 'token', columns = 'channel'): Matrix {
    const { shape, data } = this.floats(name, [rows, columns]);
    return matrix(shape[0], shape[1], data);
  }

  /**
   * A matrix of known shape.
   *
   * @throws {ShapeError} if it has another one
   */
  matrixOf(name: string, rows: number, columns: number): Matrix {
    const found = this.matrix(name);
    if (found.rows !== rows || found.columns !== columns) {
      throw new ShapeError(this.case.operation, name, [rows, columns], [found.rows, found.columns]);
    }
    return found;
  }

  /** Layers of a stack of matrices: [layers, rows, columns], views. */
  stack(name: string): Matrix[] {
    const { shape, data } = this.floats(name, ['layer', 'token', 'channel']);
    const [layers, rows, columns] = shape;
    const size = rows * columns;
    return Array.from({ length: layers }, (_, i) =>
      matrix(rows, columns, data.subarray(i * size, (i + 1) * size)),
    );
  }

  /** Integers of any type. */
  integers(name: string): { shape: readonly number[]; data: Numbers } {
    const tensor = this.tensor(name);
    const data = numbersOf(tensor, `${this.case.name}: ${name}`);
    for (let i = 0; i < data.length; i++) {
      if (!Number.isInteger(data[i])) {
        throw new NumericError(this.case.operation, data[i], { tensor: name, group: i }, 'not an integer');
      }
    }
    return { shape: tensor.shape, data };
  }

  /**
   * A quantized matrix from `<prefix>packed`, `<prefix>scales`, `<prefix>mins`.
   *
   * @param columns channels
   * @param suffix of the tensor names, for layers: `_0`
   * @throws {ShapeError} if the sizes of the three do not belong together
   */
  quantized(prefix: string, columns: number, format: GroupedFormat, suffix = ''): QuantizedMatrix {
    const scales = this.halfBits(`${prefix}scales${suffix}`);
    const mins = this.halfBits(`${prefix}mins${suffix}`);
    const packed = this.tensor(`${prefix}packed${suffix}`).bytes;
    const rows = this.#rowsOf(packed.length, scales.length, columns, format);
    const sizes = groupedSizes(rows, columns, format);
    const { operation } = this.case;
    if (packed.length !== sizes.packedBytes) {
      throw new ShapeError(operation, `${prefix}packed${suffix}`, [sizes.packedBytes], [packed.length]);
    }
    if (mins.length !== sizes.groups) {
      throw new ShapeError(operation, `${prefix}mins${suffix}`, [sizes.groups], [mins.length]);
    }
    return { rows, columns, ...format, packed, scales, mins };
  }

  /** Tokens: said by the option, or by the groups (the last block of tokens may be short). */
  #rowsOf(packedBytes: number, groups: number, columns: number, format: GroupedFormat): number {
    const given = this.case.options.tokens;
    if (typeof given === 'number') return given;
    if (format.grouping === 'perToken') return groups / Math.ceil(columns / format.groupSize);
    const blocks = groups / columns;
    // Of all numbers of tokens with this many blocks, the one that takes this many bytes.
    for (let rows = blocks * format.groupSize; rows > (blocks - 1) * format.groupSize; rows--) {
      if (groupedSizes(rows, columns, format).packedBytes === packedBytes) return rows;
    }
    throw new ShapeError(this.case.operation, 'packed', ['a multiple of the channels'], [packedBytes]);
  }

  /**
   * Stored parameters as f16 bits.
   *
   * @throws {FormatError} if they are no f16 numbers
   * @throws {NumericError} if one is not finite
   */
  halfBits(name: string): Uint16Array {
    const tensor = this.tensor(name);
    const isBits = tensor.dtype === 'F16' || tensor.dtype === 'U16' || tensor.dtype === 'I16';
    if (!isBits && !isFloating(tensor.dtype)) {
      throw new FormatError(this.case.name, name, `scales and minima are f16 numbers, got ${tensor.dtype}`);
    }
    const bits = isBits
      ? (numbersOf({ ...tensor, dtype: 'U16' }) as Uint16Array)
      : Uint16Array.from(numbersOf(tensor), toFloat16Bits);
    const bad = bits.findIndex((value) => (value & 0x7c00) === 0x7c00);
    if (bad >= 0) {
      const value = fromFloat16Bits(bits[bad]);
      throw new NumericError(this.case.operation, value, { tensor: name, group: bad }, 'not a finite number');
    }
    return bits;
  }

  /**
   * A number among the options.
   *
   * @throws {ConfigError} if it is absent (and there is no `fallback`) or not a number
   */
  number(name: string, fallback?: number): number {
    const value = this.case.options[name] ?? fallback;
    if (typeof value !== 'number' || !Number.isFinite(value)) throw new ConfigError(name, value, 'a number');
    return value;
  }

  /** A positive integer among the options. */
  count(name: string, fallback?: number): number {
    const value = this.number(name, fallback);
    if (!Number.isSafeInteger(value) || value < 1) throw new ConfigError(name, value, 'a positive integer');
    return value;
  }

  /** A word among the options. */
  word<T extends string>(name: string, allowed: readonly T[], fallback?: T): T {
    const value = this.case.options[name] ?? fallback;
    if (!allowed.includes(value as T)) throw new ConfigError(name, value, allowed.join(' or '));
    return value as T;
  }

  bits(name = 'bits'): Bits {
    const value = this.number(name);
    assertBits(value, name);
    return value;
  }

  rotation(): Rotation {
    return this.word('rotation', ['none', 'hadamard'], 'none');
  }

  range(): RangeRule {
    return this.word('range', RANGE_RULES, 'minmax');
  }

  grouping(name = 'grouping'): Grouping {
    return this.word(name, GROUPINGS, 'perToken');
  }

  /** How tensors are cut and coded. */
  grouped(groupingName = 'grouping', bitsName = 'bits'): GroupedOptions {
    return {
      bits: this.bits(bitsName),
      groupSize: this.count('groupSize', 128),
      grouping: this.grouping(groupingName),
      range: this.range(),
    };
  }
}

/** Index of the group that an element belongs to. */
export function groupOf(index: number, columns: number, { grouping, groupSize }: GroupedFormat): number {
  const token = Math.floor(index / columns);
  const channel = index % columns;
  return grouping === 'perToken'
    ? token * Math.ceil(columns / groupSize) + Math.floor(channel / groupSize)
    : Math.floor(token / groupSize) * columns + channel;
}

/** First token and channel of the group that holds a byte of `packed`, and the group's number. */
export function placeOfByte(
  byte: number,
  rows: number,
  columns: number,
  format: GroupedFormat,
): Record<string, number> {
  let place: Record<string, number> = {};
  forEachGroup(rows, columns, format, (slot) => {
    if (byte < slot.byteOffset || byte >= slot.byteOffset + slot.byteLength) return;
    place = { token: slot.token, channel: slot.channel, group: slot.index, byte: byte - slot.byteOffset };
  });
  return place;
}

/** Sizes of scales and minima as tensors. */
export function parameterShape(rows: number, columns: number, format: GroupedFormat): number[] {
  return format.grouping === 'perToken'
    ? [rows, Math.ceil(columns / format.groupSize)]
    : [Math.ceil(rows / format.groupSize), columns];
}
