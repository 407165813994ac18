/**
 * `xquant svd`: computes the factors of the latent forms once and writes them to a file.
 *
 * @module
 */

import { type Command, Option } from 'commander';
import { resolveCacheOptions } from '../cache/presets.js';
import { writeFileAtomically } from '../io/node-write.js';
import { factorsOfCache, factorsOfModel, writeFactors } from '../io/svd-factors.js';
import { computeFactors, withModel } from './backend.js';
import { UsageError, usage } from './errors.js';
import { formatBytes } from './format.js';
import {
  addCommonOptions,
  addModelOption,
  type CommonOptions,
  type ModelSourceOptions,
  parseCacheArgument,
} from './options.js';
import { assertWritable, type Terminal, write } from './terminal.js';

interface SvdCommandOptions extends CommonOptions, ModelSourceOptions {
  readonly output: string;
  readonly cache?: string;
}

/** Adds the command. */
export function addSvdCommand(program: Command, terminal: Terminal): void {
  const command = program
    .command('svd')
    .description('compute the SVD factors of the latent forms and write them to a file');
  addModelOption(command)
    .requiredOption('-o, --output <file>', 'safetensors file to write; use it with --svd')
    .addOption(
      new Option(
        '-c, --cache <cache>',
        'only what this cache needs (default: whatever a cache can need)',
      ).argParser(parseCacheArgument),
    );
  addCommonOptions(command, 'print one JSON object');
  command.action((options: SvdCommandOptions) => runSvd(options, terminal));
}

async function runSvd(
  { model, keep, output, cache, json }: SvdCommandOptions,
  terminal: Terminal,
): Promise<void> {
  await assertWritable(output);
  const started = performance.now();
  // Factors come from the weights alone, so any implementation gives them; the reference needs nothing else.
  await withModel(
    { model, backend: 'reference', keep },
    terminal,
    async ({ header, fingerprint, factors }) => {
      const { config } = header;
      const names =
        cache === undefined
          ? factorsOfModel(config)
          : factorsOfCache(
              usage(() => resolveCacheOptions(cache, config)),
              config,
            );
      if (names.length === 0)
        throw new UsageError(`cache ${cache} stores X of this model and needs no factors`);
      await computeFactors(factors, names, terminal);
      const bytes = writeFactors(names, factors, fingerprint);
      await writeFileAtomically(output, bytes);
      const seconds = (performance.now() - started) / 1000;
      const matrices = names.map(({ layer, matrix }) => ({ layer, matrix }));
      const result = {
        file: output,
        model: header.name,
        fingerprint,
        matrices,
        bytes: bytes.length,
        seconds,
      };
      const text = `${output}: ${names.length} matrices, ${formatBytes(bytes.length)}, ${seconds.toFixed(1)} s\n`;
      await write(terminal.stdout, json ? `${JSON.stringify(result)}\n` : text, terminal.signal);
    },
  );
}
