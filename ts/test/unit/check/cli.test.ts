import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { strToU8, zipSync } from 'fflate';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { parseCase, writeCase } from '../../../src/check/case/golden.js';
import { numbersOf, type Tensor, tensorOf } from '../../../src/check/case/tensor.js';
import { makeCase } from '../../../src/check/make-case.js';
import { NO_MODELS } from '../../../src/check/mistakes/mistake.js';
import { OPERATIONS } from '../../../src/check/operations/index.js';
import { writeSafetensors } from '../../../src/io/safetensors.js';
import { runInProcess } from '../../helpers/run-cli.js';

let root = '';
let folder = '';
let count = 0;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'xquant-check-'));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));
beforeEach(() => {
  folder = join(root, String(count++));
  mkdirSync(folder);
});

function put(name: string, content: string | Uint8Array): string {
  writeFileSync(join(folder, name), content);
  return join(folder, name);
}

async function dump(change: (tensors: Map<string, Tensor>) => void = () => undefined): Promise<Uint8Array> {
  const made = await makeCase({ operation: 'quantize', rows: 4, columns: 128, seed: 1 }, NO_MODELS);
  const tensors = new Map(made.tensors);
  change(tensors);
  return writeCase({ ...made, tensors });
}

function corrupt(tensors: Map<string, Tensor>): void {
  const codes = Uint8Array.from(numbersOf(tensors.get('codes') as Tensor));
  codes[130] = (codes[130] + 3) % 16;
  tensors.set('codes', tensorOf(codes, [4, 128]));
}

const check = (...args: string[]) => runInProcess(['check', ...args]);

describe('xquant check', () => {
  it('says that a right dump is right', async () => {
    const { code, stdout, stderr } = await check(put('a.safetensors', await dump()));
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toMatch(/^PASS/);
    expect(stdout).toMatch(/1 case, 1 pass, 0 fail/);
  });

  it('exits with 1 on a mismatch, and names token, channel and group', async () => {
    put('a.safetensors', await dump());
    put('b.safetensors', await dump(corrupt));
    const { code, stdout, stderr } = await check(folder);
    expect(code).toBe(1);
    expect(stderr).toBe('xquant: 1 of 2 cases do not match\n');
    expect(stdout).toMatch(/at token 1, channel 2, group 1: expected \d+, found \d+/);
    expect(stdout).toContain('no known mistake explains this');
  });

  it('names the mistake', async () => {
    const path = put(
      'a.safetensors',
      await dump((tensors) => {
        const { bytes } = tensors.get('packed') as Tensor;
        tensors.set(
          'packed',
          tensorOf(
            bytes.map((byte) => (byte >> 4) | (byte << 4)),
            [bytes.length],
          ),
        );
      }),
    );
    const { stdout } = await check(path);
    expect(stdout).toContain('nibble-order: the first code is in the high bits of its byte');
    expect((await check(path, '--no-diagnose')).stdout).not.toContain('nibble-order');
  });

  it('reports as JSON and JUnit', async () => {
    put('a.safetensors', await dump());
    put('b.safetensors', await dump(corrupt));
    put('c <&>.safetensors', Uint8Array.of(1, 2, 3));
    const junit = join(folder, 'report.xml');
    const { stdout, code } = await check(folder, '--json', '--junit', junit);
    expect(code).toBe(1);
    const report = JSON.parse(stdout);
    expect(report.summary).toEqual({ cases: 3, pass: 1, fail: 1, inconclusive: 0, error: 1 });
    expect(report.cases[1].tensors.find(({ name }: { name: string }) => name === 'codes')).toMatchObject({
      verdict: 'fail',
      failing: 1,
      mismatches: [{ place: { token: 1, channel: 2, group: 1 } }],
    });
    const xml = readFileSync(junit, 'utf8');
    expect(xml.match(/<testsuite /g)).toHaveLength(3);
    expect(xml).toContain('<failure message="1 of 512 elements">');
    expect(xml).toContain('c &lt;&amp;&gt;.safetensors');
  });

  it('reads a folder of arrays', async () => {
    const header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }\n";
    const npy = (...values: number[]) =>
      Buffer.concat([
        Buffer.from([0x93, ...Buffer.from('NUMPY'), 1, 0, header.length, 0]),
        Buffer.from(header),
        Buffer.from(Float32Array.from(values).buffer),
      ]);
    put('case.json', '{"operation": "rotate"}');
    put('x.npy', npy(1, 2));
    put(
      'rotated.npy',
      npy(Math.fround(3 * Math.fround(Math.SQRT1_2)), Math.fround(-Math.fround(Math.SQRT1_2))),
    );
    expect(await check(folder)).toMatchObject({ code: 0, stderr: '' });
    put('rotated.npy', npy(3, -1));
    expect((await check(folder)).stdout).toContain('hadamard-unnormalized');
  });

  it('lists every operation with its tensors', async () => {
    const { stdout, code } = await check('--list');
    expect(code).toBe(0);
    for (const { name, tensors } of OPERATIONS) {
      expect(stdout).toContain(`${name}: `);
      for (const tensor of tensors) expect(stdout).toContain(tensor.name);
    }
  });

  it('takes a tolerance for floats', async () => {
    const path = put(
      'a.safetensors',
      await dump((tensors) => {
        const values = Float32Array.from(numbersOf(tensors.get('x_hat') as Tensor), (value) => value + 0.001);
        tensors.set('x_hat', tensorOf(values, [4, 128]));
      }),
    );
    expect((await check(path)).code).toBe(1);
    expect((await check(path, '--tolerance', '0.01')).code).toBe(0);
    expect((await check(path, '--tolerance', '0,1e-9')).code).toBe(1);
  });

  it.each([
    [['check']],
    [['check', 'x', '--tolerance', 'much']],
    [['check', 'x', '--tolerance', '-1']],
    [['check', 'x', '--tolerance', '1,2,3']],
    [['check', 'x', '--nonsense']],
  ])('exits with 2 on a wrong command: %j', async (args) => {
    expect((await runInProcess(args)).code).toBe(2);
  });
});

describe('dumps that cannot be judged', () => {
  const metadata = { operation: 'quantize', options: '{"bits": 4}', version: '1' };
  const x = (value: number) => {
    const values = new Float32Array(512).fill(1);
    values[130] = value;
    return { x: tensorOf(values, [4, 128]) };
  };
  const codes = { codes: tensorOf(new Uint8Array(512), [4, 128]) };
  const header = (json: unknown, data = 0) => {
    const text = Buffer.from(typeof json === 'string' ? json : JSON.stringify(json));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(text.length));
    return Buffer.concat([length, text, Buffer.alloc(data)]);
  };
  const tensor = (shape: number[], offsets: number[]) => ({ dtype: 'F32', shape, data_offsets: offsets });
  const hostile: [string, Uint8Array, RegExp][] = [
    [
      'NaN',
      writeSafetensors({ ...x(Number.NaN), ...codes }, metadata),
      /NaN at tensor x, token 1, channel 2/,
    ],
    [
      'infinity',
      writeSafetensors({ ...x(Number.POSITIVE_INFINITY), ...codes }, metadata),
      /token 1, channel 2/,
    ],
    ['f16 overflow', writeSafetensors({ ...x(1e6), ...codes }, metadata), /does not fit in f16/],
    ['no outputs', writeSafetensors(x(1), metadata), /none of the outputs/],
    ['no inputs', writeSafetensors(codes, metadata), /needs this tensor/],
    ['no operation', writeSafetensors(codes), /must name the "operation"/],
    ['unknown operation', writeSafetensors(codes, { operation: 'quantise' }), /one of quantize, pack/],
    [
      'unknown option',
      writeSafetensors({ ...x(1), ...codes }, { ...metadata, options: '{"bits":4,"group":3}' }),
      /"group"/,
    ],
    [
      'wrong bits',
      writeSafetensors({ ...x(1), ...codes }, { ...metadata, options: '{"bits":5}' }),
      /one of 1, 2, 3, 4, 8/,
    ],
    ['options are no JSON', writeSafetensors(codes, { ...metadata, options: '{' }), /not JSON/],
    ['another version', writeSafetensors(codes, { ...metadata, version: '2' }), /version 2 is not 1/],
    ['empty file', new Uint8Array(0), /too short/],
    [
      'header longer than the file',
      Buffer.from([255, 255, 255, 255, 255, 255, 255, 127, 1]),
      /claims a header/,
    ],
    ['header is no JSON', header('{"a"'), /not JSON/],
    ['overlap', header({ a: tensor([2], [0, 8]), b: tensor([2], [4, 12]) }, 12), /overlaps/],
    ['gap', header({ a: tensor([1], [4, 8]) }, 8), /gap/],
    ['outside', header({ a: tensor([1000], [0, 4000]) }, 8), /not inside/],
    ['2^53 elements', header({ a: tensor([2 ** 53 - 1, 2 ** 53 - 1], [0, 8]) }, 8), /offsets hold 8/],
    ['negative size', header({ a: tensor([-1], [0, 4]) }, 4), /list of sizes/],
  ];

  it.each(hostile)('%s', async (_, bytes, message) => {
    const { code, stdout } = await check(put('a.safetensors', bytes));
    expect(stdout).toMatch(/^ERROR/);
    expect(stdout).toMatch(message);
    expect(code).toBe(2);
  });

  it('a path where nothing is', async () => {
    expect(await check(join(folder, 'nothing'))).toMatchObject({ code: 2 });
    expect(await check(folder)).toMatchObject({ code: 2 });
  });

  it('loses nothing of the other cases', async () => {
    const good = put('a.safetensors', await dump());
    const junit = join(folder, 'report.xml');
    const { code, stdout } = await check(join(folder, 'nothing'), good, '--json', '--junit', junit);
    expect(code).toBe(2);
    expect(JSON.parse(stdout).summary).toMatchObject({ cases: 2, pass: 1, error: 1 });
    expect(readFileSync(junit, 'utf8')).toContain(good);
  });

  it('a file larger than any case, before it is read', async () => {
    const path = join(folder, 'sparse.safetensors');
    const file = openSync(path, 'w');
    ftruncateSync(file, 2 ** 30);
    closeSync(file);
    const { code, stdout } = await check(path);
    expect(stdout).toMatch(/1073741824 bytes are more than/);
    expect(code).toBe(2);
  });
});

describe('what could pass for green', () => {
  const renamed = (from: string, to: string) => (tensors: Map<string, Tensor>) => {
    tensors.set(to, tensors.get(from) as Tensor);
    tensors.delete(from);
  };

  it('a misspelt output is an error that says what is meant', async () => {
    const { code, stdout } = await check(put('a.safetensors', await dump(renamed('scales', 'scale'))));
    expect(stdout).toMatch(/^ERROR/);
    expect(stdout).toContain('did you mean "scales"?');
    expect(code).toBe(2);
  });

  it('outputs that are not there are listed, and can be required', async () => {
    const path = put('a.safetensors', await dump((tensors) => void tensors.delete('scales')));
    const plain = await check(path);
    expect(plain.code).toBe(0);
    expect(plain.stdout).toContain('not compared: scales');
    for (const option of [['--require', 'packed,scales'], ['--strict']]) {
      const { code, stdout } = await check(path, ...option);
      expect(stdout).toMatch(/^ERROR[\s\S]*scales/);
      expect(code).toBe(2);
    }
    expect((await check(path, '--require', 'packed')).code).toBe(0);
    expect((await check(path, '--require', 'nonsense')).code).toBe(2);
  });

  it('a wrong shape, a wrong type and an empty tensor are said', async () => {
    const cases: [Tensor, string][] = [
      [tensorOf(new Uint8Array(511), [511]), 'wrong shape'],
      [tensorOf(new Float32Array(512), [4, 128]), 'wrong type'],
      [tensorOf(new Uint8Array(0), [0, 128]), 'wrong shape'],
    ];
    for (const [i, [tensor, words]] of cases.entries()) {
      const bytes = await dump((tensors) => void tensors.set('codes', tensor));
      const { code, stdout } = await check(put(`${i}.safetensors`, bytes));
      expect(stdout).toContain(words);
      expect(stdout).not.toMatch(/codes .*equal/);
      expect(code).toBe(1);
    }
  });

  it('flattened shapes are said', async () => {
    const bytes = await dump((tensors) => {
      tensors.set('codes', { ...(tensors.get('codes') as Tensor), shape: [512] });
    });
    const { code, stdout } = await check(put('a.safetensors', bytes));
    expect(stdout).toContain('the shape is [512], read as [4, 128] in the same order');
    expect(code).toBe(0);
  });
});

describe('causes', () => {
  it('patterns come before them', async () => {
    const bytes = await dump((tensors) => {
      const codes = Uint8Array.from(numbersOf(tensors.get('codes') as Tensor), (code, i) =>
        i >= 256 ? (code + 5) % 16 : code,
      );
      tensors.set('codes', tensorOf(codes, [4, 128]));
    });
    const { stdout } = await check(put('a.safetensors', bytes));
    expect(stdout).toContain('pattern: tokens from 2 up: 256 of 256 differ there (100 %), none elsewhere');
  });

  it('are not spoken of if nobody looked for them', async () => {
    const { stdout } = await check(put('a.safetensors', await dump(corrupt)), '--no-diagnose');
    expect(stdout).not.toMatch(/mistake|cause/);
  });

  it('a search without time says that it was stopped', async () => {
    const { stdout } = await check(put('a.safetensors', await dump(corrupt)), '--diagnose-for', '1e-9');
    expect(stdout).toContain('was stopped early');
    expect(stdout).not.toContain('no known mistake');
  });
});

describe('NumPy archives', () => {
  const npy = (name: string, { dtype, shape, bytes }: Tensor) => {
    const descr = { F32: '<f4', F16: '<f2', U8: '|u1' }[dtype as 'F32' | 'F16' | 'U8'];
    const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape.join(', ')},), }`;
    const header = Buffer.from(`${text.padEnd(117)}\n`);
    const start = Buffer.from([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, header.length, 0]);
    return [`${name}.npy`, new Uint8Array(Buffer.concat([start, header, bytes]))] as const;
  };
  const description = strToU8(JSON.stringify({ operation: 'quantize', options: { bits: 4 } }));

  it.each([true, false])('are read, with case.json inside: %s', async (inside) => {
    const { tensors, options } = parseCase(await dump(), 'a');
    const text = strToU8(JSON.stringify({ operation: 'quantize', options }));
    const members = Object.fromEntries([...tensors].map(([name, tensor]) => npy(name, tensor)));
    const path = put('a.npz', zipSync(inside ? { ...members, 'case.json': text } : members));
    if (!inside) put('case.json', text);
    expect(await check(path)).toMatchObject({ code: 0 });
    expect(await check(folder)).toMatchObject({ code: 0 });
  });

  it.each<[string, Uint8Array, RegExp]>([
    ['no archive', strToU8('PK nonsense'), /not a zip archive/],
    ['no description', zipSync({ 'x.npy': strToU8('x') }), /case\.json/],
    ['no array', zipSync({ 'case.json': description, 'x.npy': strToU8('x') }), /not an npy file/],
  ])('%s', async (_, bytes, message) => {
    const { code, stdout } = await check(put('a.npz', bytes));
    expect(stdout).toMatch(message);
    expect(code).toBe(2);
  });
});

describe('xquant vectors', () => {
  it.each([
    ['quantize', ['--bits', '2', '--range', 'mse', '--rotation', 'hadamard', '--grouping', 'perChannel']],
    ['rope', ['--layout', 'interleaved', '--head-dim', '16', '--first-position', '7', '--theta', '500000']],
    ['rematerialize', ['--kv-dim', '32', '--bits', '3', '--group-size', '32']],
    ['cl-encode', ['--bits', '2', '--base-bits', '4', '--form', 'latent', '--rank', '16']],
    ['attend', ['--head-dim', '16', '--heads', '8', '--kv-dim', '64', '--option', 'position=99']],
    ['attend', ['--head-dim', '16', '--heads', '8', '--kv-heads', '2']],
    ['attend', ['--kv-heads', '4']],
    ['layer', ['--head-dim', '16', '--kv-heads', '2', '--cache', 'kivi:4']],
  ])('%s, which check accepts', async (op, options) => {
    const made = await runInProcess([
      'vectors',
      '--op',
      op,
      '--shape',
      '8x64',
      '--seed',
      '5',
      '--out',
      folder,
      ...options,
    ]);
    expect(made).toMatchObject({ code: 0, stderr: '' });
    const [path] = made.stdout.trim().split('\n');
    expect(parseCase(readFileSync(path), path).operation).toBe(op);
    expect(await check(path)).toMatchObject({ code: 0 });
  });

  it('writes several cases', async () => {
    await runInProcess([
      'vectors',
      '--op',
      'rotate',
      '--shape',
      '2x32',
      '--cases',
      '3',
      '--out',
      join(folder, 'new'),
    ]);
    expect(readdirSync(join(folder, 'new'))).toHaveLength(3);
  });

  it.each([
    [['--op', 'rotate', '--shape', '2x', '--out', 'x']],
    [['--op', 'nonsense', '--shape', '2x32', '--out', 'x']],
    [['--op', 'decode', '--shape', '2x32', '--out', 'x']],
    [['--shape', '2x32', '--out', 'x']],
    [['--op', 'quantize', '--shape', '2x32', '--bits', '5', '--out', '/tmp']],
    [['--op', 'attend', '--shape', '2x32', '--kv-heads', '3', '--out', '/tmp']],
    [['--op', 'attend', '--shape', '2x32', '--kv-heads', '2', '--heads', '3', '--out', '/tmp']],
  ])('refuses %j', async (args) => {
    expect((await runInProcess(['vectors', ...args])).code).toBe(2);
  });
});
