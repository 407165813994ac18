import {
  existsSync,
  lstatSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { LoadError } from '../../../src/errors.js';
import { writeFileAtomically } from '../../../src/io/node-write.js';

const root = mkdtempSync(join(tmpdir(), 'xquant-write-'));
afterAll(() => rmSync(root, { recursive: true }));

describe('writing a file whole or not at all', () => {
  it('keeps the mode of a file that is there', async () => {
    const path = join(root, 'mode.txt');
    writeFileSync(path, 'old', { mode: 0o600 });
    await writeFileAtomically(path, 'new');
    expect(readFileSync(path, 'utf8')).toBe('new');
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  it('writes to what a symbolic link points to', async () => {
    const [link, target] = [join(root, 'link'), join(root, 'target.txt')];
    writeFileSync(target, 'old');
    symlinkSync(target, link);
    await writeFileAtomically(link, 'new');
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
    expect(readFileSync(target, 'utf8')).toBe('new');
  });

  it('removes what a killed process has left of the same path, and nothing younger or of others', async () => {
    const path = join(root, 'result.json');
    const left = (name: string, hours: number) => {
      const file = join(root, `.${name}.01234567-89ab-cdef-0123-456789abcdef.tmp`);
      writeFileSync(file, 'part');
      const then = Date.now() / 1000 - 3600 * hours;
      utimesSync(file, then, then);
      return file;
    };
    const [old, other] = [left('result.json', 2), left('other.json', 2)];
    await writeFileAtomically(path, '{}');
    expect([existsSync(old), existsSync(other)]).toEqual([false, true]);
    const young = left('result.json', 0.5);
    await writeFileAtomically(path, '{}');
    expect(existsSync(young)).toBe(true);
  });

  it('leaves no temporary file after an error', async () => {
    const before = readdirSync(root);
    await expect(writeFileAtomically(join(root, 'none/x'), 'new')).rejects.toThrow(LoadError);
    await expect(writeFileAtomically(root, 'new')).rejects.toThrow(LoadError);
    expect(readdirSync(root)).toEqual(before);
  });
});
