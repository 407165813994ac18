import { describe, expect, it } from 'vitest';
import { ComputedFactors, factoredMatrix, latentFactors } from '../../../src/cache/factors.js';
import type { FactoredMatrix } from '../../../src/cache/projection.js';
import { FormatError } from '../../../src/errors.js';
import { readSafetensors, type SafeTensor, writeSafetensors } from '../../../src/io/safetensors.js';
import { factorsOfCache, factorsOfModel, readFactors, writeFactors } from '../../../src/io/svd-factors.js';
import { randomTokens, TINY_CONFIG, TINY_GQA_CONFIG, tinyModel } from '../../helpers/tiny-model.js';

const FINGERPRINT = '0123456789abcdef';
const owner = { config: TINY_GQA_CONFIG, fingerprint: FINGERPRINT };
const model = tinyModel(TINY_GQA_CONFIG);
const names = factorsOfModel(TINY_GQA_CONFIG);
const file = writeFactors(names, model.factors, FINGERPRINT);

/** Writes the file again after a change of its parts. */
function changed(change: (all: Parts) => void): Uint8Array {
  const all = parts();
  change(all);
  return writeSafetensors(all.tensors, all.metadata);
}

interface Parts {
  metadata: Record<string, string>;
  tensors: Map<string, SafeTensor>;
}

function parts(): Parts {
  const { metadata, tensors } = readSafetensors(file.slice(), 'file');
  return { metadata: { ...metadata }, tensors: new Map(tensors) };
}

describe('the factors that a cache needs', () => {
  /** What a cache asks for when it is made and used. */
  async function asked(spec: string): Promise<string[]> {
    const seen = new Set<string>();
    const spy = tinyModel(TINY_GQA_CONFIG);
    const compute = spy.factors.factors.bind(spy.factors);
    spy.factors.factors = (layer: number, matrix: FactoredMatrix) => {
      seen.add(`${layer} ${matrix}`);
      return compute(layer, matrix);
    };
    const cache = spy.createCache(spec);
    await spy.forward(randomTokens(20), cache);
    return [...seen].sort();
  }

  it.each([
    'kv',
    'kivi:2',
    'xquant:4',
    'xquant:4@paper',
    'xquant:4?form=x',
    'xquant-cl:2',
    'xquant-cl:2@paper',
    'xquant-cl:2?baseStore=latent',
    'xquant-cl:2?baseLayers=1',
    'xquant-cl:2?form=x',
  ])('are those that it asks for: %s', async (spec) => {
    const cache = model.createCache(spec);
    const listed = factorsOfCache(cache.options, model.config).map(
      ({ layer, matrix }) => `${layer} ${matrix}`,
    );
    expect(listed.sort()).toEqual(await asked(spec));
    const all = names.map(({ layer, matrix }) => `${layer} ${matrix}`);
    expect(all).toEqual(expect.arrayContaining(listed));
  });

  it('leave out latent deltas where keys and values are too wide for them', () => {
    const kinds = (config: typeof TINY_CONFIG) => new Set(factorsOfModel(config).map((name) => name.matrix));
    expect(kinds(TINY_CONFIG)).toEqual(new Set(['key', 'value']));
    expect(kinds(TINY_GQA_CONFIG)).toEqual(new Set(['key', 'value', 'keyValue', 'keyValueWithGain']));
  });
});

describe('a file of factors', () => {
  it('gives back what was written, bit for bit', () => {
    const read = readFactors(file, 'file', owner);
    expect(read.map(({ layer, matrix }) => ({ layer, matrix }))).toEqual(names);
    for (const { layer, matrix, factors } of read) {
      expect(factors).toEqual(latentFactors(factoredMatrix(model.projections[layer], matrix)));
    }
  });

  it('may hold a part of them', () => {
    const some = names.slice(3, 6);
    const read = readFactors(writeFactors(some, model.factors, FINGERPRINT), 'file', owner);
    expect(read.map(({ layer, matrix }) => ({ layer, matrix }))).toEqual(some);
  });

  it('makes computing them unnecessary', () => {
    const computed: string[] = [];
    const factors = new ComputedFactors(model.projections, (layer, matrix) =>
      computed.push(`${layer} ${matrix}`),
    );
    for (const { layer, matrix, factors: read } of readFactors(file, 'file', owner))
      factors.preset(layer, matrix, read);
    for (const { layer, matrix } of names) factors.factors(layer, matrix);
    expect(computed).toEqual([]);
  });

  it('has the names that its documentation gives', () => {
    const { metadata, tensors } = readSafetensors(file, 'file');
    expect(metadata).toEqual({ format: 'xquant-svd-factors', version: '1', model: FINGERPRINT });
    expect(tensors.get('layers.3.key.down_projection')?.shape).toEqual([32, 64]);
    expect(tensors.get('layers.0.keyValueWithGain.up_projection')?.shape).toEqual([64, 64]);
  });
});

describe('bad files', () => {
  const key = 'layers.1.value.up_projection';
  it.each<[string, Uint8Array, RegExp]>([
    [
      'of another model',
      changed(({ metadata }) => (metadata.model = 'ffff')),
      /model ffff.*0123456789abcdef/,
    ],
    ['of another kind', changed(({ metadata }) => (metadata.format = 'pt')), /xquant-svd-factors/],
    ['of another version', changed(({ metadata }) => (metadata.version = '2')), /version/],
    ['without metadata', changed((all) => (all.metadata = {})), /format/],
    [
      'without a tensor',
      changed(({ tensors }) => tensors.delete(key)),
      /layers\.1\.value\.up_projection: .*missing/,
    ],
    [
      'with a tensor of another type',
      changed(({ tensors }) =>
        tensors.set(key, { dtype: 'F16', shape: [32, 32], bytes: new Uint8Array(2048) }),
      ),
      /F32/,
    ],
    [
      'with a tensor of another shape',
      changed(({ tensors }) =>
        tensors.set(key, { dtype: 'F32', shape: [32, 16], bytes: new Uint8Array(2048) }),
      ),
      /\[32, 32\], got \[32, 16\]/,
    ],
    [
      'with a NaN',
      changed(({ tensors }) =>
        tensors.set(key, { dtype: 'F32', shape: [32, 32], bytes: new Uint8Array(4096).fill(255) }),
      ),
      /element 0 is not a finite number/,
    ],
    [
      'with a tensor of another layer',
      changed(({ tensors }) => tensors.set('layers.4.key.up_projection', tensors.get(key)!)),
      /layers\.4\.key/,
    ],
    ['that are cut', file.slice(0, file.length - 1), /factors\.bin/],
    ['that are empty', new Uint8Array(0), /factors\.bin/],
  ])('%s are refused', (_, bytes, message) => {
    const read = () => readFactors(bytes, 'factors.bin', owner);
    expect(read).toThrow(FormatError);
    expect(read).toThrow(message);
  });
});
