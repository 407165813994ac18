import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import {
  DEVICES,
  hiddenTokens,
  parseDevice,
  type RooflineForm,
  ridgePoint,
  rooflineCost,
} from '../../../src/analysis/roofline.js';
import { ConfigError } from '../../../src/errors.js';

const layer = (form: RooflineForm, bits = 2) => ({
  form,
  hiddenSize: 4096,
  kvDim: form.startsWith('gqa') ? 1024 : 4096,
  bits,
});

describe("the paper's numbers, on its H100", () => {
  it('ridge point 378', () => {
    expect(ridgePoint(DEVICES.h100)).toBe(378);
  });

  it('MHA at 2 bits stays hidden up to 2.3K tokens', () => {
    expect(Math.round(hiddenTokens(layer('mha'), DEVICES.h100))).toBe(2281);
  });

  it('GQA at 2 bits and g = 4 up to 40.6K', () => {
    expect(hiddenTokens(layer('gqa'), DEVICES.h100) / 1000).toBeCloseTo(40.6, 1);
  });
});

const forms = fc.constantFrom<RooflineForm>('mha', 'gqa', 'mha-cl', 'gqa-cl');
const devices = fc.constantFrom(...Object.values(DEVICES));

test.prop([forms, devices, fc.constantFrom(2, 3, 4, 8)])(
  'at the hidden length computing takes as long as moving, before it less, after it more',
  (form, device, bits) => {
    const tokens = hiddenTokens(layer(form, bits), device);
    if (!Number.isFinite(tokens)) return;
    const at = (factor: number) => {
      const { computeSeconds, memorySeconds } = rooflineCost(layer(form, bits), device, tokens * factor);
      return computeSeconds / memorySeconds;
    };
    expect(at(1)).toBeCloseTo(1, 9);
    expect(at(0.9)).toBeLessThan(1);
    expect(at(1.1)).toBeGreaterThan(1);
  },
);

test.prop([forms, devices])('more bits and more weights hide more', (form, device) => {
  const plain = hiddenTokens(layer(form), device);
  expect(hiddenTokens(layer(form, 4), device)).toBeGreaterThanOrEqual(plain);
  expect(hiddenTokens({ ...layer(form), weightBytes: 1e9 }, device)).toBeGreaterThanOrEqual(plain);
});

it('reads devices by name or as numbers', () => {
  expect(parseDevice('rtx4090')).toBe(DEVICES.rtx4090);
  expect(parseDevice('custom:756:2000')).toMatchObject({ peakFlops: 756e12, bandwidth: 2e12 });
  for (const bad of ['h200', 'custom', 'custom:0:1', 'custom:1', 'toString', 'custom:1:2:3']) {
    expect(() => parseDevice(bad)).toThrow(ConfigError);
  }
});
