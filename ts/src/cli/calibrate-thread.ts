/**
 * The program of a thread of calibrate-threads.ts: a model of its own, and the windows it was given.
 *
 * @module
 */

import { parentPort, workerData } from 'node:worker_threads';
import { CalibrationWindows } from '../analysis/calibrate/windows.js';
import { FloatProducts } from '../engine/float-products.js';
import { WasmModel } from '../engine/wasm-model.js';
import type { ThreadMessage, ThreadRequest, ThreadSetup } from './calibrate-threads.js';

const { config, weights, engine, windows } = workerData as ThreadSetup;

async function start(): Promise<CalibrationWindows> {
  const model = await WasmModel.load(config, weights, engine);
  return new CalibrationWindows(model, await FloatProducts.create({ kernel: engine.kernel }), windows);
}

const say = (message: ThreadMessage) => parentPort?.postMessage(message);
const own = start();
parentPort?.on('message', async ({ id, method, args }: ThreadRequest) => {
  try {
    const target = (await own) as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>;
    const isTold = method === 'collect' || method === 'probe';
    const result = await target[method](...args, ...(isTold ? [(event: unknown) => say({ id, event })] : []));
    say({ id, result });
  } catch (error) {
    say({ id, error: (error as Error).message });
  }
});
