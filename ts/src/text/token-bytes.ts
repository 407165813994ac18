/**
 * What each token stands for, as bytes, and the way back from bytes to text.
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

/** How the tokens of a vocabulary are written. */
export interface TokenSpelling {
  readonly kind: 'byte-level' | 'sentencepiece';
  /** Whether one space at the beginning of a text is not part of it (SentencePiece puts it there). */
  readonly stripLeadingSpace: boolean;
}

const METASPACE = '▁';
const SPACE = 0x20;
const encoder = new TextEncoder();

/**
 * Finds the spelling from the decoder of a tokenizer.json.
 *
 * @param decoder the `decoder` entry
 * @throws {UnsupportedModelError} names a decoder that is neither
 */
export function spellingOf(decoder: unknown, path: string): TokenSpelling {
  const steps = flatten(decoder);
  const types = steps.map((step) => step.type);
  if (types.includes('ByteLevel')) return { kind: 'byte-level', stripLeadingSpace: false };
  const metaspace = steps.find((step) => step.type === 'Metaspace');
  if (metaspace) {
    const never = metaspace.prepend_scheme === 'never' || metaspace.add_prefix_space === false;
    return { kind: 'sentencepiece', stripLeadingSpace: !never };
  }
  const known = new Set<unknown>(['Replace', 'ByteFallback', 'Fuse', 'Strip']);
  if (types.includes('Replace') && types.every((type) => known.has(type))) {
    return { kind: 'sentencepiece', stripLeadingSpace: types.includes('Strip') };
  }
  const name = types.length > 0 ? types.join(' + ') : 'none';
  throw new UnsupportedModelError(
    path,
    `tokenizer decoder "${name}"`,
    'ByteLevel, SentencePiece (Replace, Metaspace)',
  );
}

/** The bytes that a token stands for. */
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
  const single = /^<0x([0-9A-Fa-f]{2})>$/.exec(token);
  if (single) return Uint8Array.of(Number.parseInt(single[1], 16));
  return encoder.encode(token.replaceAll(METASPACE, ' '));
}

/** Turns tokens into text as they come. It never gives half a character. */
export class StreamDecoder {
  private utf8 = newUtf8();
  private atStart: boolean;

  /**
   * @param bytesOf the bytes of a token; `undefined` for one that is not shown
   * @param stripLeadingSpace whether a space at the very beginning is dropped
   */
  constructor(
    private readonly bytesOf: (id: number) => Uint8Array | undefined,
    stripLeadingSpace: boolean,
  ) {
    this.atStart = stripLeadingSpace;
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
    if (this.atStart && bytes[0] === SPACE) bytes = bytes.subarray(1);
    this.atStart = false;
    return this.utf8.decode(bytes, { stream: true });
  }

  /** Ends the text: bytes that never became a character come out as U+FFFD. The decoder can be used anew. */
  flush(): string {
    return this.utf8.decode();
  }
}

function newUtf8(): TextDecoder {
  return new TextDecoder('utf-8', { ignoreBOM: true });
}

interface DecoderStep {
  readonly type?: unknown;
  readonly prepend_scheme?: unknown;
  readonly add_prefix_space?: unknown;
}

function flatten(decoder: unknown): DecoderStep[] {
  if (typeof decoder !== 'object' || decoder === null) return [];
  const { type, decoders } = decoder as { type?: unknown; decoders?: unknown };
  if (type === 'Sequence' && Array.isArray(decoders)) return decoders.flatMap(flatten);
  return [decoder as DecoderStep];
}

/**
 * GPT-2's table: printable Latin-1 characters stand for their own byte, the other 68 bytes for U+0100 and on,
 * in order. A space is "Ġ" (U+0120), a line feed "Ċ" (U+010A).
 */
const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = (() => {
  const table = new Map<string, number>();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable =
      (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
    table.set(String.fromCharCode(printable ? byte : next++), byte);
  }
  return table;
})();
