/**
 * The bytes of each token, and the way back from bytes to text.
 *
 * A character can be spread over several tokens, so tokens decode to bytes first; text comes out where
 * UTF-8 is complete. That is the one way of decoding here, for whole texts and for streams.
 *
 *     byte-level     "Ġworld"  -> 20 77 6f ...   one of 256 printable characters per byte (GPT-2's table)
 *     SentencePiece  "▁world"  -> 20 77 6f ...   U+2581 is a space, "<0x0A>" a single byte
 *
 * @module
 */

import { UnsupportedModelError } from '../errors.js';
import { Fields, shown } from './pipeline/fields.js';

/** How the tokens of a vocabulary are written. */
export interface TokenSpelling {
  readonly kind: 'byte-level' | 'sentencepiece';
  /**
   * The spaces at the beginning of a text that are not part of it, because SentencePiece puts one there: one space, or
   * all of the first token (what the decoder Metaspace does).
   */
  readonly leadingSpace: 'kept' | 'one' | 'firstToken';
  /** Whether `<0x0A>` is a byte; else it is text. */
  readonly byteFallback: boolean;
}

const METASPACE = '▁';
const SPACE = 0x20;
const MAX_DEPTH = 20;
const SUPPORTED = 'ByteLevel, Metaspace, SentencePiece (Replace, ByteFallback, Fuse, Strip)';
const encoder = new TextEncoder();

/**
 * Finds the spelling from the decoder of a tokenizer.json.
 *
 * @param decoder the `decoder` entry
 * @throws {FormatError} names a part of a wrong type
 * @throws {UnsupportedModelError} names a decoder that is not supported
 */
export function spellingOf(decoder: unknown, path: string): TokenSpelling {
  if (decoder === null || decoder === undefined) {
    throw new UnsupportedModelError(path, 'a tokenizer without decoder', SUPPORTED);
  }
  const steps = flatten(Fields.of(decoder, path, 'decoder'), 0);
  const types = steps.map((step) => step.type);
  if (types.length === 1 && types[0] === 'ByteLevel')
    return { kind: 'byte-level', leadingSpace: 'kept', byteFallback: false };
  if (types.length === 1 && types[0] === 'Metaspace') {
    const [step] = steps;
    if (step.string('replacement', METASPACE) !== METASPACE)
      throw otherThan(step, `replacement "${METASPACE}"`);
    const legacy = step.boolean('add_prefix_space', true) ? 'always' : 'never';
    const scheme = step.oneOf('prepend_scheme', ['always', 'first', 'never'], legacy);
    const leadingSpace = scheme === 'never' ? 'kept' : 'firstToken';
    return { kind: 'sentencepiece', leadingSpace, byteFallback: false };
  }
  if (!types.includes('Replace') || types.includes('ByteLevel') || types.includes('Metaspace')) {
    throw new UnsupportedModelError(path, `tokenizer decoder "${types.join(' + ')}"`, SUPPORTED);
  }
  const strips = steps.map(stripsOneSpace).includes(true);
  return {
    kind: 'sentencepiece',
    leadingSpace: strips ? 'one' : 'kept',
    byteFallback: types.includes('ByteFallback'),
  };
}

/** Whether a step of a SentencePiece decoder takes a space from the beginning; checks the others. */
function stripsOneSpace(step: Fields): boolean {
  switch (step.type) {
    case 'Replace': {
      const { String: text } = (step.json.pattern ?? {}) as { String?: unknown };
      if (text !== METASPACE || step.string('content') !== ' ')
        throw otherThan(step, `"${METASPACE}" by a space`);
      return false;
    }
    case 'ByteFallback':
    case 'Fuse':
      return false;
    case 'Strip': {
      const start = step.count('start', 0);
      if (step.string('content', ' ') !== ' ' || start > 1 || step.count('stop', 0) > 0) {
        throw otherThan(step, 'one space at the start');
      }
      return start === 1;
    }
  }
  throw step.unsupported(`decoder "${step.type}"`, SUPPORTED);
}

function otherThan(step: Fields, supported: string): UnsupportedModelError {
  return step.unsupported(`${step.type} of ${shown(step.json)}`, supported);
}

/** A text as characters of GPT-2's table, one for each of its UTF-8 bytes. */
export function toByteCharacters(text: string): string {
  let written = '';
  for (const byte of encoder.encode(text)) written += CHARACTER_OF_BYTE[byte];
  return written;
}

/** The bytes of a token. */
export function tokenBytes(token: string, spelling: TokenSpelling): Uint8Array {
  if (spelling.kind === 'byte-level') {
    const bytes = new Uint8Array(token.length);
    for (let i = 0; i < token.length; i++) {
      const byte = BYTE_OF_CHARACTER.get(token[i]);
      if (byte === undefined) return encoder.encode(token); // not written in the table: it is plain text
      bytes[i] = byte;
    }
    return bytes;
  }
  const single = spelling.byteFallback ? /^<0x([0-9A-Fa-f]{2})>$/.exec(token) : null;
  if (single) return Uint8Array.of(Number.parseInt(single[1], 16));
  return encoder.encode(token.replaceAll(METASPACE, ' '));
}

/** Turns tokens into text as they come. It never gives half a character. */
export class StreamDecoder {
  private utf8 = newUtf8();
  private atStart: boolean;

  /**
   * @param bytesOf the bytes of a token; `undefined` for one that is not shown
   * @param leadingSpace which spaces at the very beginning are dropped
   */
  constructor(
    private readonly bytesOf: (id: number) => Uint8Array | undefined,
    private readonly leadingSpace: TokenSpelling['leadingSpace'],
  ) {
    this.atStart = leadingSpace !== 'kept';
  }

  /**
   * Takes one token.
   *
   * @returns the text that is complete now; often empty
   * @throws {RangeError} if the id is not a token id
   */
  push(id: number): string {
    let bytes = this.bytesOf(id);
    if (!bytes || bytes.length === 0) return '';
    if (this.atStart && bytes[0] === SPACE) {
      const count = this.leadingSpace === 'one' ? 1 : bytes.findIndex((byte) => byte !== SPACE);
      bytes = bytes.subarray(count < 0 ? bytes.length : count);
    }
    this.atStart = false;
    return this.utf8.decode(bytes, { stream: true });
  }

  /** Ends the text: bytes that never became a character come out as U+FFFD. The decoder can be used again. */
  flush(): string {
    return this.utf8.decode();
  }
}

function newUtf8(): TextDecoder {
  return new TextDecoder('utf-8', { ignoreBOM: true });
}

function flatten(step: Fields, depth: number): Fields[] {
  if (step.type !== 'Sequence') return [step];
  if (depth >= MAX_DEPTH) throw step.error('decoders', `sequences nest over ${MAX_DEPTH} deep`);
  return step.list('decoders').flatMap((each) => flatten(each, depth + 1));
}

/**
 * GPT-2's table: printable Latin-1 characters stand for their own byte, the other 68 bytes for U+0100 and on,
 * in order. A space is "Ġ" (U+0120), a line feed "Ċ" (U+010A).
 */
const CHARACTER_OF_BYTE: readonly string[] = (() => {
  const table: string[] = [];
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable =
      (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
    table.push(String.fromCharCode(printable ? byte : next++));
  }
  return table;
})();

const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = new Map(
  CHARACTER_OF_BYTE.map((character, byte) => [character, byte]),
);
