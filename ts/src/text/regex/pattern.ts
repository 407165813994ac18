/**
 * Finds a pattern in texts, in time that is bounded whatever the pattern.
 *
 * JavaScript's own engine cannot be used: `(a+)+$` takes it hours, nothing can interrupt it, and it has another
 * idea of `\s`, `\w` and the possessive quantifiers. No library was found either: engines without backtracking
 * (re2js) have no lookahead, which the pattern of GPT-2 needs, and translators (oniguruma-to-es) end up in
 * JavaScript's engine. This is a backtracking matcher that never tries the same instruction at the same place twice
 * once a search takes long, and that gives up after a number of steps in proportion to the text.
 *
 * @module
 */

import { compile, type Instruction } from './program.js';
import { type Anchor, PatternError, parsePattern } from './syntax.js';

/** Steps in all searches of one text. Patterns of published models take about ten a character. */
const STEPS_PER_CHARACTER = 200;
const STEPS_PER_TEXT = 1_000_000;

/** Steps of one search from which on it is noted what failed. */
const STEPS_BEFORE_MEMORY = 2000;

/** Bits of that memory at most: 16 MB. */
const MAX_MEMORY = 2 ** 27;

const WORD = /[\p{L}\p{M}\p{N}\p{Pc}]/u;

/** A part of a text, in UTF-16 code units. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/** A compiled pattern. */
export class Pattern {
  readonly #program: readonly Instruction[];

  /** @throws {PatternError} if the pattern is broken or uses something that is not supported */
  constructor(source: string) {
    this.#program = compile(parsePattern(source));
  }

  /**
   * All matches from left to right, as Oniguruma's `find_iter` gives them: an empty match directly after another
   * match does not count.
   *
   * @throws {PatternError} if the pattern takes too long on this text
   */
  *matches(text: string): IterableIterator<Span> {
    const search = new Search(this.#program, text);
    let lastEnd = -1;
    for (let start = 0; start <= text.length; ) {
      const end = search.from(start);
      if (end === undefined || (end === start && end === lastEnd)) {
        start += pointLength(text, start);
        continue;
      }
      yield { start, end };
      lastEnd = end;
      start = end === start ? start + pointLength(text, start) : end;
    }
  }
}

function pointLength(text: string, at: number): number {
  const unit = text.charCodeAt(at);
  return unit >= 0xd800 && unit < 0xdc00 && at + 1 < text.length ? 2 : 1;
}

/** One text being searched. */
class Search {
  readonly #program: readonly Instruction[];
  readonly #text: string;
  #steps: number;
  #memoryAt = 0;
  /** Instruction and place of every choice that failed; absent while searches are short. */
  #tried: Uint32Array | undefined;

  constructor(program: readonly Instruction[], text: string) {
    this.#program = program;
    this.#text = text;
    this.#steps = STEPS_PER_TEXT + STEPS_PER_CHARACTER * text.length;
  }

  /** The end of a match that starts here. */
  from(start: number): number | undefined {
    this.#memoryAt = this.#steps - STEPS_BEFORE_MEMORY;
    const end = this.#run(0, start, true);
    // Positions on the way of a match did not fail, so all of them are forgotten.
    if (end !== undefined) this.#tried = undefined;
    return end;
  }

  /**
   * Runs instructions up to a `match`.
   *
   * @param remember whether failures may be noted; not inside of lookaround, where success is not the end
   */
  #run(first: number, start: number, remember: boolean): number | undefined {
    const program = this.#program;
    const text = this.#text;
    /** Choices left: instruction, place, and for a run the place it cannot go below. */
    const stack: number[] = [];
    let pc = first;
    let at = start;
    while (true) {
      if (--this.#steps < 0) throw new PatternError('takes too long on this text');
      const instruction = program[pc];
      let ok = true;
      switch (instruction.op) {
        case 'match':
          return at;
        case 'set': {
          const point = text.codePointAt(at);
          ok = point !== undefined && instruction.set.has(point);
          if (ok) at += point! > 0xffff ? 2 : 1;
          pc++;
          break;
        }
        case 'jump':
          pc = instruction.to;
          break;
        case 'split':
          ok = !(remember && this.#wasTried(pc, at));
          if (ok) stack.push(instruction.second, at, -1);
          pc = instruction.first;
          break;
        case 'run': {
          const end = remember && this.#wasTried(pc, at) ? undefined : this.#runOf(instruction, at);
          ok = end !== undefined;
          pc++;
          if (end && end.at > end.lowest) stack.push(pc, end.at, end.lowest);
          at = end?.at ?? at;
          break;
        }
        case 'anchor':
          ok = isAt(instruction.anchor, text, at);
          pc++;
          break;
        case 'look':
          ok = this.#look(instruction, pc + 1, at);
          pc = instruction.end;
          break;
        case 'atomic': {
          const end = this.#run(pc + 1, at, false);
          ok = end !== undefined;
          at = end ?? at;
          pc = instruction.end;
        }
      }
      if (ok) continue;
      if (stack.length === 0) return undefined;
      [pc, at] = this.#retry(stack);
    }
  }

  /** How far a run goes, and where it goes at least. */
  #runOf(
    { set, min, max }: Instruction & { op: 'run' },
    start: number,
  ): { at: number; lowest: number } | undefined {
    const text = this.#text;
    let at = start;
    let lowest = start;
    let count = 0;
    for (; count < max && at < text.length; count++) {
      const point = text.codePointAt(at)!;
      if (!set.has(point)) break;
      at += point > 0xffff ? 2 : 1;
      if (count < min) lowest = at;
    }
    this.#steps -= count >> 1;
    return count < min ? undefined : { at, lowest };
  }

  /** The newest choice left. A run gives one character back. */
  #retry(stack: number[]): [number, number] {
    const lowest = stack.pop()!;
    let at = stack.pop()!;
    const pc = stack.pop()!;
    if (lowest >= 0) {
      const unit = this.#text.charCodeAt(at - 1);
      at -= unit >= 0xdc00 && unit < 0xe000 && at - 2 >= lowest ? 2 : 1;
      if (at > lowest) stack.push(pc, at, lowest);
    }
    if (--this.#steps < 0) throw new PatternError('takes too long on this text');
    return [pc, at];
  }

  /** Whether an instruction was tried here before, and so failed; notes that it is tried now. */
  #wasTried(pc: number, at: number): boolean {
    if (!this.#tried) {
      const bits = this.#program.length * (this.#text.length + 1);
      if (this.#steps > this.#memoryAt || bits > MAX_MEMORY) return false;
      this.#tried = new Uint32Array(Math.ceil(bits / 32));
    }
    const bit = pc * (this.#text.length + 1) + at;
    const mask = 1 << (bit & 31);
    const had = (this.#tried[bit >>> 5] & mask) !== 0;
    this.#tried[bit >>> 5] |= mask;
    return had;
  }

  #look(instruction: Instruction & { op: 'look' }, body: number, at: number): boolean {
    const { behind, negative } = instruction;
    let start = at;
    for (let i = 0; i < (behind ?? 0); i++) {
      if (start === 0) return negative;
      const unit = this.#text.charCodeAt(start - 1);
      start -= unit >= 0xdc00 && unit < 0xe000 && start > 1 ? 2 : 1;
    }
    return (this.#run(body, start, false) !== undefined) !== negative;
  }
}

function isAt(anchor: Anchor, text: string, at: number): boolean {
  switch (anchor) {
    case 'textStart':
      return at === 0;
    case 'textEnd':
      return at === text.length;
    case 'lastLineEnd':
      return at === text.length || (at === text.length - 1 && text[at] === '\n');
    case 'lineStart':
      return at === 0 || (text[at - 1] === '\n' && at < text.length);
    case 'lineEnd':
      return at === text.length || text[at] === '\n';
  }
  const isWord = (character: string | undefined) => character !== undefined && WORD.test(character);
  const before = at > 1 && /[\udc00-\udfff]/.test(text[at - 1]) ? text.slice(at - 2, at) : text[at - 1];
  const after = at < text.length ? String.fromCodePoint(text.codePointAt(at)!) : undefined;
  const isBoundary = isWord(before) !== isWord(after);
  return anchor === 'word' ? isBoundary : !isBoundary;
}
