#!/usr/bin/env node
/**
 * The `xquant` executable: connects the command line to this process.
 *
 * @module
 */

import { reasonOf } from '../io/node-file.js';
import { EXIT, Interruption } from './errors.js';
import { runCli } from './program.js';

const controller = new AbortController();
let hasFailed = false;

for (const [name, code] of [
  ['SIGINT', EXIT.interrupted],
  ['SIGTERM', EXIT.terminated],
] as const) {
  process.on(name, () => {
    // The second one does not wait for anything to notice the first.
    if (controller.signal.aborted) process.exit(code);
    controller.abort(new Interruption(code));
  });
}

for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    // `xquant ... | head`: nobody reads any more, which is no failure.
    if (error.code === 'EPIPE') controller.abort(new Interruption(EXIT.ok));
    else fail(error);
  });
}

/** A full disk, for instance: one line, and the command ends. */
function fail(error: Error): void {
  if (hasFailed) return; // stderr itself, perhaps
  hasFailed = true;
  process.exitCode = EXIT.failed;
  process.stderr.write(`xquant: the output cannot be written: ${reasonOf(error)}\n`);
  controller.abort(new Interruption(EXIT.failed));
}

const { stdin, stdout, stderr } = process;
const exitCode = await runCli(process.argv.slice(2), { stdin, stdout, stderr, signal: controller.signal });
process.exitCode = hasFailed ? EXIT.failed : exitCode;
// An unread pipe on stdin would keep the process alive.
stdin.destroy();
