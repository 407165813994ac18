/**
 * The package as a user gets it: packed, unpacked into an empty project, and used there. It carries no models and
 * stays small, every entry of `exports` can be imported, its types resolve, the command runs, and a case is checked. Needs a build and
 * no network.
 */

import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const LIMIT_BYTES = 2_000_000;

const root = fileURLToPath(new URL('..', import.meta.url));
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const project = mkdtempSync(join(tmpdir(), 'xquant-package-'));
try {
  const { size, files, filename } = pack();
  install(filename);
  importAll();
  resolveTypes();
  runCommand();
  checkCase();
  console.log(
    `package: ${files.length} files, ${size} bytes packed (limit ${LIMIT_BYTES}), every entry works`,
  );
} finally {
  rmSync(project, { recursive: true, force: true });
}

function pack() {
  const output = run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', project], root);
  const [packed] = JSON.parse(output);
  const paths = packed.files.map(({ path }) => path);
  const models = paths.filter((path) => /\.(gguf|safetensors)$/.test(path));
  if (models.length > 0) throw new Error(`models in the package: ${models.join(', ')}`);
  if (packed.size >= LIMIT_BYTES)
    throw new Error(`the package packs to ${packed.size} bytes, limit ${LIMIT_BYTES}`);
  const named = [manifest.bin.xquant, ...targets(manifest.exports)].map((path) => path.replace(/^\.\//, ''));
  for (const needed of ['README.md', 'LICENSE', 'CHANGELOG.md', ...named]) {
    const [before, after] = needed.split('*');
    const isThere = paths.some((path) =>
      after === undefined ? path === needed : path.startsWith(before) && path.endsWith(after),
    );
    if (!isThere) throw new Error(`${needed} is missing from the package`);
  }
  return packed;
}

/** All files that `exports` names, under any condition. */
function targets(value) {
  return typeof value === 'string' ? [value] : Object.values(value).flatMap(targets);
}

/** What `npm install` would do, with the dependencies that are here. */
function install(filename) {
  const modules = join(project, 'node_modules');
  mkdirSync(join(modules, 'xquant'), { recursive: true });
  run(
    'tar',
    ['-xzf', join(project, filename), '-C', join(modules, 'xquant'), '--strip-components=1'],
    project,
  );
  for (const name of [...Object.keys(manifest.dependencies), '@types/node']) {
    mkdirSync(dirname(join(modules, name)), { recursive: true });
    symlinkSync(join(root, 'node_modules', name), join(modules, name), 'dir');
  }
  writeFileSync(
    join(project, 'package.json'),
    JSON.stringify({ name: 'user', type: 'module', private: true }),
  );
}

/** Imports every entry. The worker serves whoever started it, so it is only looked for. */
function importAll() {
  const entries = Object.keys(manifest.exports).filter((entry) => !entry.includes('*'));
  const lines = entries.map((entry) => {
    const name = `xquant${entry.slice(1)}`;
    if (entry === './worker') return `import.meta.resolve('${name}');`;
    const attributes = entry.endsWith('.json') ? ", { with: { type: 'json' } }" : '';
    return `if (Object.keys(await import('${name}'${attributes})).length === 0) throw new Error('${name} is empty');`;
  });
  const kernels = ['simd', 'relaxed', 'simd-threads', 'relaxed-threads'];
  lines.push(
    "import { existsSync } from 'node:fs';",
    `for (const name of ${JSON.stringify(kernels)}) {`,
    "  const url = new URL(import.meta.resolve('xquant/wasm/' + name + '.wasm'));",
    "  if (!existsSync(url)) throw new Error(url + ' is missing');",
    '}',
  );
  writeFileSync(join(project, 'imports.mjs'), lines.join('\n'));
  run(process.execPath, ['imports.mjs'], project);
}

/** Compiles a file that uses every entry with types, as a program of Node and as one that is bundled for a browser. */
function resolveTypes() {
  const typed = Object.entries(manifest.exports).filter(([, target]) =>
    JSON.stringify(target).includes('.d.ts'),
  );
  const lines = typed.map(([entry], i) => `export * as entry${i} from 'xquant${entry.slice(1)}';`);
  lines.push("import { generate, loadModel } from 'xquant';");
  lines.push("const { model, tokenizer } = await loadModel('model.gguf');");
  lines.push("export const text: string = (await generate(model, tokenizer, 'a').finish()).text;");
  // @ts-expect-error fails if the types are not there at all: then everything is allowed.
  lines.push(
    '// @ts-expect-error',
    "export const wrong: number = (await generate(model, tokenizer, 'a').finish()).text;",
  );
  writeFileSync(join(project, 'types.ts'), lines.join('\n'));
  const common = [
    '--noEmit',
    '--strict',
    '--target',
    'es2023',
    '--lib',
    'es2023,dom,esnext.disposable',
    'types.ts',
  ];
  const typescript = join(root, 'node_modules/typescript/bin/tsc');
  for (const resolution of [
    ['--module', 'nodenext', '--types', 'node'],
    [
      '--module',
      'esnext',
      '--moduleResolution',
      'bundler',
      '--customConditions',
      'browser',
      '--types',
      'node',
    ],
  ]) {
    run(process.execPath, [typescript, ...resolution, ...common], project);
  }
}

function runCommand() {
  const main = join(project, 'node_modules/xquant', manifest.bin.xquant);
  const version = run(process.execPath, [main, '--version'], project).trim();
  if (version !== manifest.version) throw new Error(`xquant --version prints ${version}`);
  const model = join(root, 'golden/models/books-mha.gguf');
  if (!existsSync(model)) throw new Error(`${model} is not there`);
  const text = run(
    process.execPath,
    [main, 'generate', 'It was', '--model', model, '--max-tokens', '3'],
    project,
  );
  if (text.trim() === '') throw new Error('xquant generate prints nothing');
}

/** Checks a case that the package made, right and wrong, with the library of `xquant check`. */
function checkCase() {
  const script = `
    import { checkCase, makeCase, modelContext } from 'xquant/check';
    const made = await makeCase({ operation: 'quantize', rows: 4, columns: 64, seed: 1 }, modelContext());
    const right = await checkCase(made, modelContext());
    made.tensors.get('scales').bytes[0] ^= 1;
    const wrong = await checkCase(made, modelContext());
    console.log(right.verdict, wrong.verdict);
  `;
  const verdicts = run(process.execPath, ['--input-type=module', '--eval', script], project).trim();
  if (verdicts !== 'pass fail') throw new Error(`xquant/check judges ${verdicts}, not pass and fail`);
}

function run(command, args, cwd) {
  try {
    return execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (error) {
    throw new Error(`${command} ${args.join(' ')} failed:\n${error.stdout ?? ''}${error.stderr ?? ''}`, {
      cause: error,
    });
  }
}
