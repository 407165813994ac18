import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { generate } from '../../../src/generate.js';
import { BatchingModel } from '../../../src/serve/batching-model.js';
import { ConversationFiles } from '../../../src/serve/conversation-files.js';
import { ConversationStore } from '../../../src/serve/conversation-store.js';
import { ByteTokenizer, randomTokens, tinyModel } from '../../helpers/tiny-model.js';

const FINGERPRINT = '0123456789abcdef';
const WINDOW = 16;
const folder = mkdtempSync(join(tmpdir(), 'xquant-store-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const model = tinyModel();
const batching = new BatchingModel(model, 4);
const tokenizer = new ByteTokenizer();

async function open(
  name?: string,
  memoryBytes = 2 ** 30,
  diskBytes = 2 ** 30,
  cache = `xquant:4?window=${WINDOW}`,
) {
  const problems: string[] = [];
  const owner = { model, fingerprint: FINGERPRINT };
  const files =
    name === undefined
      ? undefined
      : await ConversationFiles.open(join(folder, name), FINGERPRINT, model.createCache(cache).options);
  const options = {
    owner,
    cache,
    batching,
    memoryBytes,
    diskBytes,
    files,
    onProblem: (text: string) => problems.push(text),
  };
  return { store: await ConversationStore.open(options), problems };
}

/** Answers a prompt as a request does. */
async function ask(store: ConversationStore, prompt: number[], maxTokens = 8) {
  const taken = await store.take(prompt);
  const options = { cache: taken.sequence, maxTokens, ignoreEos: true };
  const { ids, reusedTokens } = await generate(model, tokenizer, prompt, options).finish();
  await store.keep(taken, Math.max(0, taken.sequence.tokens.length - prompt.length));
  return { ids: [...ids], reusedTokens };
}

describe('a conversation that goes on', () => {
  it('is found whole, and replaced by the longer one', async () => {
    const { store } = await open();
    let text = randomTokens(50);
    for (let turn = 0; turn < 4; turn++) {
      const { ids, reusedTokens } = await ask(store, text);
      // All but the newest token of the answer had been run.
      expect(reusedTokens).toBe(turn === 0 ? 0 : text.length - 10 - 1);
      text = [...text, ...ids, ...randomTokens(10, turn + 2)];
      expect(store.use.inMemory).toBe(1);
    }
  });

  it('gives what it would have given without the store', async () => {
    const { store } = await open(undefined, undefined, undefined, 'kv?window=16');
    let text = randomTokens(30);
    for (let turn = 0; turn < 3; turn++) {
      const { ids } = await ask(store, text);
      const alone = await generate(model, tokenizer, text, {
        cache: 'kv',
        maxTokens: 8,
        ignoreEos: true,
      }).finish();
      expect(ids).toEqual(alone.ids);
      text = [...text, ...ids, ...randomTokens(5, turn + 2)];
    }
  });

  it('is replaced when its answer comes back in other tokens, and kept when only its beginning is shared', async () => {
    const { store } = await open();
    const system = randomTokens(40);
    const first = [...system, ...randomTokens(20, 2)];
    await ask(store, first);
    const retold = await ask(store, [...first, ...randomTokens(12, 3)]);
    expect(retold.reusedTokens).toBeGreaterThanOrEqual(first.length - WINDOW);
    expect(store.use.inMemory).toBe(1);
    const other = await ask(store, [...system, ...randomTokens(20, 4)]);
    expect(other.reusedTokens).toBe(system.length - (system.length % WINDOW)); // a sealed block is not cut
    expect(store.use.inMemory).toBe(2);
    expect((await ask(store, [...first, 1])).reusedTokens).toBeGreaterThanOrEqual(first.length - WINDOW);
  });

  it('two at once each keep what they said', async () => {
    const { store } = await open();
    const start = randomTokens(40);
    await ask(store, start);
    const [a, b] = [
      [...start, 1, 2, 3],
      [...start, 4, 5, 6],
    ];
    await Promise.all([ask(store, a), ask(store, b)]);
    expect((await ask(store, [...a, 9])).reusedTokens).toBeGreaterThanOrEqual(a.length - WINDOW);
    expect((await ask(store, [...b, 9])).reusedTokens).toBeGreaterThanOrEqual(b.length - WINDOW);
  });
});

describe('room', () => {
  const prompts = [1, 2, 3, 4].map((seed) => [seed, ...randomTokens(60, seed)]);

  it('is counted in the bytes of snapshots; the least recently used are forgotten', async () => {
    const { store: probe } = await open();
    await ask(probe, prompts[0]);
    const { memoryBytes: size } = probe.use;
    const { store } = await open(undefined, Math.ceil(2.5 * size));
    for (const prompt of prompts.slice(0, 2)) await ask(store, prompt);
    await ask(store, [...prompts[0], 1]); // used again
    await ask(store, prompts[2]);
    expect(store.use.memoryBytes).toBeLessThanOrEqual(2.5 * size);
    expect((await ask(store, [...prompts[0], 1, 2])).reusedTokens).toBeGreaterThan(0);
    expect((await ask(store, [...prompts[1], 1])).reusedTokens).toBe(0);
  });

  it('on disk takes what does not fit, and is bounded, too', async () => {
    const { store: probe } = await open();
    await ask(probe, prompts[0]);
    const { memoryBytes: size } = probe.use;
    const { store } = await open('room', Math.ceil(1.5 * size), Math.ceil(2.5 * size));
    for (const prompt of prompts) await ask(store, prompt);
    expect(store.use).toMatchObject({ inMemory: 1, onDisk: 2 });
    expect((await ask(store, [...prompts[1], 1])).reusedTokens).toBeGreaterThan(0); // from disk
    expect((await ask(store, [...prompts[0], 1])).reusedTokens).toBe(0); // was the oldest
    expect(store.use.diskBytes).toBeLessThanOrEqual(2.5 * size);
  });
});

describe('a restart', () => {
  const filesOf = (name: string) =>
    readdirSync(join(folder, name), { recursive: true, encoding: 'utf8' }).filter((file) => /\./.test(file));

  it('finds what was saved, newest last, and not what another model or cache saved', async () => {
    const { store } = await open('restart');
    const prompt = randomTokens(50);
    await ask(store, prompt);
    await store.saveAll();
    const { store: next } = await open('restart');
    expect(next.use).toMatchObject({ inMemory: 0, onDisk: 1 });
    expect((await ask(next, [...prompt, 1])).reusedTokens).toBeGreaterThanOrEqual(prompt.length - WINDOW);
    const { store: other } = await open('restart', 1, 1, 'kv');
    expect(other.use.onDisk).toBe(0);
  });

  it('after a kill removes what was half written, and what is damaged, and says so', async () => {
    const { store } = await open('crash');
    const prompts = [randomTokens(50, 1), randomTokens(50, 2), randomTokens(50, 3)];
    for (const prompt of prompts) await ask(store, prompt);
    await store.saveAll();
    const [a, b] = filesOf('crash').map((file) => join(folder, 'crash', file));
    writeFileSync(a, readFileSync(a).subarray(0, 40)); // its head is cut
    const bytes = readFileSync(b);
    bytes[bytes.length - 10] ^= 1; // its last layer is damaged: seen when it is wanted
    writeFileSync(b, bytes);
    writeFileSync(`${a}.tmp`, 'half');
    const { store: next, problems } = await open('crash');
    expect(next.use.onDisk).toBe(2);
    expect(problems).toHaveLength(1);
    expect(filesOf('crash').filter((file) => file.endsWith('.tmp'))).toEqual([]);
    const reused = [];
    for (const prompt of prompts) reused.push((await ask(next, [...prompt, 1])).reusedTokens);
    expect(reused.filter((tokens) => tokens >= 50 - WINDOW)).toHaveLength(1);
    expect(problems).toHaveLength(2);
    expect(problems[1]).toMatch(/a conversation is lost: .*CRC/);
  });
});
