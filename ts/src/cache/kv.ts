/**
 * Caches that store finished keys and values: `kv` in f16, the uncompressed baseline that everything else is measured
 * against, and `kivi`, quantized.
 *
 *     write   K = X Wk, V = X Wv     Q(K) per channel     Q(V) per token
 *     read    K^, V^
 *
 * KIVI* is the quantized baseline of the paper (XQuant §4), KIVI (arXiv 2402.02750) with keys before RoPE. Keys are
 * quantized per channel, because their outliers sit in fixed channels, and values per token:
 * `bits + 32 / groupSize` bits an element.
 *
 * Keys are stored before RoPE in f16 too, so that all caches are interchangeable; f16 rounding before or after a
 * rotation costs the same.
 *
 * @module
 */

import { BlockCache, type TokenRows } from './block.js';
import type { KeysAndValues, LayerInput } from './contract.js';
import { project } from './fold.js';
import type { LayoutOf } from './layout.js';
import type { SealedBlock } from './state.js';
import { loadMatrix, storeMatrix } from './stored-matrix.js';

/** Stores finished keys and values, in the formats of its layout. */
export class KeyValueCache extends BlockCache<LayoutOf<'keysAndValues'>> {
  protected storedRows({ x }: LayerInput): TokenRows {
    const { keys, values } = project(x, x, this.projection, this.projection);
    return { keys, values };
  }

  protected seal(rows: TokenRows): SealedBlock {
    const [keys, values] = this.layout.sealed;
    return {
      keys: storeMatrix(rows.keys, keys.format, this.place('keys')),
      values: storeMatrix(rows.values, values.format, this.place('values')),
    };
  }

  protected readBlock(sealed: SealedBlock): KeysAndValues {
    return { keys: loadMatrix(sealed.keys), values: loadMatrix(sealed.values) };
  }

  protected readWindow({ keys, values }: TokenRows): KeysAndValues {
    return { keys, values };
  }
}
