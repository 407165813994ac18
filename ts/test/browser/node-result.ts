/**
 * What Node computes, for a browser to be compared with.
 *
 * @module
 */

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { WasmModel } from '../../src/engine/wasm-model.js';
import { CachedSequence, type GenerateOptions, generate } from '../../src/generate.js';
import { loadModelFile } from '../../src/io/load-model.js';
import { restoreSnapshot, writeSnapshot } from '../../src/io/snapshot.js';
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
  async snapshot(
    prompt: string,
    { cache, ...options }: GenerateOptions & { cache: string },
  ): Promise<Uint8Array> {
    const sequence = new CachedSequence(this.#model.createCache(cache));
    const { ids } = await generate(this.#model, this.#tokenizer, prompt, {
      ...options,
      cache: sequence,
    }).finish();
    const { tokens } = sequence;
    const content = { cache: sequence.cache, tokens, pending: ids.slice(-1), fingerprint: this.#fingerprint };
    return writeSnapshot(content);
  }

  /** Goes on from a snapshot. @returns generated ids */
  async continue(snapshot: Uint8Array, options: GenerateOptions): Promise<readonly number[]> {
    const owner = { model: this.#model, fingerprint: this.#fingerprint };
    const { cache, tokens, pending } = restoreSnapshot(snapshot, 'snapshot', owner);
    const prompt = [...tokens, ...pending];
    const sequence = new CachedSequence(cache, tokens);
    return (await generate(this.#model, this.#tokenizer, prompt, { ...options, cache: sequence }).finish())
      .ids;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#model.dispose();
  }
}
