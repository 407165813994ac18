/**
 * All commands together, and how a run ends: an exit code, and at most one line about what went wrong.
 *
 * @module
 */

import { Command, CommanderError } from 'commander';
import { addCalibrateCommand } from './calibrate.js';
import { addChatCommand } from './chat.js';
import { addCheckCommand } from './check.js';
import { EXIT, exitCodeOf, formatError, Interruption } from './errors.js';
import { addGenerateCommand } from './generate.js';
import { addInfoCommand } from './info.js';
import { addMemoryCommand } from './memory.js';
import { addModelsCommand } from './models.js';
import { addPerplexityCommand } from './perplexity.js';
import { addReproduceCommand } from './reproduce.js';
import { addServeCommand } from './serve.js';
import { addSvdCommand } from './svd.js';
import type { Terminal } from './terminal.js';
import { addVectorsCommand } from './vectors.js';
import { packageVersion } from './version.js';

/** Columns of help texts, the same everywhere, so that docs/cli.md does not depend on a window. */
const HELP_WIDTH = 100;

/** The whole command line. */
export function createProgram(terminal: Terminal): Command {
  const program = new Command('xquant')
    .description(
      'LLM inference with XQuant caches (arXiv 2508.10395): quantized layer inputs, keys and values rebuilt from them',
    )
    .version(packageVersion(), '-V, --version', 'print the version')
    .helpCommand(false)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => terminal.stdout.write(text),
      writeErr: (text) => terminal.stderr.write(text),
      outputError: () => undefined, // runCli prints it, like every other error
      getOutHelpWidth: () => HELP_WIDTH,
      getErrHelpWidth: () => HELP_WIDTH,
    });
  addGenerateCommand(program, terminal);
  addChatCommand(program, terminal);
  addServeCommand(program, terminal);
  addPerplexityCommand(program, terminal);
  addReproduceCommand(program, terminal);
  addMemoryCommand(program, terminal);
  addCalibrateCommand(program, terminal);
  addSvdCommand(program, terminal);
  addInfoCommand(program, terminal);
  addModelsCommand(program, terminal);
  addCheckCommand(program, terminal);
  addVectorsCommand(program, terminal);
  return program;
}

/**
 * Runs one command.
 *
 * @param args without the names of node and script
 * @returns the exit code
 */
export async function runCli(args: readonly string[], terminal: Terminal): Promise<number> {
  try {
    await createProgram(terminal).parseAsync(args, { from: 'user' });
    return EXIT.ok;
  } catch (thrown) {
    // Whatever an interruption made fail, the interruption is the reason.
    const { signal } = terminal;
    const error = signal.aborted && signal.reason instanceof Interruption ? signal.reason : thrown;
    // Commander has printed the help or the version already.
    const isHelp = error instanceof CommanderError && /^commander\.(help|version)/.test(error.code);
    if (!isHelp && !(error instanceof Interruption)) {
      terminal.stderr.write(formatError(error, args.includes('--verbose')));
    }
    return exitCodeOf(error);
  }
}
