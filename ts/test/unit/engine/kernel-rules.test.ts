/** Rules of the kernels: few parameters, blocks that both sides know, and no kernel that nothing calls. */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { WASM_BUILDS, wasmUrl } from '../../../src/engine/load-wasm.js';
import { readWasmFile } from '../../../src/engine/load-wasm-node.js';
import {
  blockValues,
  floatFields,
  PARAMETER_BLOCKS,
  PARAMETER_BYTES,
  PARAMETERS,
} from '../../../src/engine/parameter-blocks.js';
import * as stages from '../../../src/engine/stages.js';
import { PRODUCT_TYPES } from '../../../src/quant/weight-types.js';

const ROOT = fileURLToPath(new URL('../../../../', import.meta.url));
const MOST_PARAMETERS = 8;

/** Parameters of inlined functions that are constants of the program at every call: they choose what is compiled. */
const CONSTANTS: Readonly<Record<string, readonly string[]>> = {
  multiplyTile: ['form'],
  matmulBlocks: ['kind'],
  matmulFloat: ['kind'],
  rowTimesPanels: ['kind'],
  turnFour: ['f16'],
  packAny: ['wide', 'scaled'],
};

/** Functions that take more, and how many: the symmetric quantizer (as/symmetric.ts), and the product of some columns it needs. */
const LONGER: Readonly<Record<string, number>> = {
  addFourChannels: 9,
  dequantizeSymmetric: 9,
  multiplySymmetric: 13,
  panelTimesRows: 15,
};

/** Kernels whose names the engine puts together. */
const COMPOSED: Readonly<Record<string, readonly string[]>> = {
  '`matmul${type}`': PRODUCT_TYPES.map((type) => `matmul${type}`),
  '`embed${type}`': PRODUCT_TYPES.map((type) => `embed${type}`),
  '`repack${source}`': [...PRODUCT_TYPES, 'IQ4_XS'].map((type) => `repack${type}`),
  "`dequantize${add ? 'Add' : ''}${shape}`": ['', 'Add'].flatMap((add) =>
    ['Rows', 'Columns'].map((shape) => `dequantize${add}${shape}`),
  ),
};

/** Texts of the TypeScript files of a folder and those below it, by path from there. */
function sources(folder: string): Map<string, string> {
  const names = readdirSync(ROOT + folder, { recursive: true, encoding: 'utf8' });
  const files = names.filter((name) => name.endsWith('.ts'));
  return new Map(files.map((name) => [name, readFileSync(`${ROOT}${folder}/${name}`, 'utf8')]));
}

const kernelSources = sources('as');

describe('kernels', () => {
  for (const build of WASM_BUILDS) {
    it(`${build}: every export has at most ${MOST_PARAMETERS} parameters and a caller`, async () => {
      const module = await WebAssembly.compile(await readWasmFile(wasmUrl(build))).catch((error) => {
        if (build.startsWith('relaxed')) return undefined; // this runtime has no relaxed SIMD
        throw error;
      });
      if (!module) return;
      const shared = build.endsWith('-threads');
      const memory = new WebAssembly.Memory(shared ? { initial: 1, maximum: 65536, shared } : { initial: 1 });
      const { exports } = new WebAssembly.Instance(module, { env: { memory } });
      const kernels = Object.entries(exports) as [string, CallableFunction][];
      const long = kernels.filter(([name, kernel]) => kernel.length > (LONGER[name] ?? MOST_PARAMETERS));
      expect(long.map(([name]) => name)).toEqual([]);

      const declarations = ['kernels.ts', 'product-kernels.ts', 'parameter-blocks.ts'];
      const engine = [...sources('ts/src/engine')].filter(([name]) => !declarations.includes(name));
      const text = engine.map(([, source]) => source).join('\n');
      const composed = new Set(
        Object.entries(COMPOSED).flatMap(([call, names]) => (text.includes(call) ? names : [])),
      );
      const called = (name: string): boolean =>
        composed.has(name) || text.includes(`'${name}'`) || text.includes(`.${name}(`);
      expect(kernels.map(([name]) => name).filter((name) => !called(name))).toEqual([]);
    });
  }

  it('are made of functions with few parameters that vary', () => {
    const tooMany: string[] = [];
    for (const [file, source] of kernelSources) {
      for (const [, name, list] of source.matchAll(/function (\w+)\(([^)]*)\)/g)) {
        const parameters = list.split(',').flatMap((entry) => entry.trim().split(':')[0].trim() || []);
        const constants = CONSTANTS[name] ?? [];
        expect(parameters).toEqual(expect.arrayContaining([...constants]));
        const varying = parameters.filter((parameter) => !constants.includes(parameter));
        if (varying.length > (LONGER[name] ?? MOST_PARAMETERS))
          tooMany.push(`${file}: ${name} has ${varying.length}`);
      }
    }
    expect(tooMany).toEqual([]);
  });

  it('cite files that are in the repository', () => {
    const missing: string[] = [];
    for (const [file, source] of kernelSources) {
      for (const [cited] of source.matchAll(/[\w./-]+\.(?:md|ts)\b/g)) {
        const places = ['', 'as/', 'ts/src/'].map((folder) => `${ROOT}${folder}${cited}`);
        if (!places.some((place) => existsSync(place))) missing.push(`${file}: ${cited}`);
      }
    }
    expect(missing).toEqual([]);
  });
});

describe('parameter blocks', () => {
  /** Fields of the classes of as/parameters.ts, those they extend first, as `name: type`. */
  const classes = new Map<string, string[]>();
  const text = kernelSources.get('parameters.ts') as string;
  for (const [, name, base, body] of text.matchAll(/export class (\w+)(?: extends (\w+))? \{([^}]*)\}/g)) {
    const own = Array.from(body.matchAll(/(\w+): (\w+);/g), ([, field, type]) => `${field}: ${type}`);
    classes.set(name, [...(base ? (classes.get(base) as string[]) : []), ...own]);
  }

  for (const [kernel, fields] of Object.entries(PARAMETER_BLOCKS)) {
    it(`${kernel}: the kernel has the same fields in the same order`, () => {
      const all = [...kernelSources.values()].join('\n');
      const type = all.match(new RegExp(`export function ${kernel}\\(p: (\\w+)\\)`))?.[1] as string;
      const declared = classes.get(type) as string[];
      expect(declared.map((field) => field.split(':')[0])).toEqual([...fields]);
      expect(declared.map((field) => field.endsWith('f32'))).toEqual(floatFields(kernel));
      expect(declared.every((field) => /: (usize|i32|f32)$/.test(field))).toBe(true);
    });

    it(`${kernel}: fits into a recorded call and into the memory of a thread`, () => {
      expect(fields.length).toBeLessThanOrEqual(stages.CALL_SLOTS - 2);
      expect(fields.length * 4).toBeLessThanOrEqual(PARAMETER_BYTES);
    });
  }

  it('are written in the order of the table, whatever the order of a call', () => {
    const block = {
      target: 9,
      scratch: 8,
      groupSize: 7,
      bits: 6,
      columns: 5,
      rows: 4,
      mins: 3,
      scales: 2,
      packed: 1,
    };
    expect(blockValues('dequantizeRows', block)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });
});

describe('the runner', () => {
  // It is given to threads as text, so its constants are written down a second time.
  it('has the constants of the modules', () => {
    const module: Readonly<Record<string, unknown>> = { ...stages, PARAMETERS, PARAMETER_BYTES };
    for (const runner of [stages.createRunner, stages.runThread]) {
      const known = new Map<string, number>();
      for (const [, name, value] of runner.toString().matchAll(/const ([A-Z_]+) = ([^;]+);/g)) {
        const terms = value.replace(/[A-Z_]{2,}/g, (other) => String(known.get(other)));
        const factors = (term: string) => term.split('*').map((number) => Number(number.replaceAll('_', '')));
        const product = (term: string) =>
          term.includes('**')
            ? Number(term.split('**')[0]) ** Number(term.split('**')[1])
            : factors(term).reduce((a, b) => a * b);
        known.set(
          name,
          terms
            .split('+')
            .map(product)
            .reduce((a, b) => a + b),
        );
        if (name in module) expect([name, known.get(name)]).toEqual([name, module[name]]);
      }
      expect(known.size).toBeGreaterThan(2);
    }
  });
});
