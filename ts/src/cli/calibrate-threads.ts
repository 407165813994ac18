/**
 * Threads of a calibration: each has an engine and a share of the windows. What they are asked for is
 * `CalibrationWorker`; here is how it gets there and back.
 *
 * @module
 */

import { totalmem } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { Probe } from '../analysis/calibrate/sensitivities.js';
import type { CalibrationWorker } from '../analysis/calibrate/worker.js';
import type { WasmModelOptions } from '../engine/wasm-model.js';
import { KernelError } from '../errors.js';
import type { ModelConfig } from '../model/config.js';
import type { FileWeights } from '../model/weights.js';

/** The start data of a thread. */
export interface ThreadSetup {
  readonly config: ModelConfig;
  readonly weights: FileWeights;
  readonly engine: WasmModelOptions;
  readonly windows: readonly (readonly number[])[];
}

/** A call of a method. */
export interface ThreadRequest {
  readonly id: number;
  readonly method: keyof CalibrationWorker;
  readonly args: readonly unknown[];
}

/** A message of a thread about a call: something happened, or it ended. */
export type ThreadMessage =
  | { readonly id: number; readonly event: unknown }
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: string };

interface PendingCall {
  readonly resolve: (result: never) => void;
  readonly reject: (error: unknown) => void;
  readonly onEvent: (event: never) => void;
}

/** How many threads there are, and how many threads the engine of each has. */
export interface ThreadPlan {
  readonly workers: number;
  readonly engineThreads: number;
}

/**
 * Divides the cores: as many models side by side as memory allows, because an engine of many threads leaves them
 * idle whenever JavaScript works on what it computed.
 *
 * @param weightBytes of the model
 * @param windows there are; a thread without any has nothing to do
 */
export function planThreads(threads: number, weightBytes: number, windows: number): ThreadPlan {
  // A copy as it came, one in linear memory, and as much again for activations.
  const fitting = Math.floor(totalmem() / 2 / (3 * weightBytes));
  const workers = Math.max(1, Math.min(threads, windows, fitting));
  return { workers, engineThreads: Math.max(1, Math.floor(threads / workers)) };
}

/** One thread; see calibrate-thread.ts for its side. */
export class CalibrationThread implements CalibrationWorker {
  readonly #worker: Worker;
  readonly #pending = new Map<number, PendingCall>();
  #calls = 0;
  #ended: string | undefined;

  constructor(setup: ThreadSetup) {
    const script = new URL('./calibrate-thread.js', import.meta.url);
    this.#worker = new Worker(script, { execArgv: [], workerData: setup });
    this.#worker.on('message', (message: ThreadMessage) => this.#hear(message));
    this.#worker.on('error', ({ message }) => {
      this.#ended ??= message;
    });
    this.#worker.on('exit', (code) => {
      this.#ended ??= `it ended (exit code ${code})`;
      for (const { reject } of this.#pending.values()) reject(this.#death());
      this.#pending.clear();
    });
  }

  collect(
    ...[depth, onTokens]: Parameters<CalibrationWorker['collect']>
  ): ReturnType<CalibrationWorker['collect']> {
    return this.#call('collect', [depth], onTokens);
  }

  probe(...[ids, requests, onProbe]: Parameters<CalibrationWorker['probe']>): Promise<void> {
    return this.#call('probe', [ids, requests], (probe: Probe) => onProbe(probe));
  }

  root(...args: Parameters<CalibrationWorker['root']>): ReturnType<CalibrationWorker['root']> {
    return this.#call('root', args);
  }

  basis(...args: Parameters<CalibrationWorker['basis']>): ReturnType<CalibrationWorker['basis']> {
    return this.#call('basis', args);
  }

  fit(...args: Parameters<CalibrationWorker['fit']>): ReturnType<CalibrationWorker['fit']> {
    return this.#call('fit', args);
  }

  distortion(
    ...args: Parameters<CalibrationWorker['distortion']>
  ): ReturnType<CalibrationWorker['distortion']> {
    return this.#call('distortion', args);
  }

  code(...args: Parameters<CalibrationWorker['code']>): ReturnType<CalibrationWorker['code']> {
    return this.#call('code', args);
  }

  /** Ends the thread, whatever it does; what it was asked for fails. */
  async stop(): Promise<void> {
    await this.#worker.terminate();
  }

  #call<R, E = never>(
    method: keyof CalibrationWorker,
    args: readonly unknown[],
    onEvent: (event: E) => void = () => undefined,
  ): Promise<R> {
    if (this.#ended !== undefined) return Promise.reject(this.#death());
    const id = this.#calls++;
    return new Promise<R>((resolve, reject) => {
      this.#pending.set(id, { resolve, reject, onEvent });
      this.#worker.postMessage({ id, method, args } satisfies ThreadRequest);
    });
  }

  #hear(message: ThreadMessage): void {
    const call = this.#pending.get(message.id);
    if (!call) return;
    if ('event' in message) {
      call.onEvent(message.event as never);
      return;
    }
    this.#pending.delete(message.id);
    if ('error' in message) call.reject(new KernelError('calibrate', message.error));
    else call.resolve(message.result as never);
  }

  #death(): KernelError {
    return new KernelError('calibrate', `a thread died: ${this.#ended}`);
  }
}
