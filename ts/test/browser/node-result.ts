/**
 * What Node computes, for a browser to be compared with.
 *
 * @module
 */

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { WasmModel } from '../../src/engine/wasm-model.js';
import { type GenerateOptions, generate } from '../../src/generate.js';
import { loadModelFile } from '../../src/io/load-model.js';
import { writeSnapshot } from '../../src/io/snapshot.js';
import { row } from '../../src/numerics/matrix.js';
import { measurePerplexity } from '../../src/perplexity.js';
import { logSumExp } from '../../src/sampling.js';
import { Tokenizer } from '../../src/text/tokenizer.js';

/** The repository, with `/` at the end. */
export const root = fileURLToPath(new URL('../../../', import.meta.url));

if (!existsSync(`${root}dist/browser/xquant.js`)) {
  throw new Error('the browser tests need a build: npm run build');
}

/** An embedded model and its tokenizer. */
export class NodeModel implements AsyncDisposable {
  readonly #model: WasmModel;
  readonly #tokenizer: Tokenizer;
  readonly #fingerprint: string;

  private constructor(model: WasmModel, tokenizer: Tokenizer, fingerprint: string) {
    this.#model = model;
    this.#tokenizer = tokenizer;
    this.#fingerprint = fingerprint;
  }

  /** @param name of a file in golden/models */
  static async load(name: string): Promise<NodeModel> {
    const file = await loadModelFile(`${root}golden/models/${name}.gguf`);
    // Relaxed SIMD may round differently from machine to machine; plain SIMD does not.
    const model = await WasmModel.load(file.config, file.weights, { threads: 1, kernel: 'simd' });
    return new NodeModel(model, new Tokenizer(file.tokenizer), file.fingerprint);
  }

  /** @returns generated ids */
  async generate(prompt: string, options: GenerateOptions): Promise<readonly number[]> {
    return (await generate(this.#model, this.#tokenizer, prompt, options).finish()).ids;
  }

  /** Generates, and saves the cache with the last token still to run. */
  async snapshot(prompt: string, options: GenerateOptions): Promise<Uint8Array> {
    const generation = generate(this.#model, this.#tokenizer, prompt, options);
    await generation.finish();
    const { sequence, pending, generated } = generation;
    const { cache, tokens } = sequence;
    return writeSnapshot({ cache, tokens, pending, generated, fingerprint: this.#fingerprint });
  }

  /** @returns mean loss of a prompt and the tokens after it, each run by itself, in nats a token */
  async loss(prompt: string, ids: readonly number[], cache: string): Promise<number> {
    const own = this.#model.createCache(cache);
    const read = [...this.#tokenizer.encode(prompt)];
    const next = [...read.slice(1), ...ids];
    const passes = [read, ...ids.slice(0, -1).map((id) => [id])];
    let sum = 0;
    let at = 0;
    for (const tokens of passes) {
      const logits = await this.#model.forward(tokens, own, { logits: 'all' });
      for (let t = 0; t < logits.rows; t++) sum += logSumExp(row(logits, t)) - row(logits, t)[next[at++]];
    }
    own.dispose();
    return sum / next.length;
  }

  /** @returns perplexity of a text with each cache */
  async perplexities(text: string, caches: readonly string[]): Promise<number[]> {
    const ids = this.#tokenizer.encode(text);
    const report = await measurePerplexity(this.#model, ids, { caches, windowSize: ids.length });
    return report.caches.map(({ perplexity }) => perplexity);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#model.dispose();
  }
}
