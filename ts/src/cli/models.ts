/**
 * `xquant models`: models from a URL or the hub that are kept on disk.
 *
 * @module
 */

import type { Command } from 'commander';
import { LoadError } from '../errors.js';
import { cacheFolder } from '../io/node-file.js';
import { checkKeptModel, type KeptModel, listKeptModels, removeKeptModel } from '../io/node-kept-models.js';
import { nearestName } from '../nearest-name.js';
import { UsageError } from './errors.js';
import { formatBytes, formatTable } from './format.js';
import { addCommonOptions, type CommonOptions, collect } from './options.js';
import { withProgress } from './progress.js';
import { type Terminal, write } from './terminal.js';

interface ModelsCommandOptions extends CommonOptions {
  readonly remove: readonly string[];
  readonly check?: boolean;
}

/** Adds the command. */
export function addModelsCommand(program: Command, terminal: Terminal): void {
  const command = program
    .command('models')
    .description('list, check and remove models from a URL or the hub that are kept on disk')
    .option('--remove <model>', 'remove this model, as --model names it; repeatable', collect, [])
    .option('--check', 'read all files and compare them with their hashes; a damaged one is removed');
  addCommonOptions(command, 'print one JSON object for each model');
  command.action((options: ModelsCommandOptions) => runModels(options, terminal));
}

async function runModels(options: ModelsCommandOptions, terminal: Terminal): Promise<void> {
  const { remove, check, json } = options;
  for (const source of remove) await removeModel(source, terminal);
  const models = await listKeptModels();
  const damaged = check ? await checkAll(models, terminal) : [];
  const shown = damaged.length > 0 ? await listKeptModels() : models;
  if (json) {
    for (const { folder: _folder, ...model } of shown)
      await write(terminal.stdout, `${JSON.stringify(model)}\n`);
  } else if (remove.length === 0) {
    await write(terminal.stdout, table(shown));
  }
  if (damaged.length > 0) throw new LoadError(damaged.join(', '), 'was damaged and is removed');
}

async function removeModel(source: string, { stderr }: Terminal): Promise<void> {
  if (await removeKeptModel(source)) {
    await write(stderr, `removed ${source}\n`);
    return;
  }
  const names = (await listKeptModels()).map((model) => model.source);
  const meant = nearestName(source, names);
  const question = meant === undefined ? '' : `; did you mean "${meant}"?`;
  throw new UsageError(`"--remove ${source}": there is no such model on disk${question}`);
}

async function checkAll(models: readonly KeptModel[], terminal: Terminal): Promise<string[]> {
  const damaged: string[] = [];
  await withProgress(terminal, 'checking', async (update) => {
    for (const [done, model] of models.entries()) {
      update(done, models.length);
      damaged.push(...(await checkKeptModel(model, terminal.signal)));
    }
  });
  return damaged;
}

function table(models: readonly KeptModel[]): string {
  if (models.length === 0) return `no models in ${cacheFolder()}\n`;
  const rows = models.map(({ source, bytes, files, complete }) => [
    source,
    formatBytes(bytes),
    String(files.length),
    complete ? '' : 'incomplete',
  ]);
  const total = models.reduce((sum, { bytes }) => sum + bytes, 0);
  const all = ['in all', formatBytes(total), '', ''];
  return formatTable([['model', 'size', 'files', ''], ...rows, ...(models.length > 1 ? [all] : [])]);
}
