/**
 * A pattern as a list of instructions.
 *
 * @module
 */

import { CharacterSet } from './character-set.js';
import { type Anchor, PatternError, type PatternNode } from './syntax.js';

/** One instruction; addresses are indices into the program. */
export type Instruction =
  | { readonly op: 'set'; readonly set: CharacterSet }
  /** Tries `first`, then `second`. */
  | { readonly op: 'split'; first: number; second: number }
  | { readonly op: 'jump'; to: number }
  /** As many characters of a set as possible, fewer if what follows fails. */
  | { readonly op: 'run'; readonly set: CharacterSet; readonly min: number; readonly max: number }
  | { readonly op: 'anchor'; readonly anchor: Anchor }
  /** The instructions up to `end` as a program of their own. */
  | { readonly op: 'look'; readonly behind: number | undefined; readonly negative: boolean; end: number }
  | { readonly op: 'atomic'; end: number }
  | { readonly op: 'match' };

/** Instructions at most: intervals are written out. */
const MAX_INSTRUCTIONS = 20_000;

/**
 * Compiles a pattern.
 *
 * @throws {PatternError} if it is too large, or repeats what may be empty
 */
export function compile(node: PatternNode): readonly Instruction[] {
  const compiler = new Compiler();
  compiler.emit(node);
  return compiler.finish();
}

class Compiler {
  readonly #program: Instruction[] = [];
  readonly #sets = new Map<string, CharacterSet>();

  finish(): readonly Instruction[] {
    this.#add({ op: 'match' });
    return this.#program;
  }

  emit(node: PatternNode): void {
    switch (node.kind) {
      case 'set':
        this.#add({ op: 'set', set: this.#set(node.source, node.ignoreCase) });
        break;
      case 'sequence':
        for (const item of node.items) this.emit(item);
        break;
      case 'alternatives':
        this.#alternatives(node.items);
        break;
      case 'repeat':
        this.#repeat(node);
        break;
      case 'atomic':
        this.#enclosed({ op: 'atomic', end: 0 }, node.item);
        break;
      case 'look': {
        const behind = node.behind ? fixedWidth(node.item) : undefined;
        this.#enclosed({ op: 'look', behind, negative: node.negative, end: 0 }, node.item);
        break;
      }
      case 'anchor':
        this.#add({ op: 'anchor', anchor: node.anchor });
    }
  }

  #alternatives(items: readonly PatternNode[]): void {
    const jumps: (Instruction & { op: 'jump' })[] = [];
    for (const [i, item] of items.entries()) {
      if (i === items.length - 1) this.emit(item);
      else {
        const split = this.#split();
        this.emit(item);
        const jump: Instruction & { op: 'jump' } = { op: 'jump', to: 0 };
        this.#add(jump);
        jumps.push(jump);
        split.second = this.#here;
      }
    }
    for (const jump of jumps) jump.to = this.#here;
  }

  #repeat({ item, min, max, mode }: PatternNode & { kind: 'repeat' }): void {
    if (mode === 'possessive') {
      this.#enclosed({ op: 'atomic', end: 0 }, { kind: 'repeat', item, min, max, mode: 'greedy' });
      return;
    }
    if (item.kind === 'set' && mode === 'greedy') {
      this.#add({ op: 'run', set: this.#set(item.source, item.ignoreCase), min, max });
      return;
    }
    for (let i = 0; i < min; i++) this.emit(item);
    if (max === Number.POSITIVE_INFINITY) {
      if (mayBeEmpty(item)) throw new PatternError('repeats a group that may be empty');
      const start = this.#here;
      const split = this.#split();
      this.emit(item);
      this.#add({ op: 'jump', to: start });
      this.#leave(split, mode);
      return;
    }
    const splits: (Instruction & { op: 'split' })[] = [];
    for (let i = min; i < max; i++) {
      splits.push(this.#split());
      this.emit(item);
    }
    for (const split of splits) this.#leave(split, mode);
  }

  /** Lets a split skip to here, as its second choice or (lazy) its first. */
  #leave(split: Instruction & { op: 'split' }, mode: 'greedy' | 'lazy'): void {
    split.second = this.#here;
    if (mode === 'lazy') [split.first, split.second] = [split.second, split.first];
  }

  #split(): Instruction & { op: 'split' } {
    const split: Instruction & { op: 'split' } = { op: 'split', first: this.#here + 1, second: 0 };
    this.#add(split);
    return split;
  }

  #enclosed(opening: Instruction & { end: number }, item: PatternNode): void {
    this.#add(opening);
    this.emit(item);
    this.#add({ op: 'match' });
    opening.end = this.#here;
  }

  #set(source: string, ignoreCase: boolean): CharacterSet {
    const key = `${ignoreCase}${source}`;
    let set = this.#sets.get(key);
    if (!set) {
      set = new CharacterSet(source, ignoreCase);
      this.#sets.set(key, set);
    }
    return set;
  }

  get #here(): number {
    return this.#program.length;
  }

  #add(instruction: Instruction): void {
    if (this.#program.length >= MAX_INSTRUCTIONS) {
      throw new PatternError(`is too large: over ${MAX_INSTRUCTIONS} instructions`);
    }
    this.#program.push(instruction);
  }
}

function mayBeEmpty(node: PatternNode): boolean {
  switch (node.kind) {
    case 'set':
      return false;
    case 'sequence':
      return node.items.every(mayBeEmpty);
    case 'alternatives':
      return node.items.some(mayBeEmpty);
    case 'repeat':
      return node.min === 0 || mayBeEmpty(node.item);
    case 'atomic':
      return mayBeEmpty(node.item);
    default:
      return true;
  }
}

/** Characters that a lookbehind looks back. */
function fixedWidth(node: PatternNode): number {
  switch (node.kind) {
    case 'set':
      return 1;
    case 'sequence':
      return node.items.reduce((sum, item) => sum + fixedWidth(item), 0);
    case 'alternatives': {
      const widths = new Set(node.items.map(fixedWidth));
      if (widths.size > 1) break;
      return [...widths][0];
    }
    case 'repeat':
      if (node.min !== node.max) break;
      return node.min * fixedWidth(node.item);
    case 'atomic':
      return fixedWidth(node.item);
    default:
      return 0;
  }
  throw new PatternError('looks back over a text of no fixed length, which is not supported');
}
