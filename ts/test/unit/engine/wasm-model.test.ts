import { WasmModel } from '../../../src/engine/wasm-model.js';
import { modelLaws } from '../../laws/model-laws.js';
import { engineOf, fileWeights } from './engines.js';

// f32 weights meet f32 activations; what is left is the order of sums, and keys from 14-bit integers.
modelLaws('wasm', (config, weights) => engineOf(config, weights), 1e-3);
modelLaws(
  'wasm, 3 threads',
  (config, weights) => WasmModel.load(config, fileWeights(weights), { threads: 3 }),
  1e-3,
);
