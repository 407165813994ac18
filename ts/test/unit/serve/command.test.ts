/**
 * The built command as a process: how it starts, is killed, and starts again.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import OpenAI from 'openai';
import { afterAll, describe, expect, it } from 'vitest';
import { tinyModelGguf } from '../../helpers/gguf-writer.js';
import { runInProcess } from '../../helpers/run-cli.js';

const main = fileURLToPath(new URL('../../../../dist/cli/main.js', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'xquant-serve-'));
const model = join(folder, 'tiny.gguf');
writeFileSync(model, tinyModelGguf({ scale: 0.3 }));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.skipIf(!existsSync(main))('xquant serve', () => {
  async function start(...more: string[]): Promise<{ child: ChildProcess; client: OpenAI }> {
    const conversations = ['--cache-dir', join(folder, 'conversations'), '--cache-memory', '1K'];
    const options = [
      '--port',
      '0',
      '--threads',
      '1',
      '--cache',
      'xquant:4?window=16',
      '--json',
      ...conversations,
    ];
    const child = spawn(process.execPath, [main, 'serve', '-m', model, ...options, ...more], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const [line] = await once(
      createInterface({ input: child.stdout as NonNullable<typeof child.stdout> }),
      'line',
    );
    const { url } = JSON.parse(line);
    return { child, client: new OpenAI({ baseURL: url, apiKey: 'none', maxRetries: 0 }) };
  }
  const ask = (client: OpenAI, prompt: string) =>
    client.completions.create({ model: 'tiny', prompt, max_tokens: 8, temperature: 0 });

  it('is killed, starts again, and finds what it had saved', { timeout: 60_000 }, async () => {
    const first = await start();
    const prompt = 'in the rain, in the inn, '.repeat(5);
    expect((await ask(first.client, prompt)).usage?.prompt_tokens_details?.cached_tokens).toBe(0);
    first.child.kill('SIGKILL');
    await once(first.child, 'exit');
    const saved = readdirSync(join(folder, 'conversations'), { recursive: true, encoding: 'utf8' });
    expect(saved.filter((name) => name.endsWith('.xqs'))).toHaveLength(1);

    const second = await start();
    const { usage } = await ask(second.client, `${prompt}and`);
    expect(usage?.prompt_tokens_details?.cached_tokens).toBeGreaterThan(16);
    second.child.kill('SIGTERM');
    expect(await once(second.child, 'exit')).toEqual([143, null]);
  });
});

describe('bad usage of serve', () => {
  it.each<[string, string[], RegExp]>([
    ['a port that there is not', ['--port', '70000'], /a port, from 0 to 65535/],
    ['no room', ['--cache-memory', 'much'], /must be a size/],
    ['nobody at once', ['--parallel', '0'], /positive integer/],
  ])('%s', async (_, args, message) => {
    const { code, stderr } = await runInProcess(['serve', '-m', model, ...args]);
    expect(code).toBe(2);
    expect(stderr).toMatch(message);
  });

  it('a port that is taken is said in a line', async () => {
    const { createServer } = await import('node:net');
    const taken = createServer().listen(0, '127.0.0.1');
    await once(taken, 'listening');
    const { port } = taken.address() as { port: number };
    const { code, stderr } = await runInProcess(['serve', '-m', model, '--port', String(port)]);
    taken.close();
    expect(code).toBe(1);
    expect(stderr).toMatch(new RegExp(`^xquant: 127.0.0.1:${port}: cannot listen: .*\\n$`));
  });
});
