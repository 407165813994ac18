import { afterAll, describe, expect, it } from 'vitest';
import type { LayerInput } from '../../../src/cache/contract.js';
import type { KvquantCalibration } from '../../../src/cache/kvquant-calibration.js';
import { WasmModel } from '../../../src/engine/wasm-model.js';
import { loadModelFile } from '../../../src/io/load-model.js';
import { referenceWeights } from '../../../src/model/weights.js';
import { ReferenceModel } from '../../../src/reference-model.js';
import { KvquantSimulation } from '../../../src/reproduce/kvquant-simulation.js';
import { sampleCalibration } from '../../helpers/calibrations.js';
import { tinyModelGguf } from '../../helpers/gguf-writer.js';

const TOKENS = Array.from({ length: 64 }, (_, i) => 1 + ((i * 37) % 250));

const file = await loadModelFile(tinyModelGguf({ scale: 0.2 }), { name: 'tiny' });
const reference = new ReferenceModel(file.config, referenceWeights(file.weights));
const wasm = await WasmModel.load(file.config, file.weights, { threads: 1 });
const simulation = new KvquantSimulation(wasm);
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
