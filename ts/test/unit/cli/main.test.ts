/**
 * The built executable as a process: what cannot be seen from inside one.
 */

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyModelGguf } from '../../helpers/gguf-writer.js';

const root = fileURLToPath(new URL('../../../../', import.meta.url));
const main = join(root, 'dist/cli/main.js');
const isBuilt = existsSync(main);
if (!isBuilt) console.log('skipped: tests of the built executable, since there is no dist/ (npm run build)');

describe.skipIf(!isBuilt)('the executable', () => {
  let folder = '';
  let model = '';

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'xquant-main-'));
    model = join(folder, 'tiny.gguf');
    writeFileSync(model, tinyModelGguf({ context: 4096 }));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  /** Starts a generation that does not end by itself for a long time. */
  function start() {
    const args = [main, 'generate', 'in', '-m', model, '--ignore-eos', '-n', '4000', '--cache', 'kv'];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (part) => (stderr += part));
    const ended = new Promise<{ code: number | null; stderr: string }>((resolve) => {
      child.on('close', (code) => resolve({ code, stderr }));
    });
    const speaks = new Promise<void>((resolve) => child.stdout.once('data', () => resolve()));
    return { child, ended, speaks };
  }

  it('ends with 130 and without a word on Ctrl-C', async () => {
    const { child, ended, speaks } = start();
    await speaks;
    child.stdout.resume();
    child.kill('SIGINT');
    expect(await ended).toEqual({ code: 130, stderr: '' });
  });

  it('ends quietly when nobody reads any more', async () => {
    const { child, ended, speaks } = start();
    await speaks;
    child.stdout.destroy();
    expect(await ended).toEqual({ code: 0, stderr: '' });
  });

  it.skipIf(!existsSync('/dev/full')).each([
    ['a command', ['memory', '--shape', 'mistral-7b']],
    ['a long one', ['generate', 'in', '-m', 'MODEL', '-n', '50', '--ignore-eos']],
  ])('says in one line that the disk is full: %s', (_, args) => {
    const command = [process.execPath, main, ...args.map((each) => (each === 'MODEL' ? model : each))];
    const quoted = command.map((each) => `'${each}'`).join(' ');
    const { status, stderr } = spawnSync('sh', ['-c', `${quoted} > /dev/full`], { encoding: 'utf8' });
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: expect.stringMatching(/^xquant: the output cannot be written: [^\n]+\n$/),
    });
  });

  it.each([
    ['ok', ['memory', '--shape', 'mistral-7b'], 0],
    ['failed', ['info', '-m', 'nowhere.gguf'], 1],
    ['usage', ['memory', '--context', '0'], 2],
  ])('exits with the code for %s', (_, args, code) => {
    expect(spawnSync(process.execPath, [main, ...args]).status).toBe(code);
  });

  it('is described by docs/cli.md', () => {
    const check = spawnSync(process.execPath, [join(root, 'scripts/write-cli-docs.mjs'), '--check'], {
      encoding: 'utf8',
    });
    expect({ status: check.status, stderr: check.stderr }).toEqual({ status: 0, stderr: '' });
  });
});
