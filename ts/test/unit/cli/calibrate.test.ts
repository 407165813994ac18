import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Calibration } from '../../../src/cache/calibration.js';
import { readCalibrationFile } from '../../../src/io/calibration-file.js';
import { loadModelFile } from '../../../src/io/load-model.js';
import { derivedSizes } from '../../../src/model/config.js';
import { decodeFloat16 } from '../../../src/numerics/float16.js';
import { allocateBits } from '../../../src/quant/allocate-bits.js';
import { generator, tinyModelGguf } from '../../helpers/gguf-writer.js';
import { runInProcess } from '../../helpers/run-cli.js';

const main = fileURLToPath(new URL('../../../../dist/cli/main.js', import.meta.url));
const isBuilt = existsSync(main);
if (!isBuilt) console.log('skipped: threads of "xquant calibrate", since there is no dist/ (npm run build)');

let folder = '';
const path = (name: string) => join(folder, name);

function randomText(words: number, seed: number): string {
  const random = generator(seed);
  const letter = () => String.fromCharCode(97 + (Math.floor(6 * Math.abs(random())) % 26));
  return Array.from({ length: words }, () => letter() + letter() + letter()).join(' ');
}

const args = (model: string, out: string, ...more: string[]) => [
  'calibrate',
  ...['--model', path(model), '--text', path('a.txt'), '--text', path('b.txt'), '--windows', '3'],
  ...['--window-tokens', '160', '--out', path(out), ...more],
];

async function read(model: string, out: string): Promise<Calibration> {
  const { config, fingerprint } = await loadModelFile(path(model));
  return readCalibrationFile(readFileSync(path(out)), out, { config, fingerprint });
}

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'xquant-calibrate-'));
  const common = { layers: 3, scale: 0.3 };
  writeFileSync(path('gqa.gguf'), tinyModelGguf({ ...common, kvHeads: 2 }));
  writeFileSync(path('mha.gguf'), tinyModelGguf({ ...common, kvHeads: 4 }));
  writeFileSync(path('qwen3.gguf'), tinyModelGguf({ ...common, architecture: 'qwen3' }));
  writeFileSync(path('qwen2.gguf'), tinyModelGguf({ ...common, architecture: 'qwen2' }));
  writeFileSync(path('a.txt'), randomText(400, 1));
  writeFileSync(path('b.txt'), randomText(400, 2));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('xquant calibrate', () => {
  it.each([
    ['gqa', ['joint', 'tensor', 'head', 'cl-p1-b2.25', 'cl-p2-b2.25']],
    ['mha', ['joint', 'cl-p1-b0.85', 'cl-p2-b0.85']],
    ['qwen2', ['joint', 'tensor', 'head', 'cl-p1-b2.25', 'cl-p2-b2.25']],
    ['qwen3', ['joint', 'tensor', 'head', 'cl-p1-b2.25', 'cl-p2-b2.25']],
  ])('%s: every set is there, and its file is one that is read', async (name, sets) => {
    const { code, stdout, stderr } = await runInProcess([
      ...args(`${name}.gguf`, `${name}.safetensors`, '--threads', '1', '--json'),
    ]);
    expect([code, stderr]).toEqual([0, '']);
    expect(JSON.parse(stdout)).toMatchObject({ sets, windows: 3, windowTokens: 160, sensitivityWindows: 2 });
    const calibration = await read(`${name}.gguf`, `${name}.safetensors`);
    expect(calibration.sets.map((set) => set.name)).toEqual(sets);
    expect(calibration.origin.texts.map((text) => text.name)).toEqual(['a.txt', 'b.txt']);
    expect(existsSync(path(`${name}.safetensors.partial`))).toBe(false);
    for (const set of calibration.sets) {
      // E is the inverse of D: an invertible D has no empty row.
      for (const { decode, importance } of set.layers) {
        const values = decodeFloat16(decode.float16);
        for (let k = 0; k < decode.rows; k++) {
          expect(values.subarray(k * decode.columns, (k + 1) * decode.columns).some((x) => x !== 0)).toBe(
            true,
          );
        }
        expect(importance.every((value) => value > 0)).toBe(true);
      }
    }
  });

  it('goes on where it was interrupted, and ends with the same bytes', async () => {
    const whole = readFileSync(path('gqa.safetensors'));
    const partial = path('again.safetensors.partial');
    for (const lines of [3, 12, 20]) {
      const controller = new AbortController();
      const watch = setInterval(() => {
        // The file goes when the run ends, which may be between a look at it and its reading.
        const state = readIfThere(partial);
        if (state !== undefined && state.split('\n').length > lines) controller.abort();
      }, 1);
      const run = await runInProcess(args('gqa.gguf', 'again.safetensors', '--threads', '1'), {
        signal: controller.signal,
      });
      clearInterval(watch);
      if (run.code === 0) break; // faster than the watch
      expect(existsSync(path('again.safetensors'))).toBe(false);
      expect(existsSync(partial)).toBe(true);
    }
    const last = await runInProcess(args('gqa.gguf', 'again.safetensors', '--threads', '1'));
    expect(last.code).toBe(0);
    expect(readFileSync(path('again.safetensors')).equals(whole)).toBe(true);
  });

  it('makes what other caches need', async () => {
    const more = ['-c', 'xquant-cl:1.25@calibrated?predict=2', '-c', 'xquant-cl:2.25@calibrated?predict=1'];
    const run = await runInProcess(args('gqa.gguf', 'more.safetensors', '--threads', '1', '--json', ...more));
    expect([run.code, run.stderr]).toEqual([0, '']);
    const names = ['joint', 'tensor', 'head', 'cl-p1-b2.25', 'cl-p2-b2.25', 'cl-p2-b1.25'];
    expect((await read('gqa.gguf', 'more.safetensors')).sets.map(({ name }) => name)).toEqual(names);
    const plain = await runInProcess(args('gqa.gguf', 'bad.safetensors', '-c', 'xquant:4'));
    expect([plain.code, plain.stderr]).toEqual([
      2,
      expect.stringMatching(/must name calibrated caches, got xquant:4/),
    ]);
  });

  it('begins anew when the partial results are of another text', async () => {
    writeFileSync(
      path('other.safetensors.partial'),
      '{"version":"none"}\n{"name":"distortion","value":{"0":7}}\n',
    );
    const { code, stderr } = await runInProcess(args('gqa.gguf', 'other.safetensors', '--threads', '1'));
    expect([code, stderr]).toEqual([0, '']);
    expect(readFileSync(path('other.safetensors')).equals(readFileSync(path('gqa.safetensors')))).toBe(true);
  });

  it.each([
    [
      'a text that is too short',
      ['--windows', '40'],
      /a.txt has \d+ tokens, 20 windows of 160 tokens need 3200/,
    ],
    ['windows beyond the context', ['--window-tokens', '257'], /"--window-tokens" must be from 5 to 256/],
    ['fewer windows than texts', ['--windows', '1'], /"--windows" must be at least one for each text/],
  ])('refuses %s', async (_, more, message) => {
    const { code, stderr } = await runInProcess(args('gqa.gguf', 'bad.safetensors', ...more));
    expect(code).toBe(2);
    expect(stderr).toMatch(message);
    expect(existsSync(path('bad.safetensors.partial'))).toBe(false);
  });

  it.skipIf(!isBuilt)('two threads find what one finds', async () => {
    const run = spawnSync(process.execPath, [main, ...args('gqa.gguf', 'two.safetensors', '--threads', '2')]);
    expect([run.status, String(run.stderr)]).toEqual([0, '']);
    const [one, two] = [await read('gqa.gguf', 'gqa.safetensors'), await read('gqa.gguf', 'two.safetensors')];
    const { config } = await loadModelFile(path('gqa.gguf'));
    const budget = 2.25 * 2 * derivedSizes(config).kvDim * config.numHiddenLayers;
    for (const [i, set] of one.sets.entries()) {
      const bits = [one, two].map(({ sets, distortion }) =>
        allocateBits({
          importance: sets[i].layers.map((layer) => layer.importance),
          distortion,
          budget,
          scaleBits: 16 / 128,
        }).flat(),
      );
      const same = bits[0].filter((width, channel) => width === bits[1][channel]).length;
      expect(same, set.name).toBeGreaterThan(0.97 * bits[0].length);
    }
  });
});

function readIfThere(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}
