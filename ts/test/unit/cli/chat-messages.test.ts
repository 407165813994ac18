import { PassThrough } from 'node:stream';
import { fc, test as propertyTest } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { MessageLines, splitPipedText } from '../../../src/cli/chat-messages.js';
import { PASTED_BREAK, TerminalInput } from '../../../src/cli/paste.js';

const KNOWN = new Set(['reset', 'system', 'save']);
const message = (text: string) => ({ kind: 'message', text });
const command = (name: string, argument = '') => ({ kind: 'command', name, argument });

describe('lines at a prompt', () => {
  const said = (...lines: string[]) => {
    const parser = new MessageLines();
    return [...lines.map((line) => parser.push(line)), parser.end()].filter((each) => each !== undefined);
  };

  it.each([
    ['are messages', ['a', 'b'], [message('a'), message('b')]],
    ['with pasted breaks are one', [`a${PASTED_BREAK}b`], [message('a\nb')]],
    ['that end with a backslash go on', ['a\\', 'b\\', 'c'], [message('a\nb\nc')]],
    ['between fences are one', ['"""', 'a', '/reset', 'b\\', '"""'], [message('a\n/reset\nb\\')]],
    ['may share lines with fences', ['"""a', 'b"""'], [message('a\nb')]],
    ['may be a fence each side', ['"""a"""'], [message('a')]],
    ['left open end with the input', ['"""', 'a'], [message('a')]],
    ['of a command', ['/save  my file ', ' /reset'], [command('save', 'my file'), command('reset')]],
    ['of an unknown command', ['/nonsense with words'], [command('nonsense', 'with words')]],
    ['with a path are messages', ['/usr/bin/env', '/ or'], [message('/usr/bin/env'), message('/ or')]],
    ['pasted that begin like a command are a message', [`/reset${PASTED_BREAK}b`], [message('/reset\nb')]],
  ])('%s', (_, lines, expected) => {
    expect(said(...lines)).toEqual(expected);
  });
});

describe('a pipe', () => {
  it.each([
    ['is one message', 'a\nb\n\nc\n', [message('a\nb\n\nc')]],
    [
      'has commands on lines of their own',
      'a\nb\n/reset\nc\n',
      [message('a\nb'), command('reset'), message('c')],
    ],
    ['knows commands with an argument', '/system be brief\na', [command('system', 'be brief'), message('a')]],
    ['reports a slip', 'a\n/rest\n', [message('a'), command('rest')]],
    [
      'keeps text that only looks like it',
      '/tmp is a folder\n/usr/bin\n',
      [message('/tmp is a folder\n/usr/bin')],
    ],
    ['may have a fence around it', '"""\na\nb\n"""\n', [message('a\nb')]],
    ['may contain fences', '"""doc"""\nx = 1\n', [message('"""doc"""\nx = 1')]],
    ['may be empty', '\n \n', []],
    ['of Windows', 'a\r\nb\r\n', [message('a\nb')]],
  ])('%s', (_, text, expected) => {
    expect(splitPipedText(text, KNOWN)).toEqual(expected);
  });
});

describe('a terminal', () => {
  function terminal() {
    const source = new PassThrough();
    const screen = new PassThrough();
    const input = new TerminalInput(source, screen);
    let text = '';
    input.on('data', (piece) => {
      text += piece;
    });
    return { source, screen, input, text: () => text };
  }
  const settled = () => new Promise((resolve) => setImmediate(resolve));

  propertyTest.prop([fc.array(fc.integer({ min: 1, max: 12 }), { minLength: 1, maxLength: 8 })])(
    'makes one line of a paste, wherever the bytes are cut',
    async (cuts) => {
      const { source, text } = terminal();
      const bytes = Buffer.from('> \x1b[200~ä\r\nb\nc\x03\x1b[A\x1b[201~\r/x');
      let at = 0;
      for (let i = 0; at < bytes.length; i++) {
        const next = at + cuts[i % cuts.length];
        source.write(bytes.subarray(at, next));
        await settled();
        at = next;
      }
      // With its ESC alone, the marker at the beginning is a key that was pressed.
      if (!isCut(cuts, bytes.indexOf(0x1b) + 1)) {
        expect(text()).toBe(`> ä${PASTED_BREAK}b${PASTED_BREAK}c[A\r/x`);
      }
    },
  );

  /** Whether pieces of these lengths, over and over, end at a place. */
  function isCut(lengths: number[], place: number): boolean {
    let at = 0;
    for (let i = 0; at < place; i++) at += lengths[i % lengths.length];
    return at === place;
  }

  it('lets keys pass that are no paste', async () => {
    const { source, text } = terminal();
    source.write('a\x1b[A\x1b');
    await settled();
    expect(text()).toBe('a\x1b[A\x1b');
  });

  it('holds keys back during an answer, and hears Ctrl-C', async () => {
    const { source, input, text } = terminal();
    let interrupted = 0;
    input.hold(() => interrupted++);
    source.write('lost\x03kept');
    await settled();
    expect([text(), interrupted]).toEqual(['', 1]);
    input.release();
    source.write('!');
    await settled();
    expect(text()).toBe('kept!');
  });

  it('is left as it was', async () => {
    const { screen, input } = terminal();
    input.close();
    await settled();
    expect(String(screen.read())).toBe('\x1b[?2004h\x1b[?2004l');
  });
});
