/**
 * Which rows of a pass attend to which sealed blocks.
 *
 * @module
 */

import type { PassContext } from './pass-context.js';
import type { WasmCache } from './wasm-cache.js';
import type { WasmLayerCache } from './wasm-layer-cache.js';

/** Some blocks that some rows attend to. */
export interface BlockRun {
  readonly layer: WasmLayerCache;
  readonly cache: WasmCache;
  /** Blocks [from, to). */
  readonly from: number;
  readonly to: number;
  readonly firstRow: number;
  readonly rows: number;
  /** Position of the first row, or any position after the blocks. */
  readonly position: number;
}

/** Rows and the blocks that they attend to; blocks that all sequences share come first. */
export function blockRuns(
  { sequences, rows }: PassContext,
  layers: readonly WasmLayerCache[],
  blocks: readonly number[],
): BlockRun[] {
  let shared = 0;
  if (sequences.length > 1) {
    const [first] = layers;
    const same = (b: number) => layers.every(({ store }) => store.block(b) === first.store.block(b));
    while (shared < Math.min(...blocks) && same(shared)) shared++;
  }
  const runs: BlockRun[] = [];
  if (shared > 0) {
    const { cache } = sequences[0];
    const position = Math.min(...sequences.map((sequence) => sequence.position));
    runs.push({ layer: layers[0], cache, from: 0, to: shared, firstRow: 0, rows, position });
  }
  sequences.forEach(({ cache, first, count, position }, i) => {
    if (blocks[i] === shared) return;
    const own = { from: shared, to: blocks[i], firstRow: first, rows: count, position };
    runs.push({ layer: layers[i], cache, ...own });
  });
  return runs;
}
