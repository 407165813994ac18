import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CalibrationWindows, SINKS } from '../../../../src/analysis/calibrate/windows.js';
import { FloatProducts } from '../../../../src/engine/float-products.js';
import { WasmModel } from '../../../../src/engine/wasm-model.js';
import { loadModelFile } from '../../../../src/io/load-model.js';
import type { ModelFile } from '../../../../src/io/model-file.js';
import { concatRows, linear, type Matrix, rowRange } from '../../../../src/numerics/matrix.js';
import { tinyModelGguf } from '../../../helpers/gguf-writer.js';
import { randomTokens } from '../../../helpers/tiny-model.js';

let file: ModelFile;
let model: WasmModel;
beforeAll(async () => {
  file = await loadModelFile(tinyModelGguf({ layers: 3, scale: 0.3 }));
  model = await WasmModel.load(file.config, file.weights, { threads: 1, kernel: 'simd' });
});
afterAll(() => model.dispose());

const ids = (seed: number) => randomTokens(60, seed);

/** Taps of one window by layer. */
async function taps(
  window: readonly number[],
  tensor: 'x' | 'stream' | 'queries',
  mode: 'generation' | 'teacherForced' = 'generation',
): Promise<Matrix[]> {
  using cache = model.createCache('kv');
  const values: Matrix[] = [];
  await model.forward(window, cache, {
    mode,
    onTensor: (tap) => {
      if (tap.tensor === tensor) values[tap.layer] = tap.value;
    },
  });
  return values;
}

describe('a pass that starts with a layer', () => {
  it('gives the logits of the whole pass, to the bit', async () => {
    using cache = model.createCache('kv');
    const window = ids(1);
    const options = { logits: 'all', mode: 'teacherForced' } as const;
    const whole = await model.forward(window, cache, options);
    const streams = await taps(window, 'stream', options.mode);
    for (const layer of [0, 1, 2]) {
      cache.trim(0);
      const part = await model.forward(window, cache, {
        ...options,
        start: { layer, stream: streams[layer] },
      });
      expect(part.data).toEqual(whole.data);
    }
  });
});

describe('CalibrationWindows', () => {
  it('gathers the moments of carriers and queries of all windows but their first positions', async () => {
    const windows = [ids(2), ids(3)];
    const own = new CalibrationWindows(model, await FloatProducts.create({ kernel: 'simd' }), windows);
    let tokens = 0;
    const collected = await own.collect(1, (count) => {
      tokens += count;
    });
    expect(tokens).toBe(120);
    const inputs = await Promise.all(windows.map((window) => taps(window, 'x')));
    const queries = await Promise.all(windows.map((window) => taps(window, 'queries')));
    const rowsOf = (values: Matrix[][], layer: number) => {
      const parts = values.map((each) => rowRange(each[layer], SINKS, each[layer].rows));
      return concatRows(parts, parts[0].columns);
    };
    const carrier = (layer: number) => {
      const { wK, wV } = model.projections[layer];
      return linear(rowsOf(inputs, layer), concatRows([wK, wV], file.config.hiddenSize));
    };
    for (const [layer, { own: moments, below, queries: heads, tokens: count }] of collected.entries()) {
      const c = carrier(layer);
      expect(count).toBe(c.rows);
      expectProduct(c, c, moments.product.data, true);
      if (layer > 0) expectProduct(carrier(layer - 1), c, below[0].product.data, true);
      const q = rowsOf(queries, layer);
      const { headDim } = file.config;
      for (const [head, { data }] of heads.entries()) {
        const part = concatRows(
          Array.from({ length: q.rows }, (_, t) => ({
            rows: 1,
            columns: headDim,
            data: q.data.subarray(t * q.columns + head * headDim, t * q.columns + (head + 1) * headDim),
          })),
          headDim,
        );
        expectProduct(part, part, data, false);
      }
    }
  });
});

/** Sum over rows of products, about the means if wanted. */
function expectProduct(a: Matrix, b: Matrix, actual: Float64Array, centered: boolean): void {
  const mean = ({ rows, columns, data }: Matrix, c: number) => {
    let sum = 0;
    for (let r = 0; r < rows; r++) sum += data[r * columns + c];
    return centered ? sum / rows : 0;
  };
  const largest = actual.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  for (let i = 0; i < a.columns; i++) {
    for (let j = 0; j < b.columns; j++) {
      const [meanA, meanB] = [mean(a, i), mean(b, j)];
      let sum = 0;
      for (let r = 0; r < a.rows; r++) {
        sum += (a.data[r * a.columns + i] - meanA) * (b.data[r * b.columns + j] - meanB);
      }
      expect(Math.abs(actual[i * b.columns + j] - sum)).toBeLessThanOrEqual(1e-5 * largest);
    }
  }
}
