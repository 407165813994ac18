import { afterAll, describe, expect, it } from 'vitest';
import { float16KeyValueBytes } from '../../../src/analysis/memory.js';
import type { LayerInput } from '../../../src/cache/contract.js';
import type { KvquantCalibration } from '../../../src/cache/kvquant-calibration.js';
import { storedBytes, zeroBytes } from '../../../src/cache/stored-matrix.js';
import { WasmModel } from '../../../src/engine/wasm-model.js';
import { loadModelFile } from '../../../src/io/load-model.js';
import { referenceWeights } from '../../../src/model/weights.js';
import { type Matrix, matrix } from '../../../src/numerics/matrix.js';
import { ReferenceModel } from '../../../src/reference-model.js';
import { KeyValueSimulation } from '../../../src/reproduce/key-value-simulation.js';
import { ROTATED_CACHES, rotatedBytes, rotatedRoundTrip } from '../../../src/reproduce/rotated-caches.js';
import { sampleCalibration } from '../../helpers/calibrations.js';
import { tinyModelGguf } from '../../helpers/gguf-writer.js';

const TOKENS = Array.from({ length: 64 }, (_, i) => 1 + ((i * 37) % 250));

const file = await loadModelFile(tinyModelGguf({ scale: 0.2 }), { name: 'tiny' });
const reference = new ReferenceModel(file.config, referenceWeights(file.weights));
const wasm = await WasmModel.load(file.config, file.weights, { threads: 1 });
const simulation = new KeyValueSimulation(wasm);
afterAll(() => wasm.dispose());

/** A calibration from what the layers of the reference see. */
async function calibrate(): Promise<KvquantCalibration> {
  const inputs: Partial<Record<'x' | 'normalized' | 'stream', LayerInput['x']>>[] = file.weights.layers.map(
    () => ({}),
  );
  await reference.forward(TOKENS, reference.createCache('kv'), {
    onTensor({ layer, tensor, value }) {
      if (tensor === 'x' || tensor === 'normalized' || tensor === 'stream') inputs[layer][tensor] = value;
    },
  });
  return sampleCalibration(reference.projections, inputs as LayerInput[]);
}

const calibration = await calibrate();
reference.factors.presetCalibration('kvquant', calibration);
wasm.factors.presetCalibration('kvquant', calibration);

describe('KVQuant on the engine', () => {
  it.each([
    'kvquant:2?window=16',
    'kvquant:3?window=16&outliers=0',
    'kvquant:4?window=32&sink=5',
    'kvquant:2?window=16&qnorm=on&sink=1',
  ])('gives the logits and the bytes of the real cache: %s', async (cache) => {
    const options = { mode: 'teacherForced', logits: 'all' } as const;
    const [expected, simulated] = [reference.createCache(cache), simulation.createCache(cache)];
    // Twice, to see that an emptied cache is as good as a new one; in two passes, to see positions.
    for (let round = 0; round < 2; round++) {
      for (const part of [TOKENS.slice(0, 32), TOKENS.slice(32)]) {
        const exact = await reference.forward(part, expected, options);
        const own = await simulation.forward(part, simulated, options);
        let difference = 0;
        for (let i = 0; i < exact.data.length; i++) {
          difference = Math.max(difference, Math.abs(exact.data[i] - own.data[i]));
        }
        // A code that falls to the other side of a tie moves logits by much more than rounding does.
        expect(difference).toBeLessThan(2e-3);
      }
      expect(simulated.bytes()).toEqual(expected.bytes());
      simulated.trim(0);
      expected.trim(0);
    }
  });

  it('leaves other caches to the engine', async () => {
    const cache = simulation.createCache('xquant:4');
    const own = await simulation.forward(TOKENS, cache, {});
    const direct = await wasm.forward(TOKENS, wasm.createCache('xquant:4'), {});
    expect(own.data).toEqual(direct.data);
  });

  it('refuses what it cannot simulate', async () => {
    const cache = simulation.createCache('kvquant:2?window=16');
    await expect(simulation.forward(TOKENS, cache, { mode: 'generation' })).rejects.toThrow('teacherForced');
    await simulation.forward(TOKENS.slice(0, 20), cache, { mode: 'teacherForced' });
    await expect(simulation.forward(TOKENS.slice(20), cache, { mode: 'teacherForced' })).rejects.toThrow(
      'whole blocks',
    );
    expect(() => cache.trim(16)).toThrow('trims to 0');
    expect(() => cache.clone()).toThrow('cloned empty');
  });
});

describe('caches of rotated heads on the engine', async () => {
  const file = await loadModelFile(tinyModelGguf({ headDim: 32, scale: 0.2 }), { name: 'tiny' });
  const wasm = await WasmModel.load(file.config, file.weights, { threads: 1 });
  const simulation = new KeyValueSimulation(wasm);
  afterAll(() => wasm.dispose());
  const options = { mode: 'teacherForced', logits: 'all' } as const;

  it.each(ROTATED_CACHES)('%s: tokens are on their own, whatever the passes', async (name) => {
    const cache = simulation.createCache(name);
    const whole = await simulation.forward(TOKENS, cache, options);
    expect(cache.bytes()).toEqual(rotatedBytes(name, file.config, TOKENS.length));
    cache.trim(0);
    const parts = [TOKENS.slice(0, 5), TOKENS.slice(5, 33), TOKENS.slice(33)];
    let at = 0;
    for (const part of parts) {
      const rows = await simulation.forward(part, cache, options);
      const expected = whole.data.subarray(at, at + rows.data.length);
      expect(largestDifference(rows.data, expected)).toBeLessThan(2e-3);
      at += rows.data.length;
    }
    expect(cache.bytes()).toEqual(rotatedBytes(name, file.config, TOKENS.length));
  });

  // Squared errors in parts of the power: of a uniform step of 1/127 of a normal block's extreme; Max's of the levels.
  it.each([
    ['q8_0', 2e-5, 8e-5],
    ['q4_0', 0.004, 0.014],
    ['lloyd-max:4', 0.0075, 0.011],
    ['lloyd-max:3', 0.029, 0.04],
    ['lloyd-max:2', 0.1, 0.13],
  ])('%s changes keys and values by what its steps are', (name, least, most) => {
    const { headDim } = file.config;
    const fresh = { keys: normalRows(400, 2 * headDim, 1), values: normalRows(400, 2 * headDim, 2) };
    const exact = { keys: fresh.keys.data.slice(), values: fresh.values.data.slice() };
    rotatedRoundTrip(name, file.config, 1)(fresh, 77, zeroBytes());
    for (const which of ['keys', 'values'] as const) {
      const error = fresh[which].data.reduce((sum, value, i) => sum + (value - exact[which][i]) ** 2, 0);
      const power = exact[which].reduce((sum, value) => sum + value ** 2, 0);
      expect(error / power).toBeGreaterThan(least);
      expect(error / power).toBeLessThan(most);
    }
  });

  it.each([
    ['q8_0', 8.5],
    ['q4_0', 4.5],
    ['lloyd-max:4', 4.25],
    ['lloyd-max:3', 3.25],
    ['lloyd-max:2', 2.25],
  ])('%s takes %s bits a number of a head of 64', (name, bits) => {
    const shape = {
      hiddenSize: 576,
      numHiddenLayers: 30,
      numAttentionHeads: 9,
      numKeyValueHeads: 3,
      headDim: 64,
    };
    expect(storedBytes(rotatedBytes(name, shape, 100)) / float16KeyValueBytes(shape, 100)).toBe(bits / 16);
  });

  it('refuses heads that are no whole blocks', () => {
    const shape = { ...file.config, headDim: 48 };
    expect(() => rotatedBytes('q4_0', shape, 1)).toThrow('heads of 48');
  });
});

function largestDifference(a: Float32Array, b: Float32Array): number {
  return a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - b[i])), 0);
}

/** Normal numbers, the same for the same seed. */
function normalRows(rows: number, columns: number, seed: number): Matrix {
  let state = seed;
  const uniform = () => {
    state = Math.imul(state, 48271) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  return matrix(rows, columns, Float32Array.from({ length: rows * columns }, normal));
}
