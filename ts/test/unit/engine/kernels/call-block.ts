/** Calls kernels that take a parameter block, as a thread of the engine does. */

import type { Kernels } from '../../../../src/engine/kernels.js';
import {
  type BlockKernel,
  blockValues,
  floatFields,
  PARAMETERS,
  type ParameterBlock,
} from '../../../../src/engine/parameter-blocks.js';

/** Writes a block into memory, where a kernel then finds it. */
export function writeBlock<K extends BlockKernel>(
  memory: WebAssembly.Memory,
  at: number,
  kernel: K,
  block: ParameterBlock<K>,
): void {
  const floats = floatFields(kernel) ?? [];
  const view = new DataView(memory.buffer, at);
  blockValues(kernel, block).forEach((value, i) => {
    if (floats[i]) view.setFloat32(4 * i, value, true);
    else view.setInt32(4 * i, value, true);
  });
}

/** Writes the block to where thread 0 has it, and calls the kernel. */
export function callBlock<K extends BlockKernel>(
  kernels: Kernels,
  memory: WebAssembly.Memory,
  kernel: K,
  block: ParameterBlock<K>,
): number {
  writeBlock(memory, PARAMETERS, kernel, block);
  return kernels[kernel](PARAMETERS) as number;
}
