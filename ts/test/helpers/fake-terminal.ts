import { Writable } from 'node:stream';
import type { Terminal } from '../../src/cli/terminal.js';

/** A terminal that remembers what was written to stderr. */
export function fakeTerminal(isTTY: boolean): Terminal & { written: () => string } {
  let text = '';
  const stderr = new Writable({
    write(chunk, _encoding, done) {
      text += chunk;
      done();
    },
  });
  // The bar asks the stream where its cursor is.
  const methods = { isTTY, cursorTo: () => true, clearLine: () => true, moveCursor: () => true };
  return { stderr: Object.assign(stderr, methods), written: () => text } as never;
}
