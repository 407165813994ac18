/**
 * The five tasks of docs/tasks.md, as a newcomer does them: the commands of the page, in a folder that has the package, a
 * model under the name that the page uses, and the files that a user would have.
 */

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyModelGguf } from '../../helpers/gguf-writer.js';
import { CHAT_TEMPLATE } from '../../helpers/serving.js';

const root = new URL('../../../../', import.meta.url).pathname;
const main = join(root, 'dist/cli/main.js');
const page = readFileSync(join(root, 'docs/tasks.md'), 'utf8');
const folder = mkdtempSync(join(tmpdir(), 'xquant-tasks-'));
const TIMEOUT = 120_000;

/** Code of a task, by language. */
function codeOf(task: string, language: string): string {
  const section = page.split('\n## ').find((each) => each.startsWith(`${task}\n`)) ?? '';
  const [, code] = new RegExp(`\`\`\`${language}\\n(.*?)\`\`\``, 's').exec(section) ?? [];
  if (code === undefined) throw new Error(`docs/tasks.md has no ${language} for "${task}"`);
  return code;
}

/** Runs what a task says, as a shell does. */
function run(task: string): string {
  const result = spawnSync('sh', ['-e', '-c', codeOf(task, 'sh')], { cwd: folder, encoding: 'utf8' });
  expect(result.status, result.stderr).toBe(0);
  return result.stdout;
}

beforeAll(() => {
  mkdirSync(join(folder, 'node_modules/.bin'), { recursive: true });
  symlinkSync(root, join(folder, 'node_modules/xquant'), 'dir');
  symlinkSync(join(root, 'node_modules/openai'), join(folder, 'node_modules/openai'), 'dir');
  symlinkSync(main, join(folder, 'node_modules/.bin/xquant'));
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
  const model = tinyModelGguf({
    scale: 0.3,
    edit: ({ metadata }) => Object.assign(metadata, { 'tokenizer.chat_template': CHAT_TEMPLATE }),
  });
  writeFileSync(join(folder, 'SmolLM2-135M-Instruct.Q4_1.gguf'), model);
  const text = 'The thin man and the other thin man ran in the rain, in and out of the inn. ';
  writeFileSync(join(folder, 'report.txt'), text);
  writeFileSync(join(folder, 'page.txt'), text.repeat(2));
  writeFileSync(join(folder, 'question.txt'), 'Who ran?\n');
  writeFileSync(join(folder, 'my-text.txt'), text.repeat(60));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.skipIf(!existsSync(main))('the five tasks', { timeout: TIMEOUT }, () => {
  it.each(['Chat with a file', 'Paste a page and ask'])('%s', (task) => {
    expect(run(task).trim()).not.toBe('');
  });

  it('Save and come back', () => {
    run('Save and come back');
    expect(existsSync(join(folder, 'talk.xqs'))).toBe(true);
  });

  it('Serve it, and use it from the openai client', async () => {
    const task = 'Serve it, and use it from the openai client';
    const port = await freePort();
    const command = codeOf(task, 'sh').replace('8080', port);
    // "exec": what is killed is the server, and not a shell before it.
    const server = spawn(
      'sh',
      ['-c', command.replace('npx xquant', `exec "${process.execPath}" "${main}"`)],
      {
        cwd: folder,
      },
    );
    try {
      await firstLine(server);
      writeFileSync(join(folder, 'ask.mjs'), codeOf(task, 'js').replace('8080', port));
      const { status, stdout, stderr } = spawnSync(process.execPath, ['ask.mjs'], {
        cwd: folder,
        encoding: 'utf8',
      });
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
      const [, kept, all] = /(\d+) of (\d+) tokens were kept/.exec(stdout) ?? [];
      expect(Number(kept)).toBeGreaterThan(0);
      expect(Number(all)).toBeGreaterThan(Number(kept));
    } finally {
      server.kill();
      await once(server, 'exit');
    }
  });

  it('Compare two caches on your own text', () => {
    const shown = run('Compare two caches on your own text');
    for (const cache of ['xquant:4', 'xquant-cl:2']) {
      expect(shown).toMatch(new RegExp(`^${cache} .*MB|^${cache} .*kB`, 'm'));
      expect(shown).toMatch(new RegExp(`^${cache} .* %.* s$`, 'm'));
    }
  });
});

async function freePort(): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return String(port);
}

/** The address, which the server prints when it listens. */
async function firstLine(server: ChildProcess): Promise<void> {
  let said = '';
  server.stderr?.on('data', (text) => {
    said += text;
  });
  const ended = once(server, 'exit').then(() => {
    throw new Error(`the server ended: ${said}`);
  });
  await Promise.race([once(server.stdout as NonNullable<typeof server.stdout>, 'data'), ended]);
}
