/**
 * Calibrated caches with every kind of basis: the engine, which multiplies only what is not zero, against the reference,
 * which multiplies all.
 */

import { describe, expect, it } from 'vitest';
import type { ModelCache } from '../../../src/cache/contract.js';
import { ReferenceModel } from '../../../src/reference-model.js';
import { randomInputs } from '../../helpers/random-layers.js';
import { randomTokens, randomWeights, TINY_CONFIG, TINY_GQA_CONFIG } from '../../helpers/tiny-model.js';
import { sampleTransforms } from '../../helpers/transforms.js';
import { engineOf } from './engines.js';

/** Two KV heads, so that the blocks of basis `head` are not those of `tensor`. */
const GQA = [
  'xquant:1.25@calibrated?basis=head&window=16&group=16',
  'xquant:4.25@calibrated?basis=head&window=16&group=8',
  'xquant:4.25@calibrated?basis=head&window=16&group=16&sinks=0',
  'xquant:1.25@calibrated?basis=tensor&window=16&group=16',
  'xquant:4.25@calibrated?basis=tensor&window=16&group=16&quantizer=identity',
  'xquant:0.5@calibrated?window=16&group=16',
  'xquant:2.25@calibrated?window=16&group=16',
  'xquant-cl:2.25@calibrated?window=16&group=16',
  'xquant-cl:2.25@calibrated?window=16&group=16&predict=2',
];
const MHA = ['xquant:1.25@calibrated?window=16&group=16', 'xquant-cl:0.85@calibrated?window=16&group=16'];

describe.each([
  ['grouped-query', TINY_GQA_CONFIG, GQA],
  ['multi-head', TINY_CONFIG, MHA],
] as const)('engine and reference, %s', (_, config, specs) => {
  const weights = randomWeights(config, 5);
  const reference = new ReferenceModel(config, weights);
  const sample = randomInputs(reference.projections, 300, 1);
  const calibration = sampleTransforms(reference.projections, sample, config);
  reference.factors.presetCalibration('calibrated', calibration);
  const engine = engineOf(config, weights).then((model) => {
    model.factors.presetCalibration('calibrated', calibration);
    return model;
  });

  it.each(specs)('%s: from the same stored bytes, one token and many see the same', async (spec) => {
    const model = await engine;
    const theirs = reference.createCache(spec);
    await reference.forward(randomTokens(70), theirs);
    for (const tokens of [randomTokens(1, 3), randomTokens(9, 4)]) {
      const ours = model.createCache(spec);
      for (const [i, layer] of theirs.layers.entries()) ours.layers[i].restore(layer.state());
      const copy: ModelCache = theirs.clone();
      const expected = await reference.forward(tokens, copy, { logits: 'all' });
      const actual = await model.forward(tokens, ours, { logits: 'all' });
      const largest = Math.max(...expected.data.map(Math.abs));
      const worst = Math.max(...actual.data.map((value, i) => Math.abs(value - expected.data[i])));
      expect(worst / largest).toBeLessThan(2e-3);
      ours.dispose();
    }
  });
});
