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
  /** The file of golden/ and the key in it that has the losses of calibrated caches by window. */
  readonly calibrated?: readonly [file: string, key: string];
}

/** All of them. */
export const KNOWN_LOSSES: readonly KnownLosses[] = [
  {
    model: /books.?mha/i,
    shape: { hiddenSize: 256, numHiddenLayers: 20, numKeyValueHeads: 4 },
    heading: 'Books MHA 16M on books-heldout.txt, plan all',
    percent: {
      'kivi:4': 0.31,
      'kivi:2': 11.36,
      'xquant:4@tuned': 0.5,
      'xquant:2@tuned': 15.25,
      'xquant-cl:3@tuned': 0.03,
      'xquant-cl:2@tuned': 0.6,
    },
  },
  {
    model: /books.?gqa/i,
    shape: { hiddenSize: 256, numHiddenLayers: 20, numKeyValueHeads: 2 },
    heading: 'Books GQA 16M on books-heldout.txt, plan all',
    percent: {
      'kivi:4': 0.47,
      'kivi:2': 13.84,
      'xquant:4@tuned': 0.46,
      'xquant:2@tuned': 9.39,
      'xquant-cl:3@tuned': 0.01,
      'xquant-cl:2@tuned': 0.61,
      'xquant-cl:2.25@calibrated': 0.27,
      'xquant-cl:2.25@calibrated?predict=2': 0.22,
    },
    calibrated: ['losses.json', 'books-gqa'],
  },
  {
    model: /smollm2.?135m/i,
    shape: { hiddenSize: 576, numHiddenLayers: 30, numKeyValueHeads: 3 },
    heading: 'Smollm2 135M 8k Lc100K Mix1 Ep2 on wikitext2-test.txt, plan all',
    percent: {
      'kivi:4': 3.41,
      'kivi:2': 236.08,
      'xquant:4@tuned': 2.57,
      'xquant:2@tuned': 74.59,
      'xquant-cl:3@tuned': 4.2,
      'xquant-cl:2@tuned': 19.65,
      'xquant-cl:2.25@calibrated': 0.65,
      'xquant-cl:2.25@calibrated?predict=2': 0.49,
    },
    calibrated: ['losses-smollm2-135m.json', 'smollm2-135m/wikitext-2'],
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
