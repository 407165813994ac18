/** Loads that fail give everything back: linear memory, threads, files. */

import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { LinearMemory } from '../../src/engine/memory.js';
import { XQuantError } from '../../src/errors.js';
import type { ModelSource } from '../../src/io/load-model.js';
import { type LoadModelOptions, loadModel } from '../../src/load.js';
import { tinyModelGguf } from '../helpers/gguf-writer.js';
import { asFiles, tinyFolder } from '../helpers/hugging-face-folder.js';

/** Threads that were started and have not ended. */
const running = vi.hoisted(() => ({ threads: 0 }));

vi.mock('../../src/engine/workers-node.js', async (original) => {
  const real = await original<typeof import('../../src/engine/workers-node.js')>();
  const spawnThread: typeof real.spawnThread = (source, setup, onMessage, onEnd) => {
    running.threads++;
    return real.spawnThread(source, setup, onMessage, (reason) => {
      running.threads--;
      onEnd(reason);
    });
  };
  return { ...real, spawnThread };
});

setFlagsFromString('--expose-gc');
const collect: () => void = runInNewContext('gc');

const root = mkdtempSync(join(tmpdir(), 'xquant-failed-'));
afterAll(() => rmSync(root, { recursive: true }));

/** A good folder with another tokenizer.json. */
function withTokenizer(change: (json: Record<string, unknown>) => void): ModelSource {
  const files = tinyFolder();
  const json = JSON.parse(new TextDecoder().decode(files.get('tokenizer.json')));
  change(json);
  files.set('tokenizer.json', new TextEncoder().encode(JSON.stringify(json)));
  return asFiles(files);
}

function onDisk(bytes: Uint8Array): string {
  const path = join(root, 'broken.gguf');
  writeFileSync(path, bytes);
  return path;
}

const good = tinyModelGguf();

/** Models that fail, each at another point. */
const BROKEN: Readonly<Record<string, () => [ModelSource, LoadModelOptions?]>> = {
  'a tokenizer that names a token it has not': () => [
    withTokenizer((json) => {
      json.post_processor = { type: 'TemplateProcessing', single: [{ SpecialToken: { id: 'none' } }] };
    }),
  ],
  'a pre-tokenizer that nobody knows': () => [
    withTokenizer((json) => {
      json.pre_tokenizer = { type: 'Nothing' };
    }),
  ],
  'no tokenizer': () => [
    tinyModelGguf({
      edit: ({ metadata }) => {
        metadata['tokenizer.ggml.model'] = 'none';
      },
    }),
  ],
  'a norm that is not a number': () => [
    onDisk(
      tinyModelGguf({
        edit: ({ tensors }) => {
          tensors.find(({ name }) => name === 'output_norm.weight')!.bytes.fill(255);
        },
      }),
    ),
  ],
  'a file that is cut short': () => [onDisk(good.slice(0, good.length - 1000))],
  'too little memory': () => [good, { memoryLimit: 2 ** 18 }],
  'heads of a size that only the reference has': () => [tinyModelGguf({ headDim: 12, heads: 8, kvHeads: 8 })],
};

describe('fifty models that cannot be loaded', () => {
  it('leave no memory, no thread and no open file behind', async () => {
    const memories: WeakRef<LinearMemory>[] = [];
    const { allocate } = LinearMemory.prototype;
    LinearMemory.prototype.allocate = function (...args) {
      if (memories.at(-1)?.deref() !== this) memories.push(new WeakRef(this));
      return allocate.apply(this, args);
    };
    const openFiles = () => readdirSync('/proc/self/fd').length;
    const before = process.platform === 'linux' ? openFiles() : 0;
    const kinds = Object.values(BROKEN);
    try {
      for (let i = 0; i < 50; i++) {
        const [source, options] = kinds[i % kinds.length]();
        const load = loadModel(source, { threads: 2, ...options });
        await expect(load).rejects.toThrow(XQuantError);
      }
    } finally {
      LinearMemory.prototype.allocate = allocate;
    }
    for (let i = 0; i < 5; i++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      collect();
    }
    expect(memories.filter((memory) => memory.deref() !== undefined)).toHaveLength(0);
    expect(running.threads).toBe(0);
    if (process.platform === 'linux') expect(openFiles()).toBeLessThan(before + 3);

    const { model } = await loadModel(good, { threads: 2 });
    expect(running.threads).toBe(1);
    await model.dispose();
  });

  it.each(Object.entries(BROKEN))('%s is an error of the package', async (_, broken) => {
    const [source, options] = broken();
    await expect(loadModel(source, { threads: 1, ...options })).rejects.toThrow(XQuantError);
  });
});
