/**
 * The input of a terminal before `readline` sees it: pasted text becomes one line, and nothing that is typed while an
 * answer is written disturbs it.
 *
 * A terminal in bracketed paste mode puts `ESC [ 200 ~` before pasted text and `ESC [ 201 ~` after it (xterm control
 * sequences). `readline` ends a line at every line break, pasted ones included, so line breaks of a paste pass through
 * it as {@link PASTED_BREAK} and become line breaks again in the message.
 *
 * @module
 */

import { Transform, type TransformCallback } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';

/** Shown in place of a line break of pasted text: "symbol for newline". */
export const PASTED_BREAK = '␤';

const ON = '\x1b[?2004h';
const OFF = '\x1b[?2004l';
const BEGIN = '\x1b[200~';
const END = '\x1b[201~';
const INTERRUPT = '\x03';

/** A terminal's input for `readline`. */
export class TerminalInput extends Transform {
  readonly isTTY = true;
  readonly #source: NodeJS.ReadableStream & { setRawMode?: (mode: boolean) => unknown };
  readonly #screen: NodeJS.WritableStream;
  readonly #decoder = new StringDecoder('utf8');
  /** The beginning of a marker whose rest has not come yet. */
  #rest = '';
  #pasting = false;
  /** Keys typed while input is held. */
  #held: string | undefined;
  #onInterrupt: (() => void) | undefined;

  constructor(
    source: NodeJS.ReadableStream & { setRawMode?: (mode: boolean) => unknown },
    screen: NodeJS.WritableStream,
  ) {
    super({ encoding: 'utf8' });
    this.#source = source;
    this.#screen = screen;
    screen.write(ON);
    source.pipe(this);
  }

  /** `readline` calls this, as it would the terminal's own. */
  setRawMode(mode: boolean): this {
    this.#source.setRawMode?.(mode);
    return this;
  }

  /**
   * Keeps keys back until {@link release}.
   *
   * @param onInterrupt called on Ctrl-C, which also forgets the keys typed before it
   */
  hold(onInterrupt: () => void): void {
    this.#held = '';
    this.#onInterrupt = onInterrupt;
  }

  /** Lets the keys through that were typed meanwhile, and all that follow. */
  release(): void {
    const held = this.#held ?? '';
    this.#held = undefined;
    this.#onInterrupt = undefined;
    if (held !== '') this.push(held);
  }

  /** Leaves the terminal as it was. */
  close(): void {
    this.#source.unpipe(this);
    this.#screen.write(OFF);
    this.destroy();
  }

  override _transform(chunk: Buffer | string, _encoding: BufferEncoding, done: TransformCallback): void {
    const text = this.#translate(typeof chunk === 'string' ? chunk : this.#decoder.write(chunk));
    if (this.#held === undefined) {
      done(null, text);
      return;
    }
    const interrupt = text.lastIndexOf(INTERRUPT);
    if (interrupt >= 0) this.#onInterrupt?.();
    this.#held = interrupt >= 0 ? text.slice(interrupt + 1) : this.#held + text;
    done();
  }

  /** Removes the markers, and replaces line breaks between them. */
  #translate(chunk: string): string {
    let text = this.#rest + chunk;
    let result = '';
    for (;;) {
      const marker = this.#pasting ? END : BEGIN;
      const at = text.indexOf(marker);
      const piece = text.slice(0, at < 0 ? text.length - this.#unfinished(text, marker) : at);
      result += this.#pasting ? flatten(piece) : piece;
      text = text.slice(at < 0 ? piece.length : at + marker.length);
      if (at < 0) break;
      this.#pasting = !this.#pasting;
    }
    this.#rest = text;
    return result;
  }

  /**
   * Length of the end of a text that more text may change: the beginning of a marker, or half of a CR LF. Outside of a
   * paste a lone ESC is the Escape key or the start of an arrow key and is not kept back.
   */
  #unfinished(text: string, marker: string): number {
    if (this.#pasting && text.endsWith('\r')) return 1;
    const least = this.#pasting ? 1 : 2;
    for (let length = Math.min(marker.length - 1, text.length); length >= least; length--) {
      if (marker.startsWith(text.slice(-length))) return length;
    }
    return 0;
  }
}

/** Pasted text on one line. Other control characters would be keys. */
function flatten(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is removed
  return text.replace(/\r\n?|\n/g, PASTED_BREAK).replace(/[\x00-\x08\x0b-\x1f\x7f]/g, '');
}
