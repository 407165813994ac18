/**
 * The embedded models and the text that they were not trained on, for the operations that run a model.
 *
 * @module
 */

import { LoadError } from '../errors.js';
import { EMBEDDED_MODELS, loadModelFile } from '../io/load-model.js';
import type { ModelFile } from '../io/model-file.js';
import type { LanguageModel } from '../model/language-model.js';
import { referenceWeights } from '../model/weights.js';
import { ReferenceModel } from '../reference-model.js';
import { Tokenizer } from '../text/tokenizer.js';
import { perturbWeights } from './compare/perturb.js';
import type { CheckContext } from './operation.js';

/** Whence a context has its models and its text. */
export interface ModelContextOptions {
  /** Ends loading. */
  readonly signal?: AbortSignal;
  /** Gives the held-out text of the embedded models. Called only if a case names windows of it. */
  readonly heldoutText?: () => Promise<string>;
}

/** A context that owns the models that it loads. */
export interface ModelContext extends CheckContext {
  /** Frees the models. */
  dispose(): Promise<void>;
}

/**
 * A context that loads embedded models when a case asks for them, each once, onto the reference.
 *
 * @returns to be disposed by the caller
 */
export function modelContext({ signal, heldoutText }: ModelContextOptions = {}): ModelContext {
  const files = new Map<string, Promise<ModelFile>>();
  const models = new Map<string, Promise<LanguageModel>>();
  const open = (name: string): Promise<ModelFile> =>
    remembered(files, name, () => loadModelFile(name, { signal }));
  const load = async (name: string, variation: number): Promise<LanguageModel> => {
    const { config, weights } = await open(name);
    const exact = referenceWeights(weights);
    return new ReferenceModel(config, variation === 0 ? exact : perturbWeights(exact, variation));
  };
  return {
    loadModel: (name, variation) => remembered(models, `${name} ${variation}`, () => load(name, variation)),
    async heldoutTokens(count) {
      if (!heldoutText) throw new LoadError('held-out text', 'the context was made without it');
      const [name] = EMBEDDED_MODELS;
      const tokenizer = new Tokenizer((await open(name)).tokenizer);
      const ids = tokenizer.encode(await heldoutText());
      if (ids.length < count)
        throw new RangeError(`the held-out text has ${ids.length} tokens, not ${count}`);
      return Int32Array.from(ids.slice(0, count));
    },
    async dispose() {
      for (const model of models.values()) await (await model.catch(() => undefined))?.dispose();
    },
  };
}

function remembered<T>(known: Map<string, T>, key: string, make: () => T): T {
  let found = known.get(key);
  if (!found) {
    found = make();
    known.set(key, found);
  }
  return found;
}
