import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { ConfigError, FormatError, LoadError } from '../../../src/errors.js';
import {
  openCalibrationFile,
  readCalibrationFile,
  writeCalibrationFile,
} from '../../../src/io/calibration-file.js';
import { loadModelFile } from '../../../src/io/load-model.js';
import { NodePlaces, nodeStore } from '../../../src/io/node-calibration.js';
import { syncFile } from '../../../src/io/node-file.js';
import { loadModel } from '../../../src/load.js';
import { tinyModelGguf } from '../../helpers/gguf-writer.js';
import { runInProcess } from '../../helpers/run-cli.js';

let folder = '';
let made = new Uint8Array();
const path = (name: string) => join(folder, name);
const cached = () => join(process.env.XDG_CACHE_HOME as string, 'xquant');
const owner = async (name: string) => loadModelFile(path(name));

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'xquant-store-'));
  writeFileSync(path('tiny.gguf'), tinyModelGguf({ layers: 2, scale: 0.3 }));
  writeFileSync(path('other.gguf'), tinyModelGguf({ layers: 2, scale: 0.3, seed: 7 }));
  writeFileSync(path('text.txt'), 'the quick brown fox jumps over the lazy dog and '.repeat(20));
  const args = ['--text', path('text.txt'), '--windows', '2', '--window-tokens', '64', '--threads', '1'];
  const run = await runInProcess(['calibrate', '-m', path('tiny.gguf'), ...args, '-o', path('made')]);
  expect(run.stderr).toBe('');
  made = new Uint8Array(readFileSync(path('made')));
});
beforeEach(() => rmSync(cached(), { recursive: true, force: true }));
afterEach(() => {
  for (const name of readdirSync(folder)) if (name.includes('.xquant-')) rmSync(path(name));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('factors', () => {
  it.each(['wasm', 'reference'] as const)(
    'are computed once and read by the next start (%s)',
    async (backend) => {
      const counts: number[] = [];
      const states: unknown[] = [];
      for (let start = 0; start < 2; start++) {
        let computed = 0;
        const { model } = await loadModel(path('tiny.gguf'), {
          backend,
          ...(backend === 'wasm' ? { threads: 1 } : {}),
          onFactor: () => computed++,
        });
        const cache = model.createCache('xquant:4?window=32&group=32');
        await model.forward(
          Array.from({ length: 40 }, (_, i) => (i * 7) % 250),
          cache,
        );
        states.push(cache.layers.map((layer) => layer.state()));
        counts.push(computed);
        await model.dispose();
      }
      expect(counts).toEqual([4, 0]);
      expect(states[1]).toEqual(states[0]);
      const { fingerprint } = await owner('tiny.gguf');
      expect(readdirSync(cached())).toEqual([`${fingerprint}.xquant-factors.safetensors`]);
    },
  );

  it('of another cache are added to those that are there', async () => {
    const computed: string[] = [];
    const run = async (cache: string) => {
      const { model } = await loadModel(path('tiny.gguf'), {
        backend: 'reference',
        onFactor: (layer, matrix) => computed.push(`${layer} ${matrix}`),
      });
      model.createCache(cache);
    };
    await run('xquant:4');
    await run('xquant-cl:2?baseLayers=1&baseStore=latent');
    await run('xquant:4');
    await run('xquant-cl:2?baseLayers=1&baseStore=latent');
    expect(computed).toEqual([...new Set(computed)]);
    expect(computed).toHaveLength(6);
  });

  it('of another model are refused by name', async () => {
    const { model } = await loadModel(path('tiny.gguf'), { backend: 'reference' });
    model.createCache('xquant:4');
    const [own, other] = [await owner('tiny.gguf'), await owner('other.gguf')];
    const name = (fingerprint: string) => join(cached(), `${fingerprint}.xquant-factors.safetensors`);
    writeFileSync(name(other.fingerprint), readFileSync(name(own.fingerprint)));
    const { model: second } = await loadModel(path('other.gguf'), { backend: 'reference' });
    expect(() => second.createCache('xquant:4')).toThrow(FormatError);
    expect(() => second.createCache('xquant:4')).toThrow(name(other.fingerprint));
  });

  it('that cannot be written are a warning, not an error', async () => {
    writeFileSync(cached(), 'a file where the folder should be');
    const warning = new Promise<Error>((resolve) => process.once('warning', resolve));
    const { model } = await loadModel(path('tiny.gguf'), { backend: 'reference' });
    model.createCache('xquant:4');
    expect((await warning).message).toMatch(/xquant-factors.safetensors cannot be written/);
  });
});

describe('a calibration', () => {
  it('is found beside the model before the cache folder, and by its path before both', async () => {
    const { fingerprint } = await owner('tiny.gguf');
    const places = new NodePlaces(path('tiny.gguf'), fingerprint);
    expect(places.find('calibration')).toBeUndefined();
    mkdirSync(cached(), { recursive: true });
    const inCache = join(cached(), `${fingerprint}.xquant-calibration.safetensors`);
    writeFileSync(inCache, made);
    expect(places.find('calibration')?.name).toBe(inCache);
    const beside = `${path('tiny.gguf')}.xquant-calibration.safetensors`;
    writeFileSync(beside, made);
    expect(places.find('calibration')?.name).toBe(beside);
    writeFileSync(beside, 'damaged');
    const { model } = await loadModel(path('tiny.gguf'), { backend: 'reference' });
    expect(() => model.createCache('xquant:3@calibrated')).toThrow(FormatError);
    const given = await loadModel(path('tiny.gguf'), { backend: 'reference', calibration: path('made') });
    expect(given.model.createCache('xquant:3@calibrated').length).toBe(0);
  });

  it('that is missing is an error that says how to make it', async () => {
    const { model } = await loadModel(path('tiny.gguf'), { backend: 'reference' });
    expect(() => model.createCache('xquant:3@calibrated')).toThrow(ConfigError);
    expect(() => model.createCache('xquant:3@calibrated')).toThrow(
      `xquant calibrate --model ${path('tiny.gguf')} --text FILE`,
    );
    const { model: named } = await loadModel(path('tiny.gguf'), {
      backend: 'reference',
      calibration: 'nowhere',
    });
    expect(() => named.createCache('xquant:3@calibrated')).toThrow(LoadError);
  });

  it('of another model is refused by name', async () => {
    const { config, fingerprint } = await owner('other.gguf');
    const store = nodeStore(path('other.gguf'), { config, fingerprint }, path('made'));
    expect(() => store.calibration('')).toThrow(/made.*belongs to model/s);
  });

  it('is read as far as it is needed', async () => {
    const { config, fingerprint } = await owner('tiny.gguf');
    const file = syncFile(path('made'));
    let bytes = 0;
    const counted = {
      ...file,
      read: (offset: number, length: number) => {
        bytes += length;
        return file.read(offset, length);
      },
    };
    const { sets } = openCalibrationFile(counted, { config, fingerprint });
    const opened = bytes;
    expect(opened).toBeLessThan(0.35 * file.size);
    const size = 2 * 64 * 64;
    for (const { decode } of sets[0].layers) expect(decode.float16.length).toBe(64 * 64);
    for (const { decode } of sets[0].layers) expect(decode.float16.length).toBe(64 * 64);
    expect(bytes - opened).toBe(2 * size);
  });
});

describe('the default cache', () => {
  const beside = () => `${path('tiny.gguf')}.xquant-calibration.safetensors`;

  it.each(['wasm', 'reference'] as const)(
    'is calibrated where a calibration is at hand (%s)',
    async (backend) => {
      const threads = backend === 'wasm' ? { threads: 1 } : {};
      const variantOf = async (options: { calibration?: string } = {}) => {
        const { model } = await loadModel(path('tiny.gguf'), { backend, ...threads, ...options });
        const { form, bits } = model.createCache('auto').options;
        await model.dispose();
        return `${form} ${bits}`;
      };
      expect(await variantOf()).toBe('latent 4');
      expect(await variantOf({ calibration: path('made') })).toBe('calibrated 2.25');
      writeFileSync(beside(), made);
      expect(await variantOf()).toBe('calibrated 2.25');
    },
  );

  it('is never chosen by a calibration that cannot be read, or is of another model', async () => {
    writeFileSync(`${path('other.gguf')}.xquant-calibration.safetensors`, made);
    const { model } = await loadModel(path('other.gguf'), { backend: 'reference' });
    expect(() => model.createCache('auto')).toThrow(/other\.gguf\.xquant-calibration.*belongs to model/s);
    expect(model.createCache('xquant:4').length).toBe(0);
  });

  it('and why it was chosen is said in a line by the commands', async () => {
    const generate = ['generate', 'a', '-m', path('tiny.gguf'), '-n', '2', '-c', 'auto', '--threads', '1'];
    const by = (cause: string) => new RegExp(`^cache \\S+: ${cause}.*\\n$`);
    expect((await runInProcess(generate)).stderr).toMatch(by('grouped-query attention'));
    writeFileSync(beside(), made);
    const { code, stderr } = await runInProcess(generate);
    expect(code).toBe(0);
    expect(stderr).toBe('cache xquant-cl:2.25@calibrated: a calibration is at hand, made on text.txt\n');
  });

  it('is marked in the table of "info", with its loss where the calibration knows it', async () => {
    const info = ['info', '-m', path('tiny.gguf')];
    expect((await runInProcess(info)).stdout).not.toContain('@calibrated');
    const owned = await owner('tiny.gguf');
    const calibration = readCalibrationFile(made, 'made', owned);
    const loss = { text: 'a novel', percent: 1.234, standardError: 0.1 };
    const sets = calibration.sets.map((set) => (set.predict === 1 ? { ...set, loss } : set));
    writeFileSync(beside(), writeCalibrationFile({ ...calibration, sets }, owned.fingerprint));
    const { stdout } = await runInProcess(info);
    expect(stdout).toMatch(/^xquant-cl:2\.25@calibrated +\S+ \S+ .* 1\.23 % +default$/m);
    expect(stdout).toMatch(/^xquant-cl:2\.25@calibrated\?predict=2 .* not measured$/m);
    expect(stdout).toMatch(
      /^default: a calibration .*text\.txt; it loses 1\.23 % of perplexity on a novel$/m,
    );
  });
});

describe('the command line', () => {
  const perplexity = (...more: string[]) =>
    runInProcess([
      ...['perplexity', '-m', path('tiny.gguf'), '--backend', 'reference', '--text', path('text.txt')],
      ...['--windows', '1', '--window-size', '64', '-c', 'xquant:3@calibrated', ...more],
    ]);

  it('says how to make a calibration, finds one, and takes one', async () => {
    const missing = await perplexity();
    expect(missing.code).toBe(2);
    expect(missing.stderr).toContain(`xquant calibrate --model ${path('tiny.gguf')} --text FILE`);
    const given = await perplexity('--calibration', path('made'));
    expect([given.code, given.stderr]).toEqual([0, '']);
    writeFileSync(`${path('tiny.gguf')}.xquant-calibration.safetensors`, made);
    const found = await perplexity();
    expect([found.code, found.stderr]).toEqual([0, '']);
  });

  it('"calibrate" writes beside the model unless told otherwise', async () => {
    const args = ['--text', path('text.txt'), '--windows', '2', '--window-tokens', '64', '--threads', '1'];
    const run = await runInProcess(['calibrate', '-m', path('tiny.gguf'), ...args]);
    expect([run.code, run.stderr]).toEqual([0, '']);
    expect(existsSync(`${path('tiny.gguf')}.xquant-calibration.safetensors`)).toBe(true);
  });
});
