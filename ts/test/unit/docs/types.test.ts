/**
 * The scripts of the guides compile as they are printed, in a strict project with no newer library than ES2022, and so do
 * the declarations of the package: in Node, and in a browser without the types of Node.
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
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';

const root = new URL('../../../../', import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), 'xquant-types-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const BROWSER = `
import { cacheTotals, ChatSession, generate, loadModel } from 'xquant';
const { model, tokenizer, file } = await loadModel('model.gguf');
for await (const { text } of generate(model, tokenizer, 'It was')) document.body.append(text);
const chat = new ChatSession(model, tokenizer, { template: file.chatTemplate });
document.body.append((await chat.send('Hello').finish()).text, String(cacheTotals('auto', model.config, 100).total));
`;

/** Fenced TypeScript of the README and the guides. */
function samples(): Record<string, string> {
  const guides = readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md'));
  const found: Record<string, string> = {};
  for (const page of ['README.md', ...guides.map((name) => `docs/${name}`)]) {
    const text = readFileSync(join(root, page), 'utf8');
    for (const [, code] of text.matchAll(/^```ts\n(.*?)^```$/gms)) {
      found[`${page.replace(/\W/g, '-')}-${Object.keys(found).length}.ts`] = `${code}\nexport {};\n`;
    }
  }
  return found;
}

/** What the compiler says about some files in a project of their own. */
function compile(name: string, files: Record<string, string>, options: object): string {
  const project = join(folder, name);
  mkdirSync(join(project, 'node_modules'), { recursive: true });
  symlinkSync(root, join(project, 'node_modules/xquant'), 'dir');
  for (const types of ['@types', 'undici-types']) {
    symlinkSync(join(root, 'node_modules', types), join(project, 'node_modules', types), 'dir');
  }
  writeFileSync(join(project, 'package.json'), '{ "type": "module" }');
  for (const [file, code] of Object.entries(files)) writeFileSync(join(project, file), code);
  const strict = {
    strict: true,
    skipLibCheck: false,
    noEmit: true,
    target: 'es2022',
    lib: ['es2022', 'dom'],
  };
  writeFileSync(
    join(project, 'tsconfig.json'),
    JSON.stringify({ compilerOptions: { ...strict, ...options }, include: ['*.ts'] }),
  );
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  return spawnSync(process.execPath, [tsc, '-p', project], { encoding: 'utf8' }).stdout;
}

describe.skipIf(!existsSync(join(root, 'dist/index.d.ts')))('samples compile', { timeout: 120_000 }, () => {
  it('in Node', () => {
    const files = samples();
    expect(Object.keys(files).length).toBeGreaterThan(4);
    expect(compile('node', files, { module: 'nodenext', types: ['node'] })).toBe('');
  });

  it('in a browser', () => {
    const options = {
      module: 'esnext',
      moduleResolution: 'bundler',
      customConditions: ['browser'],
      types: [],
    };
    expect(compile('browser', { 'page.ts': BROWSER }, options)).toBe('');
  });
});
