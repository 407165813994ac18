/**
 * Runs a command in this process, with streams that a test can look at.
 *
 * @module
 */

import { PassThrough, Readable, Writable } from 'node:stream';
import { runCli } from '../../src/cli/program.js';

/** What a run leaves behind. */
export interface CliRun {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The surroundings of a run. */
export interface CliSurroundings {
  /** What can be read from stdin; a terminal if there is nothing. */
  readonly stdin?: string;
  readonly signal?: AbortSignal;
  /** Whether stdout and stderr are terminals. */
  readonly isTTY?: boolean;
  /** Called with each piece of stdout. */
  readonly onStdout?: (text: string) => void;
}

/** Runs `xquant` with the given arguments. */
export async function runInProcess(args: string[], surroundings: CliSurroundings = {}): Promise<CliRun> {
  const { stdin, signal = new AbortController().signal, isTTY = false, onStdout } = surroundings;
  const written = { stdout: '', stderr: '' };
  const sink = (name: 'stdout' | 'stderr') =>
    Object.assign(
      new Writable({
        decodeStrings: false,
        write(chunk, _encoding, done) {
          written[name] += String(chunk);
          if (name === 'stdout') onStdout?.(String(chunk));
          done();
        },
      }),
      { isTTY },
    );
  const input = stdin === undefined ? new PassThrough() : Readable.from([Buffer.from(stdin)]);
  const code = await runCli(args, {
    stdin: Object.assign(input, { isTTY: stdin === undefined }),
    stdout: sink('stdout'),
    stderr: sink('stderr'),
    signal,
  });
  return { code, ...written };
}
