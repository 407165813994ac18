/** Models split over several GGUF files: any part leads to all of them. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { FormatError } from '../../../src/errors.js';
import { arePartsOfOne } from '../../../src/io/gguf-split.js';
import { loadModelFile } from '../../../src/io/load-model.js';
import {
  type GgufWriteTensor,
  type GgufWriteValue,
  tinyModelGguf,
  writeGguf,
} from '../../helpers/gguf-writer.js';

const folder = mkdtempSync(join(tmpdir(), 'xquant-split-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** A tiny model whole, and in parts as `llama-gguf-split` writes them. */
function splitModel(parts: number, claimed?: number): { whole: Uint8Array; files: Uint8Array[] } {
  let content: { metadata: Record<string, GgufWriteValue>; tensors: GgufWriteTensor[] } | undefined;
  const whole = tinyModelGguf({ edit: (file) => (content = file) });
  const { metadata, tensors } = content!;
  const files = Array.from({ length: parts }, (_, part) => {
    const split = {
      'split.no': part,
      'split.count': parts,
      'split.tensors.count': claimed ?? tensors.length,
    };
    const own = tensors.filter((_, i) => i % parts === part);
    return writeGguf(part === 0 ? { ...metadata, ...split } : split, own);
  });
  return { whole, files };
}

const partName = (name: string, part: number, count: number) =>
  `${name}-${String(part + 1).padStart(5, '0')}-of-${String(count).padStart(5, '0')}.gguf`;

function write(name: string, files: readonly Uint8Array[]): string[] {
  return files.map((bytes, part) => {
    const path = join(folder, partName(name, part, files.length));
    writeFileSync(path, bytes);
    return path;
  });
}

describe('a model in parts', () => {
  it('is the whole model, whichever part is named', async () => {
    const { whole, files } = splitModel(3);
    const expected = await loadModelFile(whole);
    for (const path of write('tiny', files)) {
      const model = await loadModelFile(path);
      expect(model.fingerprint).toBe(expected.fingerprint);
      expect(model.parameterCount).toBe(expected.parameterCount);
      expect(model.tokenizer.kind).toBe('gguf');
    }
  });

  it('is found by its folder, and as files that were picked', async () => {
    const { whole, files } = splitModel(2);
    const expected = await loadModelFile(whole);
    const picked = files.map(
      (bytes, part) => new File([bytes as Uint8Array<ArrayBuffer>], partName('tiny', part, 2)),
    );
    expect((await loadModelFile(picked)).fingerprint).toBe(expected.fingerprint);
  });

  it('with a part that is missing names the part', async () => {
    const [first] = write('torn', splitModel(3).files.slice(0, 2).concat(splitModel(3).files[2]));
    rmSync(join(folder, partName('torn', 2, 3)));
    await expect(loadModelFile(first)).rejects.toThrow(/torn-00003-of-00003\.gguf: the part is missing/);
    await expect(loadModelFile(first)).rejects.toThrow(FormatError);
  });

  it('whose parts contradict each other is refused', async () => {
    const { files } = splitModel(2);
    const [swapped] = write('swapped', [files[1], files[0]]);
    await expect(loadModelFile(swapped)).rejects.toThrow(/says that it is part 2 of 2, and its name says 1/);
    const [twice] = write('twice', [files[0], splitModel(1).files[0]]);
    await expect(loadModelFile(twice)).rejects.toThrow(/split\.no/);
    const [few] = write('few', splitModel(2, 1000).files);
    await expect(loadModelFile(few)).rejects.toThrow(/claims 1000 tensors/);
  });

  it('without neighbours or a name that leads to them says what to give', async () => {
    const { files } = splitModel(2);
    await expect(loadModelFile(files[0])).rejects.toThrow(/one of 2 parts: give the path, URL or folder/);
    const path = join(folder, 'renamed.gguf');
    writeFileSync(path, files[0]);
    await expect(loadModelFile(path)).rejects.toThrow(/found by names like NAME-00001-of-00002\.gguf/);
  });
});

it('tells the parts of one model from several models', () => {
  const parts = [0, 1, 2].map((part) => partName('a', part, 3));
  expect(arePartsOfOne(parts)).toBe(true);
  expect(arePartsOfOne([...parts, partName('b', 0, 1)])).toBe(false);
  expect(arePartsOfOne([...parts, 'a.gguf'])).toBe(false);
  expect(arePartsOfOne(['a.gguf'])).toBe(false);
});
