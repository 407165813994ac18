/**
 * What it costs to add something, measured: for each recipe of docs/extend.md, the first change is made to the central
 * type, and the files in which the compiler then finds errors are compared with the rows marked `tsc`. At the end all
 * worked examples of the page are applied together and have to compile.
 *
 *     node scripts/add-one-experiment.mjs               all of it
 *     node scripts/add-one-experiment.mjs --examples    only whether the worked examples fit the files of today
 *
 * Sources are changed in the memory of the compiler; no file is written.
 */

import { readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const PAGE = 'docs/extend.md';

/** The change that a recipe begins with: by heading, texts of files and what replaces them. */
const FIRST_CHANGES = {
  'A cache': {
    'ts/src/cache/options.ts': [
      ["export type CacheVariant = 'kv'", "export type CacheVariant = 'dummy' | 'kv'"],
    ],
    // A new kind of layer, in a format of a new type.
    'ts/src/cache/layout.ts': [
      [
        'interface SealedTensors {',
        'interface SealedTensors {\n  dummy: readonly [x: TensorLayout<{ readonly dummy: true }>];',
      ],
    ],
  },
  'A model family': {
    'ts/src/model/tensors.ts': [
      [
        'export const LAYER_TENSORS = {',
        `export const LAYER_TENSORS = {
  wDummy: {
    kind: 'matrix',
    shape: ({ hiddenSize }) => [hiddenSize, hiddenSize],
    present: () => true,
    gguf: 'dummy.weight',
    huggingFace: 'dummy.weight',
  },`,
      ],
    ],
  },
  'A weight type': {
    'ts/src/quant/weight-types.ts': [['export type ProductType =', "export type ProductType =\n  | 'DUMMY'"]],
  },
  'A golden operation': {
    'ts/src/check/operations/index.ts': [
      ['readonly Operation[] = [', "readonly Operation[] = [\n  { name: 'dummy' },"],
    ],
  },
};

/** Sections of the page by heading: rows of the table, and the worked example as changes of files. */
function readPage() {
  const text = readFileSync(join(root, PAGE), 'utf8');
  const sections = text.split(/^## /m).slice(1);
  return sections.map((section) => {
    const [heading] = section.split('\n', 1);
    const rows = [...section.matchAll(/^\| `([^`]+)` \| .* \| ([^|]+) \|$/gm)];
    const [, diff = ''] = /^```diff\n(.*?)^```$/ms.exec(section) ?? [];
    return {
      heading,
      named: rows.filter(([, , by]) => by === 'tsc').map(([, file]) => file),
      example: readDiff(diff, heading),
    };
  });
}

/** A diff without line numbers, as texts of files and what replaces them. A new file replaces ''. */
function readDiff(diff, heading) {
  const changes = {};
  for (const part of diff.split(/^--- /m).slice(1)) {
    const [head, ...hunks] = part.split(/^@@\n/m);
    const file = (/^\+\+\+ (.*)$/m.exec(head) ?? /^(.*)$/m.exec(head))[1];
    changes[file] = hunks.map((hunk) => {
      const lines = hunk.replace(/\n$/, '').split('\n');
      const side = (mark) =>
        lines.filter((line) => line[0] === ' ' || line[0] === mark).map((line) => `${line.slice(1)}\n`);
      return [side('-').join(''), side('+').join('')];
    });
  }
  if (Object.keys(changes).length === 0) throw new Error(`${PAGE}, "${heading}": there is no worked example`);
  return changes;
}

/**
 * The text of a file after changes.
 *
 * @throws {Error} if a text that is to be replaced is not there, or is there twice
 */
function changed(file, changes) {
  if (changes[0][0] === '') return changes[0][1];
  let text = readFileSync(join(root, file), 'utf8');
  for (const [from, to] of changes) {
    const found = text.split(from).length - 1;
    if (found !== 1) throw new Error(`${PAGE}: ${file} has ${found} times, not once:\n${from}`);
    text = text.replace(from, () => to);
  }
  return text;
}

const changedFiles = (changes) =>
  new Map(Object.entries(changes).map(([file, each]) => [file, changed(file, each)]));

const page = readPage();
const examples = new Map(page.flatMap(({ example }) => [...changedFiles(example)]));
if (process.argv.includes('--examples')) process.exit();

const { default: ts } = await import('typescript');
const config = ts.getParsedCommandLineOfConfigFile(
  join(root, 'tsconfig.json'),
  {},
  {
    ...ts.sys,
    onUnRecoverableConfigFileDiagnostic: ({ messageText }) => {
      throw new Error(ts.flattenDiagnosticMessageText(messageText, '\n'));
    },
  },
);
const unchanged = new Map();

/**
 * Compiles the project with some files changed; what an earlier program knows of the others is used again.
 *
 * @returns the program, and errors by file
 */
function compile(edits, earlier) {
  const host = ts.createIncrementalCompilerHost(config.options);
  const textOf = (path) => edits.get(relative(root, path)) ?? ts.sys.readFile(path);
  const { fileExists } = host;
  host.fileExists = (path) => edits.has(relative(root, path)) || fileExists(path);
  host.readFile = textOf;
  host.getSourceFile = (path, options) => {
    const isEdited = edits.has(relative(root, path));
    if (!isEdited && unchanged.has(path)) return unchanged.get(path);
    const text = textOf(path);
    if (text === undefined) return undefined;
    const source = ts.createSourceFile(path, text, options);
    source.version = ts.sys.createHash(text);
    if (!isEdited) unchanged.set(path, source);
    return source;
  };
  const added = [...edits.keys()].map((file) => join(root, file)).filter((path) => /\.ts$/.test(path));
  const names = [...new Set([...config.fileNames, ...added])];
  const program = ts.createSemanticDiagnosticsBuilderProgram(names, config.options, host, earlier);
  const errors = new Map();
  for (const { file, messageText } of [
    ...program.getConfigFileParsingDiagnostics(),
    ...program.getSyntacticDiagnostics(),
    ...program.getSemanticDiagnostics(),
  ]) {
    errors.set(relative(root, file?.fileName ?? ''), ts.flattenDiagnosticMessageText(messageText, ' '));
  }
  return { program, errors };
}

const started = performance.now();
let problems = 0;
function complain(text) {
  problems++;
  console.error(text);
}

const base = compile(new Map());
for (const [file, message] of base.errors) complain(`before any change: ${file}: ${message}`);

for (const { heading, named } of page) {
  const first = FIRST_CHANGES[heading];
  if (!first) {
    complain(`${PAGE}, "${heading}": there is no experiment for this recipe`);
    continue;
  }
  const { errors } = compile(changedFiles(first), base.program);
  for (const [file, message] of errors) {
    if (!named.includes(file)) complain(`${PAGE}, "${heading}": the compiler names ${file}: ${message}`);
  }
  for (const file of named) {
    if (!errors.has(file)) complain(`${PAGE}, "${heading}": the compiler does not name ${file}`);
  }
  console.log(`${heading}: the compiler names ${[...errors.keys()].join(', ')}`);
}

for (const [file, message] of compile(examples, base.program).errors) {
  complain(`${PAGE}: with the worked examples, ${file}: ${message}`);
}
console.log(`${((performance.now() - started) / 1000).toFixed(0)} s, ${problems} differences`);
process.exitCode = problems > 0 ? 1 : 0;
