/**
 * The program of a thread of window-threads.ts: a model of its own, and one window after another.
 *
 * @module
 */

import { readFileSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { WasmModel } from '../engine/wasm-model.js';
import { readCalibration } from '../io/kvquant-calibration.js';
import { useModelFile } from '../io/load-model.js';
import { nodeStore } from '../io/node-calibration.js';
import { isKept } from '../io/node-kept-models.js';
import { ModelEvaluator, type WindowTask } from '../reproduce/evaluator.js';
import { KeyValueSimulation } from '../reproduce/key-value-simulation.js';
import { presetOwnCalibration } from './backend.js';
import type { WindowThreadMessage, WindowThreadSetup } from './window-threads.js';

const { model: name, engine, factors, calibration, kvquantCalibration } = workerData as WindowThreadSetup;

async function start(): Promise<ModelEvaluator> {
  const { model, config, fingerprint } = await useModelFile(
    name,
    { keep: await isKept(name) },
    async (file) => ({
      ...file,
      model: await WasmModel.load(file.config, file.weights, engine),
    }),
  );
  model.factors.useKeeper(nodeStore(name, { config, fingerprint }, calibration));
  for (const each of factors) model.factors.preset(each.layer, each.matrix, each.factors);
  if (kvquantCalibration === undefined) presetOwnCalibration({ model, factors: model.factors });
  else {
    const read = readCalibration(readFileSync(kvquantCalibration), kvquantCalibration, config);
    model.factors.presetCalibration('kvquant', read);
  }
  return new ModelEvaluator(new KeyValueSimulation(model));
}

const say = (message: WindowThreadMessage) => parentPort?.postMessage(message);
const evaluator = start();
parentPort?.on('message', async (task: WindowTask) => {
  try {
    await (await evaluator).evaluate(task, {
      onResult: (cache, result) => say({ cache, result }),
      onTokens: (tokens) => say({ tokens }),
    });
    say({ done: true });
  } catch (error) {
    say({ error: (error as Error).message });
  }
});
