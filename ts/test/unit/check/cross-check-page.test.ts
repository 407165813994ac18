/**
 * docs/cross-check.md is run: its scripts by Python, its commands in this process, and what it prints compared.
 */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { KNOWN_MISTAKES } from '../../../src/check/mistakes/index.js';
import { OPERATIONS } from '../../../src/check/operations/index.js';
import { runInProcess } from '../../helpers/run-cli.js';

const page = readFileSync(new URL('../../../../docs/cross-check.md', import.meta.url), 'utf8');
const folder = mkdtempSync(join(tmpdir(), 'xquant-page-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Blocks of a language, by the word in their first line, without that line. */
function script(name: string): string {
  for (const [, body] of page.matchAll(/```python\n(.*?)```/gs)) {
    if (body.startsWith(`# ${name}\n`)) return body;
  }
  throw new Error(`docs/cross-check.md has no script "${name}"`);
}

/** What the page says is printed. */
function printed(verdict: string): string {
  const block = [...page.matchAll(/```text\n(.*?)```/gs)].find(([, body]) => body.startsWith(verdict));
  return block?.[1] ?? '';
}

function python(code: string) {
  return spawnSync('python3', ['-c', code], { cwd: folder, encoding: 'utf8' });
}

/** Checks dump.safetensors as the page does, from within its folder. */
async function check(): Promise<string> {
  const { stdout } = await runInProcess(['check', join(folder, 'dump.safetensors')]);
  return stdout.replaceAll(`${folder}/`, '').replaceAll(`${folder}\\`, '');
}

const hasPython = python('print(1)').status === 0;
const hasTorch = hasPython && python('import torch, safetensors').status === 0;
if (!hasPython) console.log('skipped: scripts of docs/cross-check.md, since there is no python3');
else if (!hasTorch) {
  console.log('skipped: PyTorch script of docs/cross-check.md, since torch and safetensors are not there');
}

describe('docs/cross-check.md', () => {
  it.skipIf(!hasTorch)('goes from a PyTorch tensor to a green check', async () => {
    const { status, stderr } = python(script('torch'));
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(await check()).toMatch(/1 case, 1 pass, 0 fail/);
  });

  it('does so in ten lines', () => {
    const lines = script('torch')
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#') && !/^(import|from)/.test(line));
    expect(lines.length).toBeLessThanOrEqual(10);
  });

  it.skipIf(!hasPython)('goes from plain Python to a green check', async () => {
    const { status, stderr } = python(script('standard library'));
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(await check()).toBe(printed('PASS'));
  });

  it.skipIf(!hasPython)('names the mistake that it makes', async () => {
    const [mistake] = /^ROUND = .*$/m.exec(script('mistake')) ?? [''];
    const wrong = script('standard library').replace(/^ROUND = .*$/m, mistake);
    expect(python(wrong).status).toBe(0);
    expect(await check()).toBe(printed('FAIL'));
  });

  it('lists every mistake with its operations', () => {
    const rows = [...page.matchAll(/^\| `([\w-]+)`\s*\| (.*?)\s*\| ([^|]*?)\s*\|$/gm)];
    expect(
      rows.map(([, id, title, operations]) => ({ id, title, operations: operations.split(', ') })),
    ).toEqual(KNOWN_MISTAKES.map(({ id, title, operations }) => ({ id, title, operations })));
  });

  it('runs commands that exist', async () => {
    const commands = [...page.matchAll(/^npx xquant (vectors .*)$/gm)].map(([, command]) =>
      command.split(' '),
    );
    expect(commands.length).toBeGreaterThan(0);
    for (const args of commands) {
      args[args.indexOf('--out') + 1] = join(folder, 'vectors');
      expect(await runInProcess(args)).toMatchObject({ code: 0 });
    }
  });
});

describe('what diagnoses and operations cite', () => {
  const numerics = readFileSync(new URL('../../../../docs/numerics.md', import.meta.url), 'utf8');

  it.each([...KNOWN_MISTAKES, ...OPERATIONS].map(({ specification }) => specification))(
    '%s',
    (specification) => {
      for (const [, section] of specification.matchAll(/numerics\.md "([^"]+)"/g)) {
        expect(numerics).toMatch(new RegExp(`^#+ ${section}$`, 'm'));
      }
    },
  );
});
