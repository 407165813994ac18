/**
 * Broken inputs: seeds with bytes, text or JSON changed in the ways that break readers.
 *
 * @module
 */

import fc from 'fast-check';
import { readSections, SectionWriter } from '../../src/io/snapshot-sections.js';
import { type Seed, seedsOf } from './corpus.js';
import { type Family, packFolder, unpackFolder } from './doors.js';

/** Numbers at which readers break: bounds of types, and lengths just over what is there. */
const NUMBERS = [0, 1, 2, 3, 7, 31, 127, 128, 255, 256, 32767, 65535, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1];

/** Values that no reader expects in JSON. */
const VALUES: readonly unknown[] = [
  null,
  true,
  -1,
  0,
  0.5,
  1e308,
  2 ** 53,
  '',
  '..',
  '/etc/passwd',
  'https://example.org/x.safetensors',
  '\u001b[2J',
  'x'.repeat(3000),
  '(a+)+$',
  '__proto__',
  [],
  [[]],
  {},
  { length: 3 },
  { toString: {} },
  { Regex: '(a|a)*b' },
  { type: 'Sequence' },
  { __proto__: null, constructor: 1 },
  nested(200),
  nested(20_000),
];

/** Pieces of templates and cache arguments. */
const PIECES: Readonly<Partial<Record<Family, readonly string[]>>> = {
  template: [
    '{{ range(1e9) }}',
    '{% for i in range(99999) %}',
    '{% endfor %}',
    '{{ x.y.z }}',
    '{{ messages[99].content }}',
    '{{ [] | join }}',
    "{{ 'a' * 1000000000 }}",
    '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}',
    '{{ messages | tojson(indent=99999999) }}',
    '{{ "\\x1b[2J" }}',
    '{{ raise_exception("\u001b[31mno") }}',
    '{{ (1/0) | int }}',
    '{{ none.x }}',
    '{{ ',
    '{% ',
    '(((((((((',
    '~ ns.s ~ ns.s',
    "| replace('', 'aaaa')",
    '| sort | list | tojson',
    '.__class__.constructor',
  ],
  cache: [
    'kv',
    'kivi',
    'kvquant',
    'xquant',
    'xquant-cl',
    ':2',
    ':9',
    '@tuned',
    '@paper',
    '?',
    '&',
    '=',
    '?window=',
    '?group=',
    '999999999',
    '0',
    '-1',
    '1e9',
    'NaN',
    'form=latent',
    'form=x',
    'baseStore=latent',
    'firstLayers=99',
    'grouping=perChannel',
    'window=32',
    'group=7',
    'sink=4',
    'outliers=1%',
    'accumulator=recompute',
    '\u001b[2J',
    '__proto__=1',
    'constructor=2',
    'rotation=hadamard',
    'outlier=f16',
    'deltaSpace=stream',
  ],
};

/** Arrays in arrays. */
function nested(depth: number): unknown {
  let value: unknown = [];
  for (let i = 0; i < depth; i++) value = [value];
  return value;
}

/** One broken input and how it came to be. */
export interface Input {
  readonly seed: string;
  readonly bytes: Uint8Array;
}

type Change = (bytes: Uint8Array) => Uint8Array;

/** Inputs of a family. */
export function inputs(family: Family, seeds: readonly Seed[] = seedsOf(family)): fc.Arbitrary<Input> {
  const changes = changesOf(family);
  return fc
    .tuple(fc.constantFrom(...seeds), fc.array(changes, { minLength: 0, maxLength: 4 }))
    .map(([seed, list]) => ({
      seed: seed.name,
      bytes: list.reduce((bytes, change) => change(bytes), seed.bytes),
    }));
}

function changesOf(family: Family): fc.Arbitrary<Change> {
  switch (family) {
    case 'tokenizer':
      return fc.oneof({ weight: 4, arbitrary: jsonChange() }, byteChange());
    case 'folder':
      return folderChange();
    case 'safetensors':
    case 'factors':
    case 'calibration':
    case 'transforms':
      return fc.oneof(byteChange(), { weight: 3, arbitrary: headerChange() });
    case 'template':
    case 'cache':
      return fc.oneof({ weight: 3, arbitrary: pieceChange(PIECES[family]!) }, byteChange());
    case 'snapshot':
      return fc.oneof(byteChange(), { weight: 3, arbitrary: sectionChange() });
    default:
      return byteChange();
  }
}

/** Changes a section of a snapshot, and writes the file with the right CRCs and lengths. */
function sectionChange(): fc.Arbitrary<Change> {
  return fc.tuple(fc.nat(4), jsonChange(), byteChange()).map(
    ([which, json, raw]): Change =>
      (bytes) => {
        let sections: ReturnType<typeof readSections>;
        try {
          sections = readSections(bytes, 'seed');
        } catch {
          return bytes; // damaged by a change before
        }
        const writer = new SectionWriter();
        for (const [i, { body }] of sections.entries()) {
          const [tag, index] = i < 2 ? [['META', 'TOKS'][i], 0] : ['LAYR', i - 2];
          // what a snapshot says of itself is changed most often
          const changed = i === Math.max(0, which - 2) % sections.length;
          writer.add(tag, index, [!changed ? body : i === 0 ? json(body) : raw(body)]);
        }
        return writer.finish();
      },
  );
}

/** Places near the start are likelier: headers are there. */
const place = fc.oneof(
  fc.double({ min: 0, max: 0.05, noNaN: true }),
  fc.double({ min: 0, max: 1, noNaN: true }),
);

/** Writes a number, cuts, repeats or overwrites. */
function byteChange(): fc.Arbitrary<Change> {
  const write = fc.tuple(place, fc.constantFrom(1, 2, 4, 8), fc.constantFrom(...NUMBERS)).map(
    ([at, width, value]): Change =>
      (bytes) => {
        const copy = Uint8Array.from(bytes);
        const start = Math.floor(at * copy.length);
        for (let i = 0; i < width && start + i < copy.length; i++)
          copy[start + i] = Math.floor(value / 256 ** i);
        return copy;
      },
  );
  const cut = fc.tuple(place, place).map(
    ([from, length]): Change =>
      (bytes) => {
        const start = Math.floor(from * bytes.length);
        const end = start + Math.ceil(length * 0.1 * bytes.length);
        const rest = bytes.subarray(end);
        const copy = new Uint8Array(start + rest.length);
        copy.set(bytes.subarray(0, start));
        copy.set(rest, start);
        return copy;
      },
  );
  const end = place.map(
    (at): Change =>
      (bytes) =>
        bytes.slice(0, Math.floor(at * bytes.length)),
  );
  const noise = fc.tuple(place, fc.uint8Array({ minLength: 1, maxLength: 16 })).map(
    ([at, part]): Change =>
      (bytes) => {
        const copy = Uint8Array.from(bytes);
        copy.set(part.subarray(0, copy.length), Math.floor(at * Math.max(0, copy.length - part.length)));
        return copy;
      },
  );
  return fc.oneof({ weight: 3, arbitrary: write }, cut, end, { weight: 2, arbitrary: noise });
}

/** Puts a piece of text in or over another. */
function pieceChange(pieces: readonly string[]): fc.Arbitrary<Change> {
  return fc.tuple(place, fc.constantFrom(...pieces), fc.boolean()).map(
    ([at, piece, over]): Change =>
      (bytes) => {
        const text = new TextDecoder().decode(bytes);
        const start = Math.floor(at * (text.length + 1));
        return new TextEncoder().encode(
          text.slice(0, start) + piece + text.slice(over ? start + piece.length : start),
        );
      },
  );
}

/** Replaces, drops, renames or adds a value somewhere in JSON. */
function jsonChange(): fc.Arbitrary<Change> {
  return fc
    .tuple(
      fc.array(fc.nat(), { minLength: 1, maxLength: 8 }),
      fc.constantFrom(...VALUES),
      fc.constantFrom('replace', 'replace', 'drop', 'rename', 'copy'),
    )
    .map(
      ([path, value, how]): Change =>
        (bytes) => {
          let json: unknown;
          try {
            json = JSON.parse(new TextDecoder().decode(bytes));
          } catch {
            return bytes;
          }
          changeJson(json, path, value, how);
          return new TextEncoder().encode(stringify(json));
        },
    );
}

/** `JSON.stringify`, or a number where the value is too deep for it. */
function stringify(json: unknown): string {
  try {
    return JSON.stringify(json) ?? 'null';
  } catch {
    return `${'['.repeat(20_000)}${']'.repeat(20_000)}`;
  }
}

function changeJson(json: unknown, path: readonly number[], value: unknown, how: string): void {
  let at = json;
  for (const [depth, step] of path.entries()) {
    if (typeof at !== 'object' || at === null) return;
    const keys = Object.keys(at);
    if (keys.length === 0) return;
    const key = keys[step % keys.length];
    const parent = at as Record<string, unknown>;
    const next = parent[key];
    const leaf = depth === path.length - 1 || typeof next !== 'object' || next === null;
    if (!leaf) {
      at = next;
      continue;
    }
    if (how === 'drop') delete parent[key];
    else if (how === 'replace') parent[key] = value;
    else if (how === 'copy') parent[key] = parent[keys[(step >> 4) % keys.length]];
    else {
      delete parent[key];
      parent[typeof value === 'string' ? value : '\u001b[31m'] = next;
    }
    return;
  }
}

/** Changes the JSON header of a safetensors file and keeps its length right. */
function headerChange(): fc.Arbitrary<Change> {
  return jsonChange().map(
    (change): Change =>
      (bytes) => {
        if (bytes.length < 8) return bytes;
        const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
        const end = 8 + view.getUint32(0, true);
        if (end > bytes.length) return bytes;
        const header = change(bytes.slice(8, end));
        const whole = new Uint8Array(8 + header.length + bytes.length - end);
        new DataView(whole.buffer).setBigUint64(0, BigInt(header.length), true);
        whole.set(header, 8);
        whole.set(bytes.subarray(end), 8 + header.length);
        return whole;
      },
  );
}

/** Changes one file of a folder in the way that suits it. */
function folderChange(): fc.Arbitrary<Change> {
  return fc.tuple(fc.nat(), jsonChange(), headerChange(), byteChange(), fc.nat(9)).map(
    ([which, json, header, raw, kind]): Change =>
      (bytes) => {
        const files = unpackFolder(bytes);
        const names = [...files.keys()];
        if (names.length === 0) return bytes;
        const name = names[which % names.length];
        const content = files.get(name)!;
        if (kind === 9) files.delete(name);
        else if (kind === 8) files.set(name, raw(content));
        else files.set(name, name.endsWith('.json') ? json(content) : header(content));
        return packFolder(files);
      },
  );
}
