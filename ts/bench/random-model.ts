/**
 * The model that the speed benchmarks run: random weights in the shape of SmolLM2-135M, Q8_0.
 *
 * Nothing has to be downloaded, and since time does not depend on what the weights are, nothing is lost. The
 * file is kept in the temporary folder for the next run.
 *
 * @module
 */

import { existsSync, renameSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { tinyModelGguf } from '../test/helpers/gguf-writer.js';

/** Longest sequence of the model. */
export const CONTEXT = 32768;

/** Multiply-adds of the weights for one token, the output projection included. */
export const MACS_PER_TOKEN = 134e6;

/**
 * The path of the model's file, which is written if it is not there.
 *
 * @returns a GGUF file of 143 MB
 */
export function randomModelPath(): string {
  const path = join(tmpdir(), 'xquant-bench-smollm2-135m-q8_0.gguf');
  if (!existsSync(path)) {
    const bytes = tinyModelGguf({
      hiddenSize: 576,
      layers: 30,
      heads: 9,
      kvHeads: 3,
      ffn: 1536,
      vocab: 49152,
      context: CONTEXT,
      type: 'Q8_0',
      tied: true,
      scale: 0.04,
      edit({ metadata }) {
        // llama.cpp wants an f32 here, and the writer stores whole numbers as integers
        metadata['llama.rope.freq_base'] = 10000.5;
      },
    });
    writeFileSync(`${path}.part`, bytes);
    renameSync(`${path}.part`, path);
  }
  return path;
}

/** Ids of a text that says nothing; reproducible. */
export function benchTokens(count: number): number[] {
  return Array.from({ length: count }, (_, i) => 300 + ((i * 7919 + i * i * 13) % 40000));
}
