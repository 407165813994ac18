/** The calibrations of the embedded models, made by independent code on a GPU: they fit, and say what their README says. */

import { readFileSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { calibratedPlan } from '../../src/cache/calibration.js';
import { Transform } from '../../src/cache/transform.js';
import { loadModelFile } from '../../src/io/load-model.js';
import { nodeStore } from '../../src/io/node-calibration.js';
import { derivedSizes } from '../../src/model/config.js';
import { linear, transpose } from '../../src/numerics/matrix.js';
import { allocatedBits } from '../../src/quant/allocate-bits.js';

/** An f16 number is off by this at most, relative to its size. */
const HALF_ROUNDOFF = 2 ** -11;

const folder = fileURLToPath(new URL('../../../golden/calibration/', import.meta.url));
const readme = readFileSync(`${folder}README.md`, 'utf8');

it.each([
  { name: 'books-mha', requests: [{ predict: 1, basis: 'joint', bits: 0.599 }] },
  {
    name: 'books-gqa',
    requests: [
      { predict: 0, basis: 'joint', bits: 4.25 },
      { predict: 0, basis: 'tensor', bits: 4.25 },
      { predict: 0, basis: 'head', bits: 4.25 },
      { predict: 1, basis: 'joint', bits: 2.25 },
      { predict: 2, basis: 'joint', bits: 2.25 },
    ],
  },
] as const)('$name', async ({ name, requests }) => {
  const file = `${name}.xquant-calibration.safetensors`;
  expect(statSync(`${folder}${file}`).size).toBeLessThan(6e6);
  const { config, fingerprint } = await loadModelFile(name);
  expect(readme).toContain(fingerprint);
  const calibration = nodeStore(name, { config, fingerprint }).calibration('');
  const { kvDim } = derivedSizes(config);
  for (const request of requests) {
    const { set, channelBits } = calibratedPlan(calibration, { ...request, groupSize: 128 }, kvDim);
    expect(set.layers).toHaveLength(config.numHiddenLayers);
    const average = allocatedBits(channelBits, 16 / 128) / (2 * kvDim * config.numHiddenLayers);
    expect(average).toBeLessThanOrEqual(request.bits);
    expect(average).toBeGreaterThan(0.99 * request.bits);
    // E D = 1 within the rounding of D to f16, which E, its inverse, undoes.
    const { encodeTransposed, decodeTransposed } = Transform.of(set.layers[1]);
    const product = linear(encodeTransposed, transpose(decodeTransposed));
    for (let i = 0; i < product.rows; i++) {
      expect(Math.abs(product.data[i * product.columns + i] - 1)).toBeLessThan(HALF_ROUNDOFF);
    }
  }
});
