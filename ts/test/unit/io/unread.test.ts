/** Weights that are read while they are placed: the same model, and never a second copy of it. */

import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { startModel } from '../../../src/backends.js';
import { NumericError } from '../../../src/errors.js';
import { loadModelFile, type ModelSource, useModelFile } from '../../../src/io/load-model.js';
import { type FileWeights, readWeights } from '../../../src/model/weights.js';
import { tinyModelGguf } from '../../helpers/gguf-writer.js';
import { asFiles, tinyFolder } from '../../helpers/hugging-face-folder.js';

const root = mkdtempSync(join(tmpdir(), 'xquant-unread-'));
afterAll(() => rmSync(root, { recursive: true }));

/** A vocabulary that makes the embedding longer than a piece. */
const gguf = Uint8Array.from(tinyModelGguf({ hiddenSize: 64, vocab: 40_000, type: 'Q4_0', scale: 0.2 }));

function onDisk(name: string, bytes: Uint8Array): string {
  const path = join(root, name);
  writeFileSync(path, bytes);
  return path;
}

const SOURCES: Readonly<Record<string, () => ModelSource>> = {
  'a file': () => onDisk('model.gguf', gguf),
  'bytes in memory': () => gguf,
  'a Blob': () => new Blob([gguf]),
  'a folder of safetensors': () => asFiles(tinyFolder()),
};

/** Weights in a form that is quickly compared. */
function digest({ embedding, layers, outputNorm, output }: FileWeights): unknown {
  const hash = (bytes: Float32Array | Uint8Array) => createHash('sha256').update(bytes).digest('hex');
  const all = [embedding, ...layers.flatMap((layer) => Object.values(layer)), outputNorm, output];
  return all.map((each) =>
    each instanceof Float32Array ? hash(each) : { ...each, bytes: hash(each.bytes) },
  );
}

/** Notes which stretches of it are read. */
class WatchedBlob extends Blob {
  readonly reads: number[] = [];

  override slice(start = 0, end = this.size): Blob {
    this.reads.push(end - start);
    return super.slice(start, end);
  }
}

describe('useModelFile', () => {
  it.each(Object.entries(SOURCES))(
    '%s: weights and fingerprint are those of loadModelFile',
    async (_, source) => {
      const expected = await loadModelFile(source());
      await useModelFile(source(), {}, async (file) => {
        expect(file.fingerprint).toBe(expected.fingerprint);
        expect(file.tensors).toEqual(expected.tensors);
        expect(digest(await readWeights(file.weights))).toEqual(digest(expected.weights));
      });
    },
  );

  it('an engine that reads piece by piece is the one that has them all, to the bit', async () => {
    const { config, weights } = await loadModelFile(gguf);
    await using expected = await startModel({ config, weights }, { threads: 1 });
    await using model = await useModelFile(onDisk('pieces.gguf', gguf), {}, (file) =>
      startModel(file, { threads: 1 }),
    );
    const run = async (each: typeof model) => each.forward([1, 39_999, 17], each.createCache('kv'));
    expect((await run(model)).data).toEqual((await run(expected)).data);
  });

  it('never asks for more than a megabyte at once', async () => {
    const blob = new WatchedBlob([gguf]);
    await using _model = await useModelFile(blob, {}, async (file) => {
      blob.reads.length = 0; // the header is read as it is
      return startModel(file, { threads: 1 });
    });
    const total = blob.reads.reduce((sum, length) => sum + length, 0);
    expect(total).toBeGreaterThan(40_000 * 36);
    expect(Math.max(...blob.reads)).toBeLessThanOrEqual(2 ** 20);
  });

  it('names the weight that is not finite, also in a later piece', async () => {
    const { weights } = await loadModelFile(gguf);
    const start = weights.embedding.bytes.byteOffset - gguf.byteOffset; // of bytes in memory they are views
    const broken = gguf.slice();
    const block = 39_999 * 2; // first block of the last row: blocks have 18 bytes and begin with an f16
    broken.set([0x00, 0x7c], start + block * 18);
    const load = useModelFile(broken, {}, (file) => startModel(file, { threads: 1 }));
    await expect(load).rejects.toThrow(NumericError);
    await expect(useModelFile(broken, {}, (file) => startModel(file, { threads: 1 }))).rejects.toThrow(
      `token_embd.weight, element ${39_999 * 64}`,
    );
  });
});
