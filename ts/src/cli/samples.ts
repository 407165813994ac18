/**
 * Several continuations in one output: they are generated side by side and shown one after another.
 *
 * @module
 */

/** Shows texts in order: the first unfinished one as it grows, the others when their turn comes. */
export class InTurn {
  readonly #texts: { pieces: string; ended: boolean }[];
  readonly #write: (text: string) => Promise<void>;
  readonly #begin: (index: number) => string;
  readonly #end: (text: string) => string;
  #shown = '';
  #turn = -1;

  /**
   * @param count of texts
   * @param write puts text out
   * @param begin printed before a text
   * @param end printed after a text
   */
  constructor(
    count: number,
    write: (text: string) => Promise<void>,
    begin: (index: number) => string,
    end: (text: string) => string,
  ) {
    this.#texts = Array.from({ length: count }, () => ({ pieces: '', ended: false }));
    this.#write = write;
    this.#begin = begin;
    this.#end = end;
  }

  /** Adds to a text. */
  async add(index: number, text: string, ended: boolean): Promise<void> {
    const own = this.#texts[index];
    own.pieces += text;
    own.ended ||= ended;
    if (this.#turn < 0) await this.#next();
    if (index === this.#turn) await this.#show();
  }

  /** Shows what there is, though it has not ended. */
  async finish(): Promise<void> {
    for (const text of this.#texts) text.ended = true;
    if (this.#turn >= 0 && this.#turn < this.#texts.length) await this.#show();
  }

  async #show(): Promise<void> {
    for (;;) {
      const own = this.#texts[this.#turn];
      this.#shown += own.pieces;
      await this.#write(own.pieces);
      own.pieces = '';
      if (!own.ended) return;
      await this.#write(this.#end(this.#shown));
      if (this.#turn + 1 === this.#texts.length) {
        this.#turn++;
        return;
      }
      await this.#next();
    }
  }

  async #next(): Promise<void> {
    this.#turn++;
    this.#shown = '';
    await this.#write(this.#begin(this.#turn));
  }
}
