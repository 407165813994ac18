/**
 * `xquant check`: compares dumps of a kernel with the reference and says what is wrong.
 *
 * @module
 */

import { dirname, join } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { CASE_FILE, readCase, readNpyCase, readNpzCase } from '../check/case/golden.js';
import type { CheckCase } from '../check/case/inputs.js';
import { type CaseReport, checkCase, errorReport } from '../check/check.js';
import type { Tolerance } from '../check/compare/compare.js';
import { COMPUTE_TYPES, type ComputeType } from '../check/compare/rounding-noise.js';
import { modelContext } from '../check/context.js';
import { DIAGNOSE_SECONDS } from '../check/diagnose.js';
import type { CheckContext } from '../check/operation.js';
import {
  formatCase,
  formatJson,
  formatJunit,
  formatOperations,
  formatSummary,
  summarize,
} from '../check/report.js';
import { LoadError } from '../errors.js';
import { directoryFolder, fileSource, isDirectory } from '../io/node-file.js';
import { heldoutText } from '../io/node-models.js';
import { writeFileAtomically } from '../io/node-write.js';
import { readText } from '../io/source.js';
import { UsageError } from './errors.js';
import { Progress } from './progress.js';
import { type Terminal, write } from './terminal.js';

interface CheckCommandOptions {
  readonly json?: boolean;
  readonly junit?: string;
  readonly tolerance?: Tolerance;
  readonly list?: boolean;
  readonly verbose?: boolean;
  readonly diagnose: boolean;
  readonly diagnoseFor?: number;
  readonly require?: readonly string[];
  readonly strict?: boolean;
  readonly compute: ComputeType;
}

/** Archives of arrays. */
const NPZ = '.npz';

/** Outputs that do not match. The report has been printed; this is the last line and the exit code. */
class MismatchError extends Error {
  override readonly name = 'MismatchError';
}

/** Adds the command. */
export function addCheckCommand(program: Command, terminal: Terminal): void {
  program
    .command('check')
    .description("compare a kernel's dumped outputs with the reference, and name the mistake")
    .argument(
      '[path...]',
      `safetensors files, .npz archives, folders of them, or folders of .npy files with a ${CASE_FILE}`,
    )
    .option('--json', 'print the report as one JSON object')
    .option('--junit <file>', 'also write a JUnit XML report')
    .option(
      '--tolerance <absolute[,relative]>',
      'instead of the derived bounds, for floats; codes and what is stored stay exact',
      parseTolerance,
    )
    .addOption(
      new Option('--compute <type>', 'what the kernel multiplies in, for bounds of rematerialize and attend')
        .choices(COMPUTE_TYPES)
        .default('f32'),
    )
    .option('--require <outputs>', 'outputs that must be in every file, comma separated', parseNames)
    .option('--strict', 'every output must be there, and a comparison that proves nothing is a mismatch')
    .option('--no-diagnose', 'do not look for the mistake')
    .option('--diagnose-for <seconds>', `look for it this long (${DIAGNOSE_SECONDS})`, parseSeconds)
    .option('--list', 'print all operations with their options and tensors')
    .option(
      '--verbose',
      'show histograms and differences within the bounds too; errors with their stack',
      false,
    )
    .addHelpText(
      'after',
      '\nExit codes: 0 everything matches, 1 a mismatch, 2 a file that cannot be judged or a wrong command.',
    )
    .action((paths: string[], options: CheckCommandOptions) => runCheck(paths, options, terminal));
}

async function runCheck(
  paths: readonly string[],
  options: CheckCommandOptions,
  terminal: Terminal,
): Promise<void> {
  const { stdout, signal } = terminal;
  if (options.list) {
    await write(stdout, formatOperations(), signal);
    return;
  }
  if (paths.length === 0) throw new UsageError('name at least one file or folder, or use --list');
  const context = modelContext({ signal, heldoutText });
  const reports: CaseReport[] = [];
  // Without --json the report itself comes case by case.
  const progress = options.json ? new Progress(terminal, 'checking', { lines: true }) : undefined;
  try {
    const cases: FoundCase[] = [];
    for await (const found of findCases(paths)) cases.push(found);
    // One case at a time: what is read for one is free before the next.
    for (const open of cases) {
      signal.throwIfAborted();
      progress?.update(reports.length, cases.length);
      const report = await checkOne(open, { ...context, compute: options.compute }, options);
      reports.push(report);
      if (!options.json) await write(stdout, formatCase(report, options.verbose), signal);
    }
  } finally {
    progress?.stop();
    await context.dispose();
  }
  if (options.json) await write(stdout, formatJson(reports), signal);
  else await write(stdout, formatSummary(summarize(reports)), signal);
  if (options.junit !== undefined) await writeFileAtomically(options.junit, formatJunit(reports));

  const { cases, fail, error } = summarize(reports);
  if (fail > 0) throw new MismatchError(`${fail} of ${cases} cases do not match`);
  if (error > 0) throw new UsageError(`${error} of ${cases} cases cannot be judged`);
}

interface FoundCase {
  readonly name: string;
  read(): Promise<CheckCase>;
}

async function checkOne(
  found: FoundCase,
  context: CheckContext,
  options: CheckCommandOptions,
): Promise<CaseReport> {
  let source: CheckCase;
  try {
    source = await found.read();
  } catch (error) {
    return errorReport({ name: found.name }, error);
  }
  const { tolerance, diagnose, diagnoseFor, require, strict } = options;
  return checkCase(source, context, { tolerance, diagnose, diagnoseSeconds: diagnoseFor, require, strict });
}

/** The cases at the given paths, in the order of their names. A path without any is a case that cannot be read. */
async function* findCases(paths: readonly string[]): AsyncIterable<FoundCase> {
  for (const path of paths) {
    try {
      yield* casesAt(path);
    } catch (error) {
      yield { name: path, read: () => Promise.reject(error) };
    }
  }
}

async function* casesAt(path: string): AsyncIterable<FoundCase> {
  if (!(await isDirectory(path))) {
    yield fileCase(path);
    return;
  }
  const files = (await directoryFolder(path).list()) ?? [];
  const archives = files.filter((file) => file.endsWith('.safetensors') || file.endsWith(NPZ));
  const isCase = files.includes(CASE_FILE) && archives.length === 0;
  if (isCase) yield { name: path, read: () => readNpyCase(directoryFolder(path)) };
  else if (archives.length === 0) {
    throw new LoadError(path, `has no .safetensors or ${NPZ} files and no ${CASE_FILE}`);
  }
  for (const file of archives) yield fileCase(join(path, file));
}

function fileCase(path: string): FoundCase {
  return {
    name: path,
    async read() {
      if (path.endsWith('.npy')) {
        throw new LoadError(path, `give the folder, which needs a ${CASE_FILE}`);
      }
      const source = await fileSource(path);
      try {
        if (!path.endsWith(NPZ)) return await readCase(source);
        return await readNpzCase(source, await descriptionBeside(path));
      } finally {
        await source.close();
      }
    },
  };
}

/** Text of the `case.json` in the folder of an archive, if there is one. */
async function descriptionBeside(path: string): Promise<string | undefined> {
  const source = await directoryFolder(dirname(path)).open(CASE_FILE);
  try {
    return source && (await readText(source));
  } finally {
    await source?.close();
  }
}

function parseTolerance(text: string): Tolerance {
  const parts = text.split(',').map((part) => part.trim());
  const numbers = parts.map(Number);
  if (
    parts.length > 2 ||
    parts.includes('') ||
    numbers.some((value) => !(value >= 0 && Number.isFinite(value)))
  ) {
    throw new InvalidArgumentError('It must be ABSOLUTE or ABSOLUTE,RELATIVE, neither negative.');
  }
  return { absolute: numbers[0], relative: numbers[1] ?? 0 };
}

function parseNames(text: string): string[] {
  const names = text.split(',').map((name) => name.trim());
  if (names.includes('')) throw new InvalidArgumentError('It must be names of outputs, comma separated.');
  return names;
}

function parseSeconds(text: string): number {
  const seconds = Number(text);
  if (text.trim() === '' || !(seconds > 0 && Number.isFinite(seconds))) {
    throw new InvalidArgumentError('It must be a positive number of seconds.');
  }
  return seconds;
}
