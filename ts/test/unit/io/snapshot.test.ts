import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 as zlibCrc32 } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Calibration } from '../../../src/cache/calibration.js';
import type { ModelCache } from '../../../src/cache/contract.js';
import { storedBytes } from '../../../src/cache/stored-matrix.js';
import { ConfigError, FormatError, LoadError, XQuantError } from '../../../src/errors.js';
import { CachedSequence, generate } from '../../../src/generate.js';
import { crc32 } from '../../../src/io/crc32.js';
import { readSnapshotInfo, restoreSnapshot, writeSnapshot } from '../../../src/io/snapshot.js';
import { loadSnapshot, saveSnapshot } from '../../../src/io/snapshot-file.js';
import { SNAPSHOT_VERSION } from '../../../src/io/snapshot-sections.js';
import { loadModel } from '../../../src/load.js';
import type { LanguageModel } from '../../../src/model/language-model.js';
import type { ReferenceModel } from '../../../src/reference-model.js';
import { sampleCalibration } from '../../helpers/calibrations.js';
import { expectSame } from '../../helpers/expect-same.js';
import { randomInputs } from '../../helpers/random-layers.js';
import {
  ByteTokenizer,
  END_OF_SEQUENCE,
  randomTokens,
  randomWeights,
  TINY_GQA_CONFIG,
  tinyModel,
} from '../../helpers/tiny-model.js';
import { sampleTransforms } from '../../helpers/transforms.js';
import { engineOf } from '../engine/engines.js';

const FINGERPRINT = '0123456789abcdef';
const model = calibrated(tinyModel());
const gqa = calibrated(tinyModel(TINY_GQA_CONFIG));
const owner = { model, fingerprint: FINGERPRINT };
const tokenizer = new ByteTokenizer();
const MAGIC = Uint8Array.of(0x89, 0x58, 0x51, 0x53, 0x0d, 0x0a, 0x1a, 0x0a);

/** Small blocks, so that a few tokens seal some. */
const CACHES = [
  'kv?window=16',
  'kivi:2?group=16&window=16',
  'xquant:3?window=16',
  'xquant:4@paper?window=16',
  'xquant:2?form=latent&window=16',
  'xquant:4@paper?form=latent&group=16&window=16&outlier=f16',
  'xquant-cl:2?window=16',
  'xquant-cl:2@paper?window=16&accumulator=int8',
  'xquant-cl:1?deltaSpace=stream&window=16&accumulator=recompute',
  'xquant-cl:8?window=16&quantizer=identity',
  'kvquant:2?window=16',
  'kvquant:3?window=16&outliers=0&qnorm=on',
  'kvquant:4?window=16&outliers=10%&sink=5',
  'kvquant:4?window=16&quantizer=identity',
  'xquant:2.25@calibrated?group=16&window=16',
  'xquant-cl:1.25@calibrated?group=8&window=16&predict=2',
  'xquant-cl:4@calibrated?group=16&window=16&quantizer=identity',
];
const GQA_CACHES = [
  'xquant:2?window=16',
  'xquant-cl:2?window=16',
  'xquant-cl:4?baseStore=latent&window=16',
  'kvquant:2?window=16&sink=1',
  'xquant:4.25@calibrated?basis=head&group=16&window=16',
];

/** What the engine has, too. */
const SHARED = [
  ...CACHES.map((spec) => [spec, model] as const),
  ...GQA_CACHES.map((spec) => [spec, gqa] as const),
].filter(([spec]) => !spec.startsWith('kvquant'));

/** The same models on the engine. */
const engines = new Map<ReferenceModel, LanguageModel>();
beforeAll(async () => {
  for (const each of [model, gqa]) {
    const engine = await engineOf(each.config, randomWeights(each.config));
    engine.factors.presetCalibration('calibrated', calibrationOf(each));
    engines.set(each, engine);
  }
});
afterAll(() => {
  for (const engine of engines.values()) engine.dispose();
});

function engineFor(reference: ReferenceModel): LanguageModel {
  const engine = engines.get(reference);
  if (!engine) throw new Error('the engine has not been loaded');
  return engine;
}

function calibrationOf({ projections, config }: ReferenceModel, seed = 1): Calibration {
  return sampleTransforms(projections, randomInputs(projections, 300, seed), config);
}

/** Adds the calibrations that caches need. */
function calibrated(model: ReferenceModel, seed = 1): ReferenceModel {
  const sample = randomInputs(model.projections, 64, seed);
  model.factors.presetCalibration('kvquant', sampleCalibration(model.projections, sample));
  model.factors.presetCalibration('calibrated', calibrationOf(model, seed));
  return model;
}

async function filled(spec: string, tokens: number, of: LanguageModel = model): Promise<CachedSequence> {
  const sequence = new CachedSequence(of.createCache(spec));
  await sequence.run(of, randomTokens(tokens));
  return sequence;
}

function written({ cache, tokens }: CachedSequence, pending: readonly number[] = []): Uint8Array {
  return writeSnapshot({ cache, tokens, pending, generated: pending.length, fingerprint: FINGERPRINT });
}

function states(cache: ModelCache): unknown[] {
  return cache.layers.map((layer) => layer.state());
}

function refusal(bytes: Uint8Array): FormatError {
  try {
    restoreSnapshot(bytes, 'file', owner);
  } catch (error) {
    expect(error).toBeInstanceOf(FormatError);
    return error as FormatError;
  }
  throw new Error('the snapshot was accepted');
}

describe('crc32', () => {
  it('is that of zlib', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
        expect(crc32(bytes)).toBe(zlibCrc32(bytes));
      }),
    );
    expect(crc32(new TextEncoder().encode('123456789'))).toBe(0xcbf43926);
  });
});

describe('a snapshot', () => {
  const all = [
    ...CACHES.map((spec) => [spec, 'reference', model] as const),
    ...GQA_CACHES.map((spec) => [spec, 'reference', gqa] as const),
    ...SHARED.map(([spec, of]) => [spec, 'wasm', of] as const),
  ];

  it.each(all)(
    'restores every byte and goes on with the same tokens: %s, %s',
    async (spec, backend, reference) => {
      const of = backend === 'wasm' ? engineFor(reference) : reference;
      for (const length of [0, 15, 16, 37]) {
        const sequence =
          length > 0 ? await filled(spec, length, of) : new CachedSequence(of.createCache(spec));
        const bytes = written(sequence, [7]);
        const restored = restoreSnapshot(bytes, 'file', { model: of, fingerprint: FINGERPRINT });
        expectSame(states(restored.cache), states(sequence.cache));
        expect(restored.tokens).toEqual(sequence.tokens);
        expect(restored.pending).toEqual([7]);
        expect(restored.cache.options).toEqual(sequence.cache.options);
        // Written again it gives the same file.
        expectSame(writeSnapshot({ ...restored, fingerprint: FINGERPRINT }), bytes);

        const again = new CachedSequence(restored.cache, restored.tokens);
        const next = [...sequence.tokens, 7];
        const options = { maxTokens: 24, ignoreEos: true };
        const expected = await generate(of, tokenizer, next, { ...options, cache: sequence }).finish();
        const actual = await generate(of, tokenizer, next, { ...options, cache: again }).finish();
        expect(actual.ids).toEqual(expected.ids);
        expect(actual.reusedTokens).toBe(length);
        expectSame(states(restored.cache), states(sequence.cache));
      }
    },
  );

  it('tells what it is without a model', async () => {
    const sequence = await filled('xquant-cl:2?window=16', 20);
    expect(readSnapshotInfo(written(sequence, [1, 2]), 'file')).toEqual({
      model: FINGERPRINT,
      options: sequence.cache.options,
      length: 20,
      pending: 2,
      generated: 2,
    });
  });

  it('can be read from the middle of a buffer', async () => {
    const bytes = written(await filled('xquant:2?window=16', 20));
    const shifted = new Uint8Array(bytes.length + 3).subarray(3);
    shifted.set(bytes);
    expect(restoreSnapshot(shifted, 'file', owner).tokens).toHaveLength(20);
  });

  it('needs the ids of all its tokens', async () => {
    const { cache } = await filled('kv', 3);
    expect(() => writeSnapshot({ cache, tokens: [1], fingerprint: FINGERPRINT })).toThrow(ConfigError);
    const content = { cache, tokens: [1, 2, 3], pending: [4], fingerprint: FINGERPRINT };
    expect(() => writeSnapshot({ ...content, generated: 5 })).toThrow(ConfigError);
  });

  it.each(['xquant-cl:2?window=16', 'kvquant:2?window=16'])(
    'of a generation, wherever it is cut, goes on with the tokens of one that was not: %s',
    async (spec) => {
      const prompt = randomTokens(20);
      const sampling = { temperature: 0.9, topK: 40, seed: 5, ignoreEos: true };
      const whole = await generate(model, tokenizer, prompt, {
        ...sampling,
        cache: spec,
        maxTokens: 40,
      }).finish();
      for (const cut of [1, 12, 13, 31]) {
        const first = generate(model, tokenizer, prompt, { ...sampling, cache: spec, maxTokens: cut });
        const { ids } = await first.finish();
        const { sequence, pending, generated } = first;
        const { cache, tokens } = sequence;
        const bytes = writeSnapshot({ cache, tokens, pending, generated, fingerprint: FINGERPRINT });
        const restored = restoreSnapshot(bytes, 'file', owner);
        const second = generate(model, tokenizer, [...restored.tokens, ...restored.pending], {
          ...sampling,
          generatedBefore: restored.generated,
          cache: new CachedSequence(restored.cache, restored.tokens),
          maxTokens: 40 - cut,
        });
        expect([...ids, ...(await second.finish()).ids]).toEqual(whole.ids);
        expect(second.generated).toBe(40);
      }
    },
  );

  it('leaves the end of a text out, so that it is found again', async () => {
    const always = new Map([[END_OF_SEQUENCE, 1000]]);
    const generation = generate(model, tokenizer, randomTokens(20), { logitBias: always, cache: 'kv' });
    expect(await generation.finish()).toMatchObject({ ids: [END_OF_SEQUENCE], stopReason: 'endOfSequence' });
    expect(generation).toMatchObject({ pending: [], generated: 0 });
  });

  it('of a prompt that was interrupted has the rest of it', async () => {
    const prompt = randomTokens(50);
    const stop = new AbortController();
    const generation = generate(model, tokenizer, prompt, {
      cache: 'xquant:2?window=16',
      prefillChunk: 16,
      signal: stop.signal,
      onPrefill: (done) => done >= 32 && stop.abort(),
    });
    await expect(generation.finish()).rejects.toThrow();
    expect([...generation.sequence.tokens, ...generation.pending]).toEqual(prompt);
    expect(generation.sequence.tokens.length).toBe(32);
    expect(generation.generated).toBe(0);
  });

  it.each(['xquant-cl:2', 'xquant-cl:2@paper'])(
    'of 2,000 tokens with %s takes at most 1.05 times its counted bytes',
    async (spec) => {
      const { model: books, file } = await loadModel('books-mha');
      const cache = books.createCache(spec);
      // Zeros take as many bytes as anything else, and no minutes.
      for (const layer of cache.layers) {
        const rows = { rows: 2000, columns: 256, data: new Float32Array(2000 * 256) };
        layer.append({ x: rows, normalized: rows, stream: rows });
      }
      const tokens = new Array(2000).fill(1);
      const bytes = writeSnapshot({ cache, tokens, fingerprint: file.fingerprint });
      const ratio = bytes.length / storedBytes(cache.bytes());
      console.log(`snapshot of 2,000 tokens, ${spec}: ${bytes.length} bytes, ${ratio.toFixed(4)} of counted`);
      expect(ratio).toBeLessThan(1.05);
    },
  );
});

describe('refused by name', async () => {
  const sequence = await filled('xquant-cl:2?window=16', 37);
  const bytes = written(sequence);

  it('another model', () => {
    const other = { model, fingerprint: 'fedcba9876543210' };
    expect(() => restoreSnapshot(bytes, 'file', other)).toThrow(
      /belongs to model 0123456789abcdef, not to this one/,
    );
  });

  it('another calibration of KVQuant', async () => {
    const file = written(await filled('kvquant:2?window=16', 20));
    const other = { model: calibrated(tinyModel(), 2), fingerprint: FINGERPRINT };
    expect(() => restoreSnapshot(file, 'file', other)).toThrow(/calibration: .* another calibration/);
    expect(() => restoreSnapshot(file, 'file', { ...owner, model: tinyModel() })).toThrow(/options/);
  });

  it('another version', () => {
    const newer = bytes.slice();
    newer[8] = SNAPSHOT_VERSION + 1;
    expect(refusal(newer)).toMatchObject({ place: 'version' });
  });

  it('another kind of file', () => {
    expect(refusal(new Uint8Array(100))).toMatchObject({ place: 'magic' });
    expect(refusal(new Uint8Array(3))).toMatchObject({ place: 'header' });
    expect(refusal(new Uint8Array(0))).toMatchObject({ place: 'header' });
  });

  it('a cut at every length', () => {
    for (let length = 0; length < bytes.length; length++) refusal(bytes.subarray(0, length));
    refusal(Uint8Array.of(...bytes, 0));
  });

  it('values that are not finite, numbers that do not fit, sections that lie', async () => {
    const parts = split(bytes);
    const json = JSON.parse(new TextDecoder().decode(parts[0].body));
    const edited = (change: object) => {
      const meta = { ...parts[0], body: new TextEncoder().encode(JSON.stringify({ ...json, ...change })) };
      return assemble([meta, ...parts.slice(1)]);
    };
    expectSame(assemble(parts), bytes);
    expect(refusal(edited({ length: 2 ** 40 }))).toMatchObject({ place: 'length' });
    expect(refusal(edited({ length: 300 })).place).toMatch(/TOKS/);
    expect(refusal(edited({ length: -1 })).place).toMatch(/length/);
    expect(refusal(edited({ pending: 2 ** 50 })).place).toMatch(/TOKS/);
    expect(refusal(edited({ generated: 38 })).place).toMatch(/generated/);
    expect(refusal(edited({ calibration: 1 }))).toMatchObject({ place: 'calibration' });
    expect(refusal(edited({ layers: 3 }))).toMatchObject({ place: 'layers' });
    expect(refusal(edited({ model: 'mine' })).place).toMatch(/model/);
    for (const [key, value] of Object.entries({
      bits: 5,
      groupSize: 0,
      residualWindow: 2 ** 40,
      baseLayers: 5,
      range: 'best',
      variant: 'kivi',
      form: 'latent',
      extra: 1,
    })) {
      const error = refusal(edited({ options: { ...json.options, [key]: value } }));
      expect(error.place).toMatch(/option|LAYR|META/);
    }
    expect(refusal(edited({ options: null })).place).toMatch(/options/);
    expect(refusal(edited({ options: {} })).place).toMatch(/options/);
    expect(
      refusal(
        assemble([parts[0], { ...parts[1], body: new Uint8Array(37 * 4).fill(255) }, ...parts.slice(2)]),
      ).reason,
    ).toMatch(/vocabulary/);
    const infinite = parts[3].body.slice();
    new DataView(infinite.buffer).setUint16(infinite.length - 2, 0x7c00, true);
    expect(
      refusal(assemble([...parts.slice(0, 3), { ...parts[3], body: infinite }, ...parts.slice(4)])).reason,
    ).toMatch(/window, x: number \d+ is not finite/);
    expect(refusal(assemble([...parts, parts[5]])).reason).toMatch(/expected, found "LAYR 3"/);
    expect(refusal(assemble(parts.slice(0, 5))).place).toBe('layers');
  });
});

/** Files of version 1 from before there were sinks and calibrated caches, and the logits of three tokens more. */
const EARLIER: { file: string; model: 'mha' | 'gqa'; cache: string; logits: number[] }[] = JSON.parse(
  readFileSync(new URL('../../fixtures/snapshots/index.json', import.meta.url), 'utf8'),
);

describe('files of earlier versions', () => {
  it.each(EARLIER)('go on as they did: $cache', async ({ file, model: name, logits }) => {
    const bytes = readFileSync(new URL(`../../fixtures/snapshots/${file}`, import.meta.url));
    const of = name === 'mha' ? model : gqa;
    const { cache } = restoreSnapshot(bytes, file, { model: of, fingerprint: FINGERPRINT });
    const { data } = await of.forward(randomTokens(3, 7), cache);
    for (const [i, value] of logits.entries()) {
      expect(data[data.length - logits.length + i]).toBeCloseTo(value, 4);
    }
  });
});

const DAMAGED = [
  'xquant-cl:2?window=16',
  'kivi:2?group=16&window=16',
  'kvquant:4?window=16&outliers=10%&sink=5',
];

describe('from one backend to the other', () => {
  it.each(SHARED)(
    'the same bytes, and logits within the bound of the engine: %s',
    async (spec, reference) => {
      const engine = engineFor(reference);
      for (const [from, to] of [
        [reference, engine],
        [engine, reference],
      ]) {
        const bytes = written(await filled(spec, 37, from));
        const [stayed, moved] = [from, to].map((each) =>
          restoreSnapshot(bytes, 'file', { model: each, fingerprint: FINGERPRINT }),
        );
        expect(moved.cache.backend).toBe(to.backend);
        expectSame(writeSnapshot({ ...moved, fingerprint: FINGERPRINT }), bytes);

        const next = randomTokens(5, 3);
        const expected = await from.forward(next, stayed.cache);
        const actual = await to.forward(next, moved.cache);
        const largest = Math.max(...expected.data.map(Math.abs));
        for (const [i, value] of actual.data.entries()) {
          expect(Math.abs(value - expected.data[i])).toBeLessThan(1e-3 * largest);
        }
      }
    },
  );
});

describe.each(DAMAGED)('damage: %s', async (spec) => {
  const sequence = await filled(spec, 37);
  const bytes = written(sequence);

  it('1,000 files damaged at random', () => {
    const sections = split(bytes);
    const at = fc.nat(bytes.length - 1);
    type Change = (file: Uint8Array) => Uint8Array;
    const flip = fc.tuple(at, fc.nat(7)).map(
      ([byte, bit]): Change =>
        (file) => {
          const result = file.slice();
          result[byte % result.length] ^= 1 << bit;
          return result;
        },
    );
    const cut = at.map(
      (length): Change =>
        (file) =>
          file.slice(0, length % (file.length + 1)),
    );
    const overwrite = fc.tuple(at, fc.uint8Array({ minLength: 1, maxLength: 64 })).map(
      ([start, noise]): Change =>
        (file) => {
          const result = file.slice();
          result.set(noise.subarray(0, Math.max(0, result.length - start)), Math.min(start, result.length));
          return result;
        },
    );
    const drop = fc.tuple(at, fc.integer({ min: 1, max: 200 })).map(
      ([start, count]): Change =>
        (file) =>
          Uint8Array.of(...file.subarray(0, start), ...file.subarray(start + count)),
    );
    const section = fc.nat(sections.length - 1);
    const swap = fc.tuple(section, section).map(
      ([i, j]): Change =>
        () => {
          const order = [...sections];
          [order[i], order[j]] = [order[j], order[i]];
          return assemble(order, false);
        },
    );
    const repeat = section.map(
      (i): Change =>
        () =>
          assemble([...sections, sections[i]], false),
    );
    const damage = fc.oneof(
      fc.array(flip, { minLength: 1, maxLength: 4 }),
      fc.array(cut, { minLength: 1, maxLength: 1 }),
      fc.array(overwrite, { minLength: 1, maxLength: 3 }),
      fc.array(drop, { minLength: 1, maxLength: 1 }),
      fc.array(swap, { minLength: 1, maxLength: 1 }),
      fc.array(repeat, { minLength: 1, maxLength: 1 }),
      fc.tuple(swap, flip),
    );
    const counts = { refused: 0, equal: 0 };
    fc.assert(
      fc.property(damage, (changes) => {
        const damaged = changes.reduce((file: Uint8Array, change: Change) => change(file), bytes);
        try {
          const restored = restoreSnapshot(damaged, 'file', owner);
          expect(restored.tokens).toEqual(sequence.tokens);
          expectSame(states(restored.cache), states(sequence.cache));
          counts.equal++;
        } catch (error) {
          if (!(error instanceof FormatError)) throw error;
          counts.refused++;
        }
      }),
      { numRuns: 1000 },
    );
    console.log(`damaged snapshots, ${spec}: ${counts.refused} refused, ${counts.equal} equal`);
    expect(counts.refused + counts.equal).toBe(1000);
    expect(counts.refused).toBeGreaterThan(900);
  });

  it('damage that a forger has signed: refused, or a cache, but never a crash', () => {
    const sections = split(bytes);
    fc.assert(
      fc.property(
        fc.nat(sections.length - 1),
        fc.nat(),
        fc.uint8Array({ minLength: 1, maxLength: 8 }),
        (i, at, noise) => {
          const body = sections[i].body.slice();
          body.set(noise.subarray(0, body.length), at % Math.max(1, body.length - noise.length));
          const forged = assemble(sections.map((each, index) => (index === i ? { ...each, body } : each)));
          let restored: ReturnType<typeof restoreSnapshot>;
          try {
            restored = restoreSnapshot(forged, 'file', owner);
          } catch (error) {
            expect(error).toBeInstanceOf(XQuantError);
            return;
          }
          for (const layer of restored.cache.layers) expect(layer.keysAndValues().keys.rows).toBe(37);
        },
      ),
      { numRuns: 500 },
    );
  });
});

describe('a snapshot on disk', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'xquant-snapshot-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  const sequence = await filled('xquant:2?window=16', 20);
  const content = { cache: sequence.cache, tokens: sequence.tokens, fingerprint: FINGERPRINT };

  it('is written whole, in place of what was there', async () => {
    const path = join(folder, 'a.xqs');
    writeFileSync(path, 'something else');
    await saveSnapshot(path, content);
    expectSame(new Uint8Array(readFileSync(path)), writeSnapshot(content));
    expect(readdirSync(folder)).toEqual(['a.xqs']);
    const restored = await loadSnapshot(path, owner);
    expect(restored?.tokens).toEqual(sequence.tokens);
  });

  it('leaves nothing behind where it cannot be written', async () => {
    await expect(saveSnapshot(join(folder, 'no/such/folder.xqs'), content)).rejects.toThrow(LoadError);
    await expect(saveSnapshot(folder, content)).rejects.toThrow(LoadError); // a folder cannot be replaced
    expect(readdirSync(folder)).toEqual(['a.xqs']);
  });

  it('may be absent, but not unreadable', async () => {
    expect(await loadSnapshot(join(folder, 'absent.xqs'), owner)).toBeUndefined();
    await expect(loadSnapshot(folder, owner)).rejects.toThrow(LoadError);
  });
});

interface RawSection {
  tag: string;
  index: number;
  body: Uint8Array;
  /** As found in the file. */
  raw: Uint8Array;
}

function split(file: Uint8Array): RawSection[] {
  const view = new DataView(file.buffer, file.byteOffset);
  const sections: RawSection[] = [];
  for (let at = 32; at < file.length; ) {
    const length = Number(view.getBigUint64(at + 8, true));
    const end = at + 16 + length + 4;
    sections.push({
      tag: String.fromCharCode(...file.subarray(at, at + 4)),
      index: view.getUint32(at + 4, true),
      body: file.slice(at + 16, at + 16 + length),
      raw: file.slice(at, end),
    });
    at = end;
  }
  return sections;
}

/** Puts sections together again; header, and unless told otherwise also their CRCs, are made to fit. */
function assemble(sections: readonly RawSection[], seal = true): Uint8Array {
  const parts = sections.map(({ tag, index, body, raw }) => {
    if (!seal) return raw;
    const part = new Uint8Array(body.length + 20);
    const view = new DataView(part.buffer);
    new TextEncoder().encodeInto(tag, part);
    view.setUint32(4, index, true);
    view.setBigUint64(8, BigInt(body.length), true);
    part.set(body, 16);
    view.setUint32(body.length + 16, zlibCrc32(part.subarray(0, body.length + 16)), true);
    return part;
  });
  const size = parts.reduce((sum, part) => sum + part.length, 32);
  const file = new Uint8Array(size);
  const view = new DataView(file.buffer);
  file.set(MAGIC);
  view.setUint32(8, 1, true);
  view.setUint32(12, sections.length, true);
  view.setBigUint64(16, BigInt(size), true);
  view.setUint32(28, zlibCrc32(file.subarray(0, 28)), true);
  let at = 32;
  for (const part of parts) {
    file.set(part, at);
    at += part.length;
  }
  return file;
}
