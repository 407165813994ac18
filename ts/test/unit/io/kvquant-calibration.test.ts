import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ConfigError, FormatError } from '../../../src/errors.js';
import { readCalibration } from '../../../src/io/kvquant-calibration.js';
import { loadModelFile } from '../../../src/io/load-model.js';
import { embeddedCalibrations } from '../../../src/io/node-calibration.js';
import { readSafetensors, writeSafetensors } from '../../../src/io/safetensors.js';
import { referenceWeights } from '../../../src/model/weights.js';
import { ReferenceModel } from '../../../src/reference-model.js';

const golden = new URL('../../../../golden/', import.meta.url).pathname;
const path = `${golden}calibration/books-gqa.safetensors`;
const bytes = new Uint8Array(readFileSync(path));

const file = await loadModelFile('books-gqa');
const model = new ReferenceModel(file.config, referenceWeights(file.weights));

describe('the calibration of an embedded model', () => {
  const calibration = readCalibration(bytes, path, file.config);

  it('has every setting, ranges that are ranges, levels inside [-1, 1]', () => {
    expect(calibration.settings.length).toBe(2 * 2 * 3);
    for (const setting of calibration.settings) {
      const layers = calibration.find(setting)!;
      expect(layers.length).toBe(file.config.numHiddenLayers);
      for (const { keyRanges, keys, values } of layers) {
        expect(keyRanges.lower.every((low, c) => low < keyRanges.upper[c])).toBe(true);
        for (const { levels, qNorm } of [keys, values]) {
          expect(levels.length).toBe(2 ** setting.bits);
          expect(levels.every((level) => Math.abs(level) <= 1)).toBe(true);
          expect(qNorm.scale).toBeGreaterThan(0.5);
          expect(qNorm.scale).toBeLessThan(2);
        }
      }
    }
    expect(calibration.find({ bits: 2, outlierFraction: 0.02, sink: 0 })).toBeUndefined();
  });

  it('was made on windows that no evaluation uses', () => {
    expect(calibration.origin.windows.length).toBe(16);
    expect(Math.min(...calibration.origin.windows)).toBeGreaterThanOrEqual(128);
  });

  it('is found by the weights and makes a cache possible', () => {
    expect(() => model.createCache('kvquant:2')).toThrow(/calibrate_kvquant/);
    const own = embeddedCalibrations(file.config).filter((each) => model.factors.isCalibrationOf(each));
    expect(own.map(({ origin }) => origin.model)).toEqual(['books-gqa.gguf']);
    model.factors.presetCalibration('kvquant', own[0]);
    expect(model.createCache('kvquant:2').length).toBe(0);
  });

  it('is refused by a model with other weights', () => {
    const keyWeights = calibration.keyWeights!.map((each) => each.map((value) => value * 1.01));
    expect(() => model.factors.presetCalibration('kvquant', { ...calibration, keyWeights })).toThrow(
      ConfigError,
    );
  });
});

describe('broken files', () => {
  const { metadata, tensors } = readSafetensors(bytes, path);
  const read = (change: Partial<Record<string, string>>, drop?: string) => {
    const kept = new Map([...tensors].filter(([name]) => name !== drop));
    const text = Object.entries({ ...metadata, ...change }).filter(([, value]) => value !== undefined);
    return () =>
      readCalibration(
        writeSafetensors(kept, Object.fromEntries(text) as Record<string, string>),
        'x',
        file.config,
      );
  };

  it('name the place', () => {
    expect(read({})).not.toThrow();
    expect(read({ format: 'xquant-svd-factors' })).toThrow(/metadata "format"/);
    expect(read({ version: '2' })).toThrow(/metadata "version"/);
    expect(read({ settings: '{' })).toThrow(/metadata "settings"/);
    expect(read({ settings: '[]' })).toThrow(FormatError);
    expect(read({ settings: '[{"bits":5,"outlierFraction":0,"sink":0}]' })).toThrow(FormatError);
    expect(read({}, 'outliers.0.01.sink.1.key_upper')).toThrow(/key_upper.*missing/);
    expect(read({}, 'key_weights')).toThrow(/key_weights.*missing/);
    const other = { ...file.config, numHiddenLayers: 3 };
    expect(() => readCalibration(bytes, 'x', other)).toThrow(/must be \[3, 64\]/);
  });
});
