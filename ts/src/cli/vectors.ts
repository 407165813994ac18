/**
 * `xquant vectors`: writes fresh test vectors for any shape.
 *
 * @module
 */

import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { writeCase } from '../check/case/golden.js';
import { modelContext } from '../check/context.js';
import { MADE_OPERATIONS, makeCase } from '../check/make-case.js';
import { writeFileAtomically } from '../io/node-write.js';
import { usage } from './errors.js';
import { collect, parseCount, parsePositive } from './options.js';
import { type Terminal, write } from './terminal.js';

interface VectorsCommandOptions {
  readonly op: string;
  readonly shape: readonly [number, number];
  readonly seed: number;
  readonly cases: number;
  readonly out: string;
  readonly option: readonly string[];
  readonly [name: string]: unknown;
}

/** Options of operations that have a flag of their own; anything else goes through `--option`. */
const NUMBER_OPTIONS = [
  'bits',
  'baseBits',
  'groupSize',
  'headDim',
  'heads',
  'kvHeads',
  'kvDim',
  'firstPosition',
  'position',
  'rank',
];
const WORD_OPTIONS = [
  'grouping',
  'keyGrouping',
  'valueGrouping',
  'range',
  'rotation',
  'form',
  'layout',
  'cache',
];
const REAL_OPTIONS = ['theta', 'rmsNormEps'];

/** Adds the command. */
export function addVectorsCommand(program: Command, terminal: Terminal): void {
  const command = program
    .command('vectors')
    .description('write fresh test vectors: heavy-tailed inputs and what the reference makes of them')
    .addOption(new Option('--op <operation>', 'operation').choices(MADE_OPERATIONS).makeOptionMandatory())
    .requiredOption(
      '--shape <rows x columns>',
      'tokens x channels; groups x size for pack: 256x576',
      parseShape,
    )
    .option('--seed <integer>', 'of the inputs; the same seed gives the same bytes', parseCount, 0)
    .option('--cases <count>', 'this many, with seeds counting up', parsePositive, 1)
    .requiredOption('-d, --out <folder>', 'folder to write to; made if it is not there');
  for (const name of NUMBER_OPTIONS)
    command.option(`--${kebab(name)} <integer>`, `option ${name}`, parseCount);
  for (const name of WORD_OPTIONS) command.option(`--${kebab(name)} <value>`, `option ${name}`);
  for (const name of REAL_OPTIONS) command.option(`--${kebab(name)} <number>`, `option ${name}`, parseReal);
  command
    .option('--option <name=value>', 'any other option, its value in JSON; repeatable', collect, [])
    .addHelpText('after', '\nOptions of each operation: xquant check --list')
    .action((options: VectorsCommandOptions) => runVectors(options, terminal));
}

async function runVectors(options: VectorsCommandOptions, terminal: Terminal): Promise<void> {
  const { op, out, seed, cases } = options;
  const [rows, columns] = options.shape;
  const given = usage(() => operationOptions(options));
  const context = modelContext({ signal: terminal.signal });
  await mkdir(out, { recursive: true });
  for (let i = 0; i < cases; i++) {
    terminal.signal.throwIfAborted();
    const made = await makeCase({ operation: op, rows, columns, seed: seed + i, options: given }, context);
    const path = join(out, `${made.name}${suffix(given)}.safetensors`);
    const bytes = writeCase(made);
    await writeFileAtomically(path, bytes);
    await write(terminal.stdout, `${path}\n`, terminal.signal);
  }
}

/** Options that were given, for the name of the file. */
function suffix(given: Readonly<Record<string, unknown>>): string {
  return Object.entries(given)
    .map(([name, value]) => `-${kebab(name)}${String(value).replace(/[^\w.]+/g, '_')}`)
    .join('');
}

function operationOptions(options: VectorsCommandOptions): Record<string, unknown> {
  const given: Record<string, unknown> = {};
  for (const name of [...NUMBER_OPTIONS, ...WORD_OPTIONS, ...REAL_OPTIONS]) {
    if (options[name] !== undefined) given[name] = options[name];
  }
  for (const text of options.option) {
    const [, name, json] = /^([A-Za-z]+)=(.*)$/s.exec(text) ?? [];
    if (name === undefined) throw new RangeError(`"--option" must be NAME=VALUE, got "${text}"`);
    try {
      given[name] = JSON.parse(json);
    } catch {
      given[name] = json;
    }
  }
  return given;
}

function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

function parseShape(text: string): readonly [number, number] {
  const match = /^(\d{1,7})x(\d{1,7})$/.exec(text);
  const sizes = match ? [Number(match[1]), Number(match[2])] : [];
  if (sizes.length !== 2 || sizes.some((size) => size < 1)) {
    throw new InvalidArgumentError('It must be ROWSxCOLUMNS, both positive.');
  }
  return [sizes[0], sizes[1]];
}

function parseReal(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('It must be a number.');
  return value;
}
