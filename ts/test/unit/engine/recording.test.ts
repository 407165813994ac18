/** A recording of any length runs in portions that fit, with every call once, in an order that its cuts allow. */

import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { Recording } from '../../../src/engine/recording.js';
import {
  CALL_SLOTS,
  CALLS,
  CONTROL_BUFFER,
  CONTROL_HEADER,
  STAGE_TABLE,
  STAGES,
} from '../../../src/engine/stages.js';

const KINDS = ['seam', 'task', 'stage'] as const;

/** What threads would read: for each stage of each portion, its tasks, as numbers of calls. */
function play(recording: Recording): number[][][] {
  const control = new Int32Array(CONTROL_HEADER + CONTROL_BUFFER);
  const calls = new Float64Array(CALLS * CALL_SLOTS);
  const stages: number[][][] = [];
  for (let first = 0; first < recording.calls; ) {
    first = recording.load(first, control, CONTROL_HEADER, calls, 0);
    const count = control[CONTROL_HEADER];
    expect(count).toBeLessThanOrEqual(STAGES);
    const starts = CONTROL_HEADER + STAGE_TABLE;
    for (let stage = 0; stage < count; stage++) {
      const at = CONTROL_HEADER + 4 + 4 * stage;
      const [firstTask, tasks] = control.subarray(at, at + 2);
      stages.push(
        Array.from({ length: tasks }, (_, task) => {
          const from = control[starts + firstTask + task];
          const to = control[starts + firstTask + task + 1];
          return Array.from({ length: to - from }, (_, i) => calls[(from + i) * CALL_SLOTS]);
        }),
      );
    }
  }
  return stages;
}

/** Runs of calls, each followed by a cut. */
const runs = fc.array(
  fc.record({
    calls: fc.oneof(fc.integer({ min: 0, max: 5 }), fc.integer({ min: 500, max: CALLS })),
    cut: fc.constantFrom(...KINDS),
  }),
  { minLength: 1, maxLength: 20 },
);

describe('a recording', () => {
  test.prop([runs], { numRuns: 60 })('keeps the order of a task and the barriers', (list) => {
    const recording = new Recording();
    const taskOf: number[] = [];
    const stageOf: number[] = [];
    let [task, stage] = [0, 0];
    for (const { calls, cut } of list) {
      for (let i = 0; i < calls; i++) {
        recording.add(taskOf.length, [taskOf.length]);
        taskOf.push(task);
        stageOf.push(stage);
      }
      recording.cut(cut);
      if (cut !== 'seam') task++;
      if (cut === 'stage') stage++;
    }
    const stages = play(recording);
    const order = stages.flat(2);
    expect(order).toEqual(taskOf.map((_, call) => call));
    for (const tasks of stages) {
      const ids = tasks.map((calls) => new Set(calls.map((call) => taskOf[call])));
      for (const id of ids) expect(id.size).toBe(1); // nothing that must not share a task does
      const seen = ids.map((id) => [...id][0]);
      expect(new Set(seen).size).toBe(seen.length); // a task is never in two of one stage
      expect(new Set(tasks.flat().map((call) => stageOf[call])).size).toBe(1);
    }
  });

  it('of more stages than a buffer holds goes on in the next', () => {
    const recording = new Recording();
    for (let i = 0; i < 2 * STAGES; i++) {
      recording.add(i, []);
      recording.cut('stage');
    }
    expect(play(recording)).toEqual(Array.from({ length: 2 * STAGES }, (_, i) => [[i]]));
  });

  it('refuses a task that no buffer holds', () => {
    const recording = new Recording();
    for (let i = 0; i <= CALLS; i++) recording.add(i, []);
    recording.cut('task');
    expect(() => play(recording)).toThrow(/at most 4096 calls/);
  });

  it('forgets everything when cleared', () => {
    const recording = new Recording();
    recording.add(1, [2, 3]);
    recording.cut('stage');
    recording.clear();
    recording.add(7, []);
    recording.cut('stage');
    expect(play(recording)).toEqual([[[7]]]);
  });
});
