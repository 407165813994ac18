import { Writable } from 'node:stream';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { write } from '../../src/cli/terminal.js';
import { ConfigError, FormatError, UnsupportedModelError } from '../../src/errors.js';
import { parseJsonObject } from '../../src/io/json.js';
import { readModelHeader } from '../../src/io/load-model.js';
import { describeValue, printableName, printableText, terminalText } from '../../src/printable.js';
import { tinyModelGguf } from '../helpers/gguf-writer.js';

/** What steers a terminal or turns text around; line feed does not. */
const STEERS = /[\p{Cc}\p{Cs}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/u;

const anyText = fc.string({ unit: 'binary', maxLength: 50 });

describe('names and text of others', () => {
  test.prop([anyText])('nothing is left that steers', (text) => {
    expect(printableName(text)).not.toMatch(STEERS);
    expect(printableText(text).replace(/\n/g, '')).not.toMatch(STEERS);
  });

  test.prop([fc.string({ unit: 'grapheme-ascii' })])('plain text stays as it is', (text) => {
    expect(printableName(text)).toBe(text);
  });

  test.prop([fc.array(anyText)])('no piece of a stream steers a terminal', (pieces) => {
    const shown = pieces.map(terminalText).join('');
    expect(shown.replaceAll('\r\n', '')).not.toMatch(/[^\P{Cc}\n\t]/u);
  });

  it('what languages and line ends need reaches a terminal', async () => {
    const text = 'שלום\u200f!\r\n\tx\n';
    expect(terminalText(text)).toBe(text);
    const written: string[] = [];
    const stream = (isTTY: boolean) =>
      Object.assign(
        new Writable({ decodeStrings: false, write: (chunk, _, done) => done(void written.push(chunk)) }),
        { isTTY },
      );
    await write(stream(true), 'a\u001b]0;b\u0007\rc');
    await write(stream(false), 'a\u001b[2J');
    expect(written).toEqual(['a\\u{1b}]0;b\\u{7}\\u{d}c', 'a\u001b[2J']);
  });

  it('characters become their codes, and letters of all languages stay', () => {
    expect(printableName('a\u001b[2J\n\u202eb')).toBe('a\\u{1b}[2J\\u{a}\\u{202e}b');
    expect(printableText('é漢\u{1F600}\n\tx\u009b')).toBe('é漢\u{1F600}\n\\u{9}x\\u{9b}');
  });

  it('a model is called by a name that can be shown', async () => {
    const model = tinyModelGguf({
      edit: ({ metadata }) => {
        metadata['general.name'] = 'x\u001b]0;title\u0007\u001b[2J';
      },
    });
    expect((await readModelHeader(model)).name).toBe('x\\u{1b}]0;title\\u{7}\\u{1b}[2J');
  });

  it('errors of the package say names of files without control characters', () => {
    const errors = [
      new FormatError('m\u001b[2J.gguf', 'blk\u0007', 'x\u009b'),
      new ConfigError('cache', '\u001b[31m', 'good'),
      new UnsupportedModelError('a', 'tensor "\u001b]0;x\u0007"', 'b'),
    ];
    for (const { message } of errors) expect(message).not.toMatch(STEERS);
    expect(new FormatError('a', 'b', 'x'.repeat(1e6)).message.length).toBeLessThan(5000);
  });
});

describe('what a parser quotes', () => {
  // V8 quotes the text around a mistake, tabs and line feeds included.
  test.prop([anyText])('is on one line', (text) => {
    const broken = `{"a": ${text}\t\n]`;
    let message = '';
    try {
      parseJsonObject(broken, 'config.json', 'content');
    } catch (error) {
      message = (error as Error).message;
    }
    expect(message).toMatch(/is not JSON/);
    expect(message).not.toMatch(STEERS);
  });
});

describe('values in messages', () => {
  test.prop([
    fc.anything({ withBigInt: true, withNullPrototype: true, withSparseArray: true, withTypedArray: true }),
  ])('any value is a short text', (value) => {
    const text = describeValue(value);
    expect(text.length).toBeLessThan(300);
    expect(text).not.toMatch(STEERS);
  });

  it('runs nothing that the value brings along', () => {
    const trap = () => {
      throw new Error('it was run');
    };
    const value = { toString: trap, toJSON: trap, valueOf: trap, [Symbol.toPrimitive]: trap };
    expect(describeValue([value])).toBe(
      '[{"toString": a function, "toJSON": a function, "valueOf": a function}]',
    );
    const getter = Object.defineProperty({}, 'x', { get: trap, enumerable: true });
    expect(describeValue(getter)).toBe('{"x": undefined}');
  });

  it('looks only at the beginning of what is deep or long', () => {
    let deep: unknown = 1;
    for (let i = 0; i < 1e5; i++) deep = [deep];
    expect(describeValue(deep)).toBe('[[[a list of 1]]]');
    expect(describeValue(new Array(1e6).fill(0))).toBe('[0, 0, 0, 0, 0, 0, 0, 0, ...]');
    expect(describeValue('x'.repeat(1e6)).length).toBeLessThan(150);
    expect(describeValue(new Float32Array(2))).toBe('a Float32Array of 8 bytes');
  });
});
