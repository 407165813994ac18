/**
 * A process that tries inputs and tells its parent, which ends it if it hangs.
 *
 * @module
 */

import fc from 'fast-check';
import { seedsOf } from './corpus.js';
import { enter } from './doors.js';
import { type Input, inputs } from './inputs.js';
import { judge } from './judge.js';
import type { FromChild, Job } from './protocol.js';

/** Between two signs of life. */
const BEAT_MS = 50;

process.on('message', (job: Job) => {
  void run(job).then(send);
});
process.on('disconnect', () => process.exit());
send({ kind: 'ready' });

function send(message: FromChild): void {
  process.send?.(message);
}

async function run(job: Job): Promise<FromChild> {
  const answers: Record<string, number> = {};
  const faults: { seed: string; bytes: string; message: string }[] = [];
  let slowest = { seconds: 0, seed: '' };
  let lastBeat = 0;

  const tryInput = async ({ seed, bytes }: Input) => {
    const started = performance.now();
    if (job.careful) send({ kind: 'trying', seed, bytes: encode(bytes) });
    else if (started - lastBeat > BEAT_MS) {
      send({ kind: 'alive' });
      lastBeat = started;
    }
    try {
      const answer = await judge(job.family, bytes);
      answers[answer] = (answers[answer] ?? 0) + 1;
    } catch (error) {
      if (job.file || faults.length < 20)
        faults.push({ seed, bytes: encode(bytes), message: (error as Error).message });
      answers.fault = (answers.fault ?? 0) + 1;
    }
    const seconds = (performance.now() - started) / 1000;
    if (seconds > slowest.seconds) slowest = { seconds, seed };
  };

  if (job.file) await tryInput({ seed: job.file.name, bytes: decode(job.file.bytes) });
  else {
    const property = fc.asyncProperty(inputs(job.family), tryInput);
    await fc.assert(property, { seed: job.seed, numRuns: job.inputs, endOnFailure: true });
  }
  // The next good call must be as ever.
  await enter(job.family, seedsOf(job.family)[0].bytes);
  (globalThis as { gc?: () => void }).gc?.();
  const { heapUsed, rss, arrayBuffers } = process.memoryUsage();
  return { kind: 'done', answers, faults, slowest, heapBytes: heapUsed + arrayBuffers, residentBytes: rss };
}

function encode(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64');
}

function decode(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'base64'));
}
