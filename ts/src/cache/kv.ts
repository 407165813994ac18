/**
 * The uncompressed baseline: keys and values in f16. Everything else is measured against it.
 *
 * Keys are stored before RoPE here too, so that all caches are interchangeable; f16 rounding before or
 * after a rotation costs the same.
 *
 * @module
 */

import { BlockCache, type TokenRows } from './block.js';
import { project } from './fold.js';
import type { CacheOptions } from './options.js';
import { loadMatrix, type StorageFormat, storeMatrix } from './stored-matrix.js';
import type { KeysAndValues, KeyValueProjection, LayerInput, SealedBlock } from './types.js';

/** Stores finished keys and values; how precisely is for a subclass to say. */
export abstract class KeyValueCache extends BlockCache {
  protected readonly tensors: Readonly<Record<string, number>>;
  readonly #formats: Readonly<Record<string, StorageFormat>>;

  constructor(
    options: CacheOptions,
    projection: KeyValueProjection,
    formats: { keys: StorageFormat; values: StorageFormat },
  ) {
    super(options, projection);
    this.tensors = { keys: projection.kvDim, values: projection.kvDim };
    this.#formats = formats;
  }

  protected storedRows({ x }: LayerInput): TokenRows {
    const { keys, values } = project(x, x, this.projection, this.projection);
    return { keys, values };
  }

  protected seal(rows: TokenRows): SealedBlock {
    return {
      keys: storeMatrix(rows.keys, this.#formats.keys, this.place('keys')),
      values: storeMatrix(rows.values, this.#formats.values, this.place('values')),
    };
  }

  protected readBlock(sealed: SealedBlock): KeysAndValues {
    return { keys: loadMatrix(sealed.keys), values: loadMatrix(sealed.values) };
  }

  protected readWindow({ keys, values }: TokenRows): KeysAndValues {
    return { keys, values };
  }
}

/** Keys and values in f16: 16 bits an element. */
export class Float16KeyValueCache extends KeyValueCache {
  constructor(options: CacheOptions, projection: KeyValueProjection) {
    const format = options.quantizer === 'identity' ? 'f32' : 'f16';
    super(options, projection, { keys: format, values: format });
  }
}
