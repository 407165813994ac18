/**
 * Code in the guides, the README and the examples of the API is run, each block once: scripts by Node on the
 * built package, commands in this process. What needs a model that is not here, a browser or many minutes is
 * only held to what there is: commands, options, exports, files.
 */

import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createProgram } from '../../../src/cli/program.js';
import * as xquant from '../../../src/index.js';
import { runInProcess } from '../../helpers/run-cli.js';

const root = new URL('../../../../', import.meta.url).pathname;
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const folder = mkdtempSync(join(tmpdir(), 'xquant-docs-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** For one block or command, on a machine that does much else. */
const RUN_TIMEOUT = 300_000;

interface Block {
  /** File and line, for the name of a test. */
  readonly place: string;
  readonly language: string;
  readonly code: string;
}

const guides = readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md'));
const pages = ['README.md', 'golden/README.md', ...guides.map((name) => `docs/${name}`)].filter((name) =>
  existsSync(join(root, name)),
);
const blocks = pages.flatMap(blocksOf);

/** Fenced blocks of a page. */
function blocksOf(page: string): Block[] {
  const text = readFileSync(join(root, page), 'utf8');
  return [...text.matchAll(/^```(\w+)\n(.*?)^```$/gms)].map(({ 1: language, 2: code, index }) => ({
    place: `${page}:${text.slice(0, index).split('\n').length}`,
    language,
    code,
  }));
}

/** `@example` blocks of the sources, with the imports that they leave out. */
function examples(): Block[] {
  const sources = readdirSync(join(root, 'ts/src'), { recursive: true, encoding: 'utf8' });
  return sources
    .filter((name) => name.endsWith('.ts'))
    .flatMap((name) => {
      const text = readFileSync(join(root, 'ts/src', name), 'utf8');
      return [...text.matchAll(/@example\n \* ```ts\n(.*?) \* ```/gs)].map(({ 1: lines, index }) => {
        const code = lines.replace(/^ \* ?/gm, '');
        const used = Object.keys(xquant).filter((each) => new RegExp(`\\b${each}\\(`).test(code));
        return {
          place: `ts/src/${name}:${text.slice(0, index).split('\n').length}`,
          language: 'ts',
          code: `import { ${used.join(', ')} } from 'xquant';\n${code}`,
        };
      });
    });
}

const only = (...languages: string[]) => blocks.filter(({ language }) => languages.includes(language));

describe('scripts', () => {
  beforeAll(() => {
    mkdirSync(join(folder, 'node_modules'));
    symlinkSync(root, join(folder, 'node_modules/xquant'), 'dir');
  });

  it.each([...only('ts'), ...examples()])('$place', { timeout: RUN_TIMEOUT }, ({ code }) => {
    writeFileSync(join(folder, 'script.mjs'), code);
    const { status, stderr } = spawnSync(process.execPath, ['script.mjs'], { cwd: folder, encoding: 'utf8' });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  });

  it('can stand on the command line of node', { timeout: RUN_TIMEOUT }, () => {
    const [{ code }] = only('ts');
    const args = ['--input-type=module', '--eval', code];
    const { status, stderr } = spawnSync(process.execPath, args, { cwd: folder, encoding: 'utf8' });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  });
});

describe('scripts for browsers', () => {
  it.each(only('js', 'html'))('$place', ({ code }) => {
    for (const [, names, from] of code.matchAll(/import \{ ([^}]+) \} from '([^']+)'/g)) {
      if (from.includes('/node_modules/xquant/')) {
        expect(existsSync(join(root, from.replace(/.*\/node_modules\/xquant\//, '')))).toBe(true);
      }
      for (const name of names.split(', ')) expect(xquant).toHaveProperty(name);
    }
    const options = readFileSync(join(root, 'ts/src/browser/load.ts'), 'utf8');
    const loading = readFileSync(join(root, 'ts/src/io/load-model.ts'), 'utf8');
    for (const [, name] of code.matchAll(/loadModel\('[^']*', \{\s*(\w+):/g)) {
      expect(options + loading).toMatch(new RegExp(`readonly ${name}\\?`));
    }
  });
});

/** One command line, as words. */
interface CommandLine {
  readonly place: string;
  readonly line: string;
  readonly words: readonly string[];
}

const lines: CommandLine[] = only('sh').flatMap(({ place, code }) =>
  code
    .replaceAll('\\\n', ' ')
    .split(/\n| && /)
    .map((line) => line.replace(/(^|\s)#.*/, '').trim())
    .filter((line) => line !== '')
    .map((line) => ({ place, line, words: wordsOf(line) })),
);

/** The words of a line of a shell; double quotes keep words together. */
function wordsOf(line: string): string[] {
  return [...line.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain);
}

const isXquant = ({ words }: CommandLine) => words[0] === 'npx' && words[1] === 'xquant';

/** Pages whose commands another test runs, and commands that take minutes or need what is not here. */
function isOnlyChecked({ place, words, line }: CommandLine): boolean {
  if (/^docs\/(cross-check|benchmarks|results)\.md|^golden\//.test(place)) return true;
  if (['calibrate', 'reproduce', 'chat', 'serve'].includes(words[2])) return true;
  if (words[2] === 'perplexity' && !line.includes('--windows')) return true;
  const model = words[words.indexOf('--model') + 1] ?? '';
  return /\.gguf$|[:/]/.test(model) && !existsSync(join(root, model));
}

/** Files of the clone are read where they are; all others lie in a folder of the test. */
function placeOf(word: string): string {
  return /^[\w-]+\.\w+$/.test(word) && !existsSync(join(root, word)) ? join(folder, word) : word;
}

describe('commands', () => {
  it.each(lines.filter(isXquant))('exist: $place $line', async ({ words }) => {
    const streams = { stdin: new PassThrough(), stdout: new PassThrough(), stderr: new PassThrough() };
    const program = createProgram({ ...streams, signal: new AbortController().signal });
    let ran = false;
    for (const command of program.commands) {
      command.action(() => {
        ran = true;
      });
    }
    const input = words.indexOf('<');
    await program.parseAsync(words.slice(2, input < 0 ? undefined : input), { from: 'user' });
    expect(ran).toBe(true);
  });

  const run = lines.filter((each) => /^head /.test(each.line) || (isXquant(each) && !isOnlyChecked(each)));
  it.each(run)('run, shortened: $place $line', { timeout: RUN_TIMEOUT }, async ({ line, words }) => {
    if (words[0] === 'head') {
      const shell = line.replace(/> (\S+)$/, (_, name) => `> "${placeOf(name)}"`);
      expect(spawnSync('sh', ['-c', shell], { cwd: root, encoding: 'utf8' })).toMatchObject({
        status: 0,
        stderr: '',
      });
      return;
    }
    const from = words.indexOf('<');
    const stdin = from < 0 ? undefined : readFileSync(placeOf(words[from + 1]), 'utf8');
    const args = words.slice(2, from < 0 ? undefined : from).map(placeOf);
    if (args[0] === 'generate') args.push('--max-tokens', '3');
    if (args[0] === 'perplexity') args.push('--windows', '1', '--window-size', '32');
    const { code, stderr } = await runInProcess(args, { stdin });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  });

  it('of npm are scripts of the package', () => {
    const text = pages.map((page) => readFileSync(join(root, page), 'utf8')).join('\n');
    const names = [...text.matchAll(/\bnpm run ([\w:-]+)/g)].map(([, name]) => name);
    expect(names.length).toBeGreaterThan(3);
    for (const name of names) expect(manifest.scripts).toHaveProperty([name]);
  });

  it('of node and Python are scripts that are there', () => {
    for (const page of pages) {
      const text = readFileSync(join(root, page), 'utf8');
      for (const [, script] of text.matchAll(/\b(?:node|python3?) ([\w/-]+\.(?:mjs|js|py))/g)) {
        const folders = ['', dirname(page), join(dirname(page), 'generate')];
        const isThere = folders.some((each) => existsSync(join(root, each, script)));
        if (!/^(dist|build)\//.test(script)) expect(isThere, `${script} in ${page}`).toBe(true);
      }
    }
  });
});

describe('the walk through the algorithm', () => {
  const page = readFileSync(join(root, 'docs/algorithm.md'), 'utf8');
  const entries = ['index.ts', 'reference.ts']
    .map((name) => readFileSync(join(root, 'ts/src', name), 'utf8'))
    .join();
  const steps = [...page.matchAll(/^\*(XQuant (?:§|Table)[^*]*)\*$/gms)].map(([, line]) =>
    line.replaceAll('\n', ' '),
  );

  it('names in each step functions that the package exports, and files that are there', () => {
    expect(steps.length).toBeGreaterThan(8);
    for (const step of steps) {
      const names = [...step.matchAll(/`(\w+)`/g)].map(([, name]) => name);
      expect(names.length, step).toBeGreaterThan(0);
      for (const name of names) expect(entries, `${name} in "${step}"`).toMatch(new RegExp(`\\b${name}\\b`));
      for (const [, file] of step.matchAll(/`(ts\/[\w/.-]+)`/g))
        expect(existsSync(join(root, file)), file).toBe(true);
    }
  });

  it('goes through every section of the method', () => {
    for (const section of ['§3.1', '§3.2', '§3.3.1', '§3.3.2', '§3.4', '§4', '§4.1', '§4.3', 'Table 1']) {
      expect(page).toContain(section);
    }
  });
});
