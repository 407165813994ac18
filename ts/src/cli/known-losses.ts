/**
 * Measured losses of caches, in numbers that the command line can show: those of docs/results.md, and
 * for calibrated caches those of golden/calibration/README.md. A test holds them equal.
 *
 * @module
 */

import type { CacheModelShape } from '../cache/options.js';

/** Measurements of one model. */
export interface KnownLosses {
  /** Part of the name that its files bear. */
  readonly model: RegExp;
  readonly shape: Pick<CacheModelShape, 'hiddenSize' | 'numHiddenLayers' | 'numKeyValueHeads'>;
  /** The heading in docs/results.md. */
  readonly heading: string;
  /** Perplexity above that of f16 keys and values in percent, by cache argument. */
  readonly percent: Readonly<Record<string, number>>;
}

/** All of them. */
export const KNOWN_LOSSES: readonly KnownLosses[] = [
  {
    model: /books.?mha/i,
    shape: { hiddenSize: 256, numHiddenLayers: 20, numKeyValueHeads: 4 },
    heading: 'Books MHA 16M on books-heldout.txt, plan all',
    percent: {
      'kivi:4': 0.32,
      'kivi:2': 10.46,
      'xquant:4@tuned': 0.5,
      'xquant:2@tuned': 14.11,
      'xquant-cl:3@tuned': 0.09,
      'xquant-cl:2@tuned': 0.58,
    },
  },
  {
    model: /books.?gqa/i,
    shape: { hiddenSize: 256, numHiddenLayers: 20, numKeyValueHeads: 2 },
    heading: 'Books GQA 16M on books-heldout.txt, plan all',
    percent: {
      'kivi:4': 0.41,
      'kivi:2': 12.86,
      'xquant:4@tuned': 0.38,
      'xquant:2@tuned': 9.55,
      'xquant-cl:3@tuned': 0.08,
      'xquant-cl:2@tuned': 0.63,
      'xquant-cl:2.25@calibrated': 0.27,
      'xquant-cl:2.25@calibrated?predict=2': 0.22,
    },
  },
  {
    model: /smollm2.?135m/i,
    shape: { hiddenSize: 576, numHiddenLayers: 30, numKeyValueHeads: 3 },
    heading: 'SmolLM2-135M-Instruct on wikitext2-test.txt, plan all',
    percent: {
      'kivi:4': 2.57,
      'kivi:2': 218.09,
      'xquant:4@tuned': 2.09,
      'xquant:2@tuned': 56.68,
      'xquant-cl:3@tuned': 1.66,
      'xquant-cl:2@tuned': 6.24,
      'xquant-cl:2.25@calibrated': 0.65,
      'xquant-cl:2.25@calibrated?predict=2': 0.49,
    },
  },
];

/** Measurements of the model of this name and shape, if there are any. */
export function knownLosses(name: string, shape: CacheModelShape): KnownLosses | undefined {
  return KNOWN_LOSSES.find(
    ({ model, shape: known }) =>
      model.test(name) &&
      known.hiddenSize === shape.hiddenSize &&
      known.numHiddenLayers === shape.numHiddenLayers &&
      known.numKeyValueHeads === shape.numKeyValueHeads,
  );
}
