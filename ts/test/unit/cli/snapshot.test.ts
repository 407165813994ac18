/**
 * `xquant generate --snapshot`: a text in several runs is the text of one.
 */

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Interruption } from '../../../src/cli/errors.js';
import { readSnapshotInfo } from '../../../src/io/snapshot.js';
import { tinyModelGguf } from '../../helpers/gguf-writer.js';
import { runInProcess } from '../../helpers/run-cli.js';

let folder = '';
let model = '';
let otherModel = '';

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'xquant-cli-snapshot-'));
  const put = (name: string, content: Uint8Array) => {
    writeFileSync(join(folder, name), content);
    return join(folder, name);
  };
  model = put('tiny.gguf', tinyModelGguf({ scale: 0.3 }));
  otherModel = put('other.gguf', tinyModelGguf({ scale: 0.3, seed: 2 }));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

let files = 0;

/** The path of a snapshot that is not there yet. */
function newSnapshot(): string {
  return join(folder, `${files++}.xqs`);
}

// biome-ignore lint/suspicious/noExplicitAny: what a test reads of a report it expects
async function generated(...args: string[]): Promise<Record<string, any>> {
  const run = await runInProcess(['generate', ...args, '-m', model, '--ignore-eos', '--json']);
  expect(run).toMatchObject({ code: 0, stderr: '' });
  return JSON.parse(run.stdout);
}

describe.each(['reference', 'wasm'])('--snapshot, %s', (backend) => {
  it.each(['kv', 'xquant-cl:2?window=16'])('a text in three runs is the text of one: %s', async (cache) => {
    // At this seed no run ends inside a character, of which the text shows only its replacement.
    const args = ['--backend', backend, '--seed', '5'];
    const whole = await generated('in the rain', '-n', '40', '-c', cache, ...args);
    const snapshot = newSnapshot();
    const first = await generated('in the rain', '-n', '13', '-c', cache, '--snapshot', snapshot, ...args);
    const second = await generated('-n', '1', '--snapshot', snapshot, ...args);
    const third = await generated('-n', '26', '--snapshot', snapshot, ...args);
    expect([...first.ids, ...second.ids, ...third.ids]).toEqual(whole.ids);
    expect(first.text + second.text + third.text).toBe(whole.text);
    expect(third.prompt).toBe(`in the rain${first.text}${second.text}`);
    expect(third.reusedTokens).toBe(third.promptTokens - 1);
    expect(third.cachedTokens).toBe(whole.cachedTokens);
  });
});

describe('--snapshot', () => {
  it('with a prompt reuses what it has in common with the saved text', async () => {
    const snapshot = newSnapshot();
    const args = ['-c', 'kv', '-n', '4'];
    const fresh = await generated('in the rain and on', ...args);
    await generated('in the rain', ...args, '--snapshot', snapshot);
    const again = await generated('in the rain and on', ...args, '--snapshot', snapshot);
    expect(again.reusedTokens).toBeGreaterThan(3);
    expect(again.ids).toEqual(fresh.ids);
    const other = await runInProcess(['generate', 'thin', '-m', model, ...args, '--snapshot', snapshot]);
    expect(other.stderr).toMatch(
      /the prompt shares the first \d of \d+ tokens in .*\.xqs; the others are dropped\n$/,
    );
  });

  it('moves from one backend to the other', async () => {
    const snapshot = newSnapshot();
    const first = ['in the rain', '-n', '9', '-c', 'xquant:4?window=8', '--snapshot', snapshot];
    await generated(...first, '--backend', 'wasm');
    const saved = readFileSync(snapshot);
    const there = await generated('-n', '6', '--snapshot', snapshot, '--backend', 'wasm');
    writeFileSync(snapshot, saved);
    const here = await generated('-n', '6', '--snapshot', snapshot, '--backend', 'reference');
    expect(here.backend).toBe('reference');
    expect(here.ids).toEqual(there.ids);
  });

  it('keeps its cache unless --cache names another one', async () => {
    const snapshot = newSnapshot();
    await generated('in the rain', '-n', '3', '-c', 'xquant:4@paper', '--snapshot', snapshot);
    expect(await generated('-n', '3', '--snapshot', snapshot)).toMatchObject({ cache: 'xquant:4@paper' });
    await generated('-n', '3', '-c', 'xquant:4@paper', '--snapshot', snapshot);
    const saved = readFileSync(snapshot);
    const run = await runInProcess(['generate', '-m', model, '-c', 'kv', '--snapshot', snapshot]);
    expect(run.code).toBe(2);
    expect(run.stderr).toMatch(/holds a cache xquant:4@paper/);
    expect(readFileSync(snapshot)).toEqual(saved);
  });

  it('saves what there is when it is interrupted', async () => {
    const snapshot = newSnapshot();
    const args = [
      'in the rain',
      '-m',
      model,
      '-c',
      'kv',
      '--ignore-eos',
      '--seed',
      '3',
      '--snapshot',
      snapshot,
    ];
    const stop = new AbortController();
    const run = await runInProcess(['generate', ...args, '-n', '300'], {
      signal: stop.signal,
      onStdout: () => stop.abort(new Interruption(130)),
    });
    expect(run.code).toBe(130);
    const { generated: count } = readSnapshotInfo(readFileSync(snapshot), snapshot);
    expect(count).toBeGreaterThan(0);
    const whole = await generated('in the rain', '-c', 'kv', '--seed', '3', '-n', String(count + 5));
    const rest = await generated('--seed', '3', '-n', '5', '--snapshot', snapshot);
    expect(rest.ids).toEqual(whole.ids.slice(count));
  });

  it('refuses what is damaged, of another model or in no folder, and leaves it alone', async () => {
    const snapshot = newSnapshot();
    await generated('in the rain', '-n', '3', '--snapshot', snapshot);
    const saved = readFileSync(snapshot);
    const refused = async (...args: string[]) => {
      const run = await runInProcess(['generate', ...args]);
      expect(run).toMatchObject({ code: 1, stdout: '' });
      return run.stderr;
    };
    expect(await refused('-m', otherModel, '--snapshot', snapshot)).toMatch(
      /belongs to model .*, not to this one/,
    );
    const damaged = saved.slice();
    damaged[damaged.length >> 1] ^= 1;
    writeFileSync(snapshot, damaged);
    expect(await refused('-m', model, '--snapshot', snapshot)).toMatch(/is damaged: its CRC-32 is wrong/);
    expect(readFileSync(snapshot)).toEqual(damaged);
    writeFileSync(snapshot, saved.subarray(0, 100));
    expect(await refused('-m', model, '--snapshot', snapshot)).toMatch(/bytes and should have/);
    expect(await refused('a', '-m', model, '--snapshot', join(folder, 'no/folder.xqs'))).toMatch(
      /cannot be written/,
    );
    expect(existsSync(join(folder, 'no'))).toBe(false);
    expect(readdirSync(folder).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });
});
