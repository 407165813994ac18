/**
 * Everything that has to agree with the golden files besides the reference, which `xquant check` compares: the suite in
 * golden.test.ts runs for each entry. Whole models are in whole-models.test.ts.
 */

import { CaseInputs, type CheckCase } from '../../src/check/case/inputs.js';
import { type Tensor, tensorOf } from '../../src/check/case/tensor.js';
import { floatFileWeights } from '../../src/check/compare/perturb.js';
import { attendOnce } from '../../src/check/operations/attend.js';
import { layerOutput } from '../../src/check/operations/layer.js';
import { ropeOptions } from '../../src/check/operations/rope.js';
import { storedSources } from '../../src/check/operations/stored-sources.js';
import {
  attendScratchBytes,
  INTEGER_LIMITS,
  packedWeightsBytes,
  quantizeScratchBytes,
  RANGE_CODES,
  ROPE_CODES,
  tileBytes,
} from '../../src/engine/kernels.js';
import { WasmModel } from '../../src/engine/wasm-model.js';
import { fromFloat16Bits, toFloat16Bits } from '../../src/numerics/float16.js';
import { linear, type Matrix, matrix, row } from '../../src/numerics/matrix.js';
import { roundHalfEven } from '../../src/numerics/round.js';
import {
  dequantizeMatrix,
  type GroupedOptions,
  groupedSizes,
  type QuantizedMatrix,
} from '../../src/quant/grouped.js';
import { packedBytes } from '../../src/quant/pack.js';
import { type Bench, openBench } from '../unit/engine/kernels/builds.js';

/** Outputs of a case by tensor name. */
export type Outputs = Readonly<Record<string, Tensor>>;

export interface Implementation {
  readonly name: string;
  /** Whether it computes a case on its own. */
  computes(source: Pick<CheckCase, 'operation' | 'options'>): boolean;
  run(source: CheckCase): Outputs | Promise<Outputs>;
  /** How much further than f32 sums an element may be off, where the implementation says so. */
  slack?(source: CheckCase, name: string): ((index: number) => number) | undefined;
}

/** Tokens of a sealed block. */
const BLOCK = 128;
/** Input channels whose key weights share a scale. */
const WEIGHT_BLOCK = 32;

/** The kernels of one build, called as the engine calls them; for a whole layer, the engine itself. */
export async function wasmKernels(build: 'simd'): Promise<Implementation> {
  const bench = await openBench(build);
  const operations: Record<string, (inputs: CaseInputs) => Outputs | Promise<Outputs>> = {
    quantize: (inputs) => quantizeOutputs(bench, inputs),
    rotate(inputs) {
      const x = inputs.matrix('x');
      return { rotated: floats(rotated(bench, x)) };
    },
    rope: (inputs) => ropeOutputs(bench, inputs),
    rematerialize: (inputs) => rematerializeOutputs(bench, inputs),
    'cl-encode': (inputs) => encodeOutputs(bench, inputs),
    'cl-decode': (inputs) => decodeOutputs(bench, inputs),
    attend: (inputs) => attendOutputs(bench, inputs),
    layer: (inputs) => layerOutputs(build, inputs),
  };
  return {
    name: `wasm ${build}`,
    computes({ operation, options }) {
      // The latent form of XQuant-CL multiplies with matrices that belong to a model.
      if (operation.startsWith('cl-')) return options.form !== 'latent';
      // Caches of X meet cut weights in the middle of a layer: no bound of f32 sums holds for what comes out. Their
      // products are compared one by one, and whole models by their ids (whole-models.test.ts).
      if (operation === 'layer') return !String(options.cache).startsWith('xquant');
      return operation in operations;
    },
    run(source) {
      bench.reset();
      return operations[source.operation](new CaseInputs(source));
    },
    slack(source, name) {
      if (source.operation === 'rematerialize') {
        return rematerializeSlack(new CaseInputs(source), name as 'keys' | 'values');
      }
      return source.operation === 'attend' ? attendSlack(new CaseInputs(source)) : undefined;
    },
  };
}

function floats({ rows, columns, data }: Matrix): Tensor {
  return tensorOf(data, [rows, columns]);
}

function rotated(bench: Bench, x: Matrix): Matrix {
  const at = bench.put(x.data);
  bench.kernels.hadamardRows(at, x.rows, x.columns);
  return matrix(x.rows, x.columns, bench.readFloats(at, x.data.length));
}

function source(bench: Bench, x: Matrix, inputs: CaseInputs): Matrix {
  return inputs.rotation() === 'hadamard' ? rotated(bench, x) : x;
}

/** Room for what is stored of a matrix. */
function reserveStored(bench: Bench, rows: number, columns: number, format: GroupedOptions) {
  const sizes = groupedSizes(rows, columns, format);
  return {
    ...sizes,
    packed: bench.reserve(sizes.packedBytes),
    scales: bench.reserve(2 * sizes.groups),
    mins: bench.reserve(2 * sizes.groups),
    scratch: bench.reserve(quantizeScratchBytes(format.groupSize)),
  };
}

function putStored(bench: Bench, stored: QuantizedMatrix) {
  return {
    packed: bench.put(stored.packed),
    scales: bench.put(stored.scales),
    mins: bench.put(stored.mins),
    scratch: bench.reserve(quantizeScratchBytes(stored.groupSize)),
  };
}

function storedTensors(packed: Uint8Array, scales: Uint16Array, mins: Uint16Array, suffix = ''): Outputs {
  return {
    [`packed${suffix}`]: tensorOf(packed, [packed.length]),
    [`scales${suffix}`]: tensorOf(scales, [scales.length], 'F16'),
    [`mins${suffix}`]: tensorOf(mins, [mins.length], 'F16'),
  };
}

function quantizeOutputs(bench: Bench, inputs: CaseInputs): Outputs {
  const format = inputs.grouped();
  const { bits, groupSize } = format;
  const x = source(bench, inputs.matrix('x'), inputs);
  const { rows, columns, data } = x;
  const at = reserveStored(bench, rows, columns, format);
  const { packed, scales, mins, scratch } = at;
  const stored = { packed, scales, mins, rows, columns, bits, groupSize, scratch };
  const perToken = format.grouping === 'perToken';
  const range = RANGE_CODES[format.range];
  bench.call(perToken ? 'quantizeRows' : 'quantizeColumns', { ...stored, source: bench.put(data), range });
  const read = (target: number, parameters: object): Float32Array => {
    bench.call(perToken ? 'dequantizeRows' : 'dequantizeColumns', { ...stored, ...parameters, target });
    return bench.readFloats(target, rows * columns);
  };
  // the values of codes with scale 1 and minimum 0 are the codes
  const ones = bench.put(new Uint16Array(at.groups).fill(toFloat16Bits(1)));
  const zeros = bench.put(new Uint16Array(at.groups));
  const codes = read(bench.reserve(rows * columns * 4), { scales: ones, mins: zeros });
  const values = read(bench.reserve(rows * columns * 4), {});
  return {
    ...storedTensors(
      bench.readBytes(at.packed, at.packedBytes),
      bench.readHalves(at.scales, at.groups),
      bench.readHalves(at.mins, at.groups),
    ),
    codes: tensorOf(Uint8Array.from(codes), [rows, columns]),
    x_hat: tensorOf(values, [rows, columns]),
  };
}

function ropeOutputs(bench: Bench, inputs: CaseInputs): Outputs {
  const x = inputs.matrix('x');
  const { layout, headDim, frequencies } = ropeOptions(inputs);
  const at = bench.put(x.data);
  const { cos, sin } = bench.putRopeTables(frequencies, inputs.number('firstPosition', 0), x.rows);
  bench.kernels.rope(at, x.rows, x.columns / headDim, headDim, cos, sin, ROPE_CODES[layout]);
  return { rotated: tensorOf(bench.readFloats(at, x.data.length), [x.rows, x.columns]) };
}

/** Stored rows and the matrix that reads them, for keys or values. */
function storedRows(inputs: CaseInputs, name: string): { stored: QuantizedMatrix; weights: Matrix } {
  const kind = name === 'keys' ? 'key' : 'value';
  const latent = inputs.word('form', ['x', 'latent']) === 'latent';
  const weights = inputs.matrix(`${latent ? 'up' : 'w'}_${kind[0]}`, 'row', 'column');
  const format = inputs.grouped(latent ? `${kind}Grouping` : 'grouping');
  return { stored: inputs.quantized(latent ? `${kind}_` : '', weights.columns, format), weights };
}

/** One block of a matrix that is stored per channel, a group of tokens for each channel. */
function blockOf(stored: QuantizedMatrix, first: number): QuantizedMatrix {
  const { columns, bits, groupSize } = stored;
  const rows = Math.min(groupSize, stored.rows - first);
  const bytes = packedBytes(rows, bits) * columns;
  const at = first * columns;
  const from = (packedBytes(groupSize, bits) * at) / groupSize;
  const groups = [at / groupSize, at / groupSize + columns];
  return {
    ...stored,
    rows,
    packed: stored.packed.slice(from, from + bytes),
    scales: stored.scales.slice(...groups),
    mins: stored.mins.slice(...groups),
  };
}

function rematerializeOutputs(bench: Bench, inputs: CaseInputs): Outputs {
  return {
    keys: floats(rematerialized(bench, inputs, 'keys')),
    values: floats(rematerialized(bench, inputs, 'values')),
  };
}

/** Keys before RoPE, or values: [tokens, kvDim]. */
function rematerialized(bench: Bench, inputs: CaseInputs, name: 'keys' | 'values'): Matrix {
  const { stored, weights } = storedRows(inputs, name);
  const perChannel = stored.grouping === 'perChannel';
  const result = new Float32Array(stored.rows * weights.rows);
  const step = perChannel ? stored.groupSize : stored.rows;
  for (let first = 0; first < stored.rows; first += step) {
    const block = perChannel ? blockOf(stored, first) : stored;
    result.set(multiplyCodes(bench, block, weights), first * weights.rows);
  }
  return matrix(stored.rows, weights.rows, result);
}

/** Heads of an `attend` case. */
function attendShape(inputs: CaseInputs) {
  const { headDim, layout, frequencies } = ropeOptions(inputs);
  const heads = inputs.count('heads');
  const kvHeads = inputs.count('kvHeads', heads);
  return { heads, kvHeads, headDim, layout, frequencies, scale: Math.fround(1 / Math.sqrt(headDim)) };
}

function attendOutputs(bench: Bench, inputs: CaseInputs): Outputs {
  const { kernels } = bench;
  const { heads, kvHeads, headDim, layout, frequencies, scale } = attendShape(inputs);
  const keys = rematerialized(bench, inputs, 'keys');
  const values = rematerialized(bench, inputs, 'values');
  const kvDim = kvHeads * headDim;
  const position = inputs.number('position');
  const code = ROPE_CODES[layout];
  const query = bench.put(inputs.matrixOf('query', heads, headDim).data);
  const own = bench.putRopeTables(frequencies, position, 1);
  kernels.rope(query, 1, heads, headDim, own.cos, own.sin, code);
  const [maxima, sums] = [0, 1].map(() => bench.reserve(heads * 4));
  const acc = bench.reserve(heads * headDim * 4);
  kernels.attendBegin(maxima, sums, acc, heads, headDim);
  for (let first = 0; first < keys.rows; first += BLOCK) {
    const tokens = Math.min(BLOCK, keys.rows - first);
    const rows = ({ data }: Matrix) => bench.put(data.slice(first * kvDim, (first + tokens) * kvDim));
    const turned = bench.reserve(kvDim * Math.ceil(tokens / 8) * 8 * 4);
    const { cos, sin } = bench.putRopeTables(frequencies, first, tokens);
    kernels.finishKeys(rows(keys), tokens, kvHeads, headDim, cos, sin, code, turned);
    bench.call('attendBlock', {
      q: query,
      heads,
      kvHeads,
      headDim,
      keys: turned,
      tokens,
      values: rows(values),
      valueStride: kvDim,
      valueHeadStride: headDim,
      width: headDim,
      scale,
      firstQuery: position,
      firstKey: first,
      maxima,
      sums,
      acc,
      headStart: 0,
      headEnd: kvHeads,
      queryStart: 0,
      queryEnd: 1,
      window: 0,
      scratch: bench.reserve(attendScratchBytes(tokens)),
    });
  }
  kernels.attendFinish(sums, acc, heads, headDim);
  return { output: tensorOf(bench.readFloats(acc, heads * headDim), [heads, headDim]) };
}

/** One transformer block by the engine: a model of one layer. */
async function layerOutputs(kernel: 'simd', inputs: CaseInputs): Promise<Outputs> {
  const models: WasmModel[] = [];
  const output = await layerOutput(inputs, async (config, weights) => {
    const model = await WasmModel.load(config, floatFileWeights(weights), { threads: 1, kernel });
    models.push(model);
    return model;
  });
  for (const model of models) await model.dispose();
  return { output: floats(output) };
}

/** Codes times weights. @returns [tokens, outputs] */
function multiplyCodes(bench: Bench, stored: QuantizedMatrix, { rows, columns, data }: Matrix): Float32Array {
  const { kernels } = bench;
  const perChannel = stored.grouping === 'perChannel';
  const at = putStored(bench, stored);
  const packed = bench.reserve(packedWeightsBytes(rows, columns, WEIGHT_BLOCK));
  const [scales, mins] = perChannel ? [at.scales, at.mins] : [0, 0];
  kernels.packWeights(
    bench.put(data),
    rows,
    columns,
    WEIGHT_BLOCK,
    INTEGER_LIMITS.codes,
    scales,
    mins,
    packed,
  );
  const tile = bench.reserve(tileBytes(stored.rows, columns, WEIGHT_BLOCK));
  const { bits, groupSize } = stored;
  bench.call('unpackTile', {
    ...at,
    rows: stored.rows,
    columns,
    bits,
    groupSize,
    perChannel: perChannel ? 1 : 0,
    block: WEIGHT_BLOCK,
    tile,
  });
  const out = bench.reserve(stored.rows * rows * 4);
  kernels.matmulTile(packed, tile, stored.rows, columns, WEIGHT_BLOCK, rows, out, rows);
  return bench.readFloats(out, stored.rows * rows);
}

/**
 * Weights as `packWeights` cuts them: 15 bits and a sign, with a scale for each block of 32.
 *
 * @returns fresh
 */
function cutWeights({ rows, columns, data }: Matrix): Matrix {
  const result = matrix(rows, columns);
  const limit = INTEGER_LIMITS.codes;
  for (let r = 0; r < rows; r++) {
    for (let from = 0; from < columns; from += WEIGHT_BLOCK) {
      const at = r * columns + from;
      const block = data.subarray(at, at + Math.min(WEIGHT_BLOCK, columns - from));
      const largest = block.reduce((max, w) => Math.max(max, Math.abs(w)), 0);
      const inverse = Math.fround(limit / largest);
      const step = Math.fround(largest / limit);
      if (largest > 0)
        result.data.set(
          block.map((w) => roundHalfEven(Math.fround(w * inverse)) * step),
          at,
        );
    }
  }
  return result;
}

/** Keys before RoPE, or values, with the weights that the kernels have: what `rematerialized` computes, in f64. */
function cutProduct(inputs: CaseInputs, name: 'keys' | 'values'): Matrix {
  const { stored, weights } = storedRows(inputs, name);
  if (stored.grouping === 'perToken') return linear(dequantizeMatrix(stored), cutWeights(weights));
  const { rows: outputs, columns } = weights;
  const result = matrix(stored.rows, outputs);
  for (let first = 0; first < stored.rows; first += stored.groupSize) {
    // The scales of a block are in its weights; its minimums meet the weights as they are.
    const block = blockOf(stored, first);
    const [scales, mins] = [block.scales, block.mins].map((of) => Array.from(of, fromFloat16Bits));
    const scaled = matrix(
      outputs,
      columns,
      weights.data.map((w, i) => w * scales[i % columns]),
    );
    const one = new Uint16Array(columns).fill(toFloat16Bits(1));
    const codes = dequantizeMatrix({ ...block, scales: one, mins: new Uint16Array(columns) });
    const product = linear(codes, cutWeights(scaled));
    for (let j = 0; j < outputs; j++) {
      const offset = row(weights, j).reduce((sum, w, c) => sum + w * mins[c], 0);
      for (let t = 0; t < block.rows; t++) {
        result.data[(first + t) * outputs + j] = product.data[t * outputs + j] + offset;
      }
    }
  }
  return result;
}

/** How far the cut weights alone move keys or values. */
function rematerializeSlack(inputs: CaseInputs, name: 'keys' | 'values'): (index: number) => number {
  const { stored, weights } = storedRows(inputs, name);
  return difference(cutProduct(inputs, name), linear(dequantizeMatrix(stored), weights));
}

/** How far they move what is attended to. */
function attendSlack(inputs: CaseInputs): (index: number) => number {
  const [keyRows, valueRows] = [cutProduct(inputs, 'keys'), cutProduct(inputs, 'values')];
  const { columns } = keyRows;
  const identity = matrix(columns, columns);
  for (let c = 0; c < columns; c++) identity.data[c * columns + c] = 1;
  const sources = {
    ...storedSources(inputs),
    keyRows,
    valueRows,
    keyWeights: identity,
    valueWeights: identity,
  };
  return difference(attendOnce(inputs, sources), attendOnce(inputs));
}

function difference(a: Matrix, b: Matrix): (index: number) => number {
  return (index) => Math.abs(a.data[index] - b.data[index]);
}

function encodeOutputs(bench: Bench, inputs: CaseInputs): Outputs {
  const layers = inputs.stack('x');
  const [{ rows, columns }] = layers;
  const size = rows * columns;
  const accumulator = new Float32Array(layers.length * size);
  const outputs: Record<string, Tensor> = {};
  layers.forEach((x, layer) => {
    bench.reset();
    const format = inputs.grouped('grouping', layer === 0 ? 'baseBits' : 'bits');
    const turned = source(bench, x, inputs).data;
    const parts: { packed: Uint8Array; scales: Uint16Array; mins: Uint16Array }[] = [];
    for (let first = 0; first < rows; first += BLOCK) {
      const tokens = Math.min(BLOCK, rows - first);
      const [from, to] = [first * columns, (first + tokens) * columns];
      const sum =
        layer === 0
          ? new Float32Array(to - from)
          : accumulator.slice((layer - 1) * size + from, (layer - 1) * size + to);
      const at = reserveStored(bench, tokens, columns, format);
      const sumAt = bench.put(sum);
      const { packed, scales, mins, scratch } = at;
      bench.call('crossLayerEncode', {
        packed,
        scales,
        mins,
        rows: tokens,
        columns,
        bits: format.bits,
        groupSize: format.groupSize,
        scratch,
        source: bench.put(turned.slice(from, to)),
        range: RANGE_CODES[format.range],
        accumulator: sumAt,
        perChannel: format.grouping === 'perChannel' ? 1 : 0,
      });
      accumulator.set(bench.readFloats(sumAt, to - from), layer * size + from);
      parts.push({
        packed: bench.readBytes(at.packed, at.packedBytes),
        scales: bench.readHalves(at.scales, at.groups),
        mins: bench.readHalves(at.mins, at.groups),
      });
    }
    const packed = Uint8Array.from(parts.flatMap((part) => [...part.packed]));
    const scales = Uint16Array.from(parts.flatMap((part) => [...part.scales]));
    const mins = Uint16Array.from(parts.flatMap((part) => [...part.mins]));
    Object.assign(outputs, storedTensors(packed, scales, mins, `_${layer}`));
  });
  return { ...outputs, accumulator: tensorOf(accumulator, [layers.length, rows, columns]) };
}

function decodeOutputs(bench: Bench, inputs: CaseInputs): Outputs {
  const [layers, rows, columns] = inputs.tensor('accumulator').shape;
  const size = rows * columns;
  const accumulator = new Float32Array(layers * size);
  const sum = bench.put(new Float32Array(size));
  for (let layer = 0; layer < layers; layer++) {
    const format = inputs.grouped('grouping', layer === 0 ? 'baseBits' : 'bits');
    const at = putStored(bench, inputs.quantized('', columns, format, `_${layer}`));
    const { bits, groupSize } = format;
    const codes = { ...at, rows, columns, bits, groupSize, target: sum };
    bench.call(format.grouping === 'perToken' ? 'dequantizeAddRows' : 'dequantizeAddColumns', codes);
    accumulator.set(bench.readFloats(sum, size), layer * size);
  }
  return { accumulator: tensorOf(accumulator, [layers, rows, columns]) };
}
