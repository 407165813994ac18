/**
 * Draws the figures of docs/algorithm.md, "What an error costs", from measurements on the embedded model books-gqa.
 *
 *     node scripts/write-error-figures.mjs measure     runs the model on two windows, about a minute; writes error-costs.json
 *     node scripts/write-error-figures.mjs [--check]   draws; with --check fails if a figure is not what the numbers say
 *
 * Importance and bits come from the committed calibration of the model, the metric and the sensitivities from the first
 * windows of the held-out text. Needs a build.
 */

import { readFileSync, writeFileSync } from 'node:fs';
import { calibrateModel } from '../dist/analysis/calibrate/calibrate.js';
import { keyMetric, valueMetric } from '../dist/analysis/calibrate/metric.js';
import { sensitivity } from '../dist/analysis/calibrate/sensitivities.js';
import { CalibrationWindows } from '../dist/analysis/calibrate/windows.js';
import { calibratedPlan } from '../dist/cache/calibration.js';
import { FloatProducts } from '../dist/engine/float-products.js';
import { dequantizeWeights, loadModelFile, Tokenizer, WasmModel } from '../dist/index.js';
import { readModelHeader } from '../dist/io/load-model.js';
import { nodeStore } from '../dist/io/node-calibration.js';
import { dense } from '../dist/numerics/dense.js';
import { symmetricEigen } from '../dist/numerics/eigen.js';
import { loadDrawing, standaloneSvg } from '../dist/reproduce/draw.js';
import { CONFIG } from '../dist/reproduce/figure.js';

const MODEL = 'books-gqa';
/** The layer and KV head that stand for all. */
const LAYER = 10;
const HEAD = 0;
const BITS = 2.25;
const WINDOWS = 2;
const WINDOW_TOKENS = 512;
const COLORS = ['#3f83f0', '#e0527a', '#12a37c', '#c98612'];

const SIZE = { width: 560, height: 220 };
const COST = {
  type: 'quantitative',
  scale: { type: 'log', nice: false, padding: 8 },
  axis: { format: '~g', tickCount: 5 },
};

const root = new URL('../', import.meta.url);
const MEASURED = 'docs/charts/error-costs.json';
const mode = process.argv[2];
if (mode === 'measure') await measure();
await drawAll(mode === '--check');

/** Metric and sensitivities, as `xquant calibrate` measures them. */
async function measure() {
  const file = await loadModelFile(MODEL);
  const { config, weights } = file;
  const text = readFileSync(new URL('golden/text/heldout.txt', root), 'utf8');
  const ids = new Tokenizer(file.tokenizer).encode(text);
  const windows = Array.from({ length: WINDOWS }, (_, w) => [
    ...ids.slice(w * WINDOW_TOKENS, (w + 1) * WINDOW_TOKENS),
  ]);
  const model = await WasmModel.load(config, weights, { threads: 1 });
  const worker = new CalibrationWindows(model, await FloatProducts.create({}), windows);
  let collected;
  const watched = Object.create(worker, {
    collect: { value: async (...args) => (collected = await worker.collect(...args)) },
  });
  for (const name of ['probe', 'root', 'basis', 'fit', 'distortion', 'code']) {
    watched[name] = worker[name].bind(worker);
  }
  const state = new Map();
  const layerWeights = (layer) => {
    const { wK, wV, wO } = weights.layers[layer];
    return { wK: dequantizeWeights(wK), wV: dequantizeWeights(wV), wO: dequantizeWeights(wO) };
  };
  await calibrateModel({
    config,
    weights: layerWeights,
    workers: [watched],
    tokens: WINDOWS * WINDOW_TOKENS,
    probeWindows: windows,
    sets: [{ name: 'joint', predict: 0, basis: 'joint', bits: null }],
    state: { get: (name) => state.get(name), put: async (name, value) => void state.set(name, value) },
    onProgress: () => undefined,
  });
  const of = (layer, part) =>
    rounded(sensitivity(windows.map((_, w) => state.get(`probe ${w} ${layer} ${part}`))));
  const layers = Array.from({ length: config.numHiddenLayers }, (_, layer) => layer);
  const { queries, tokens } = collected[LAYER];
  const moments = queries.map(({ rows, columns, data }) =>
    dense(
      rows,
      columns,
      data.map((x) => x / tokens),
    ),
  );
  const measured = {
    model: MODEL,
    fingerprint: file.fingerprint,
    windows: WINDOWS,
    windowTokens: WINDOW_TOKENS,
    sensitivities: {
      keys: layers.map((layer) => of(layer, 'keys')),
      values: layers.map((layer) => of(layer, 'values')),
    },
    metric: {
      layer: LAYER,
      head: HEAD,
      keys: spectrum(keyMetric(moments, config, LAYER)[HEAD]),
      values: spectrum(valueMetric(layerWeights(LAYER).wO, config)[HEAD]),
    },
  };
  writeFileSync(new URL(MEASURED, root), `${JSON.stringify(measured)}\n`);
  await model.dispose();
}

/** Eigenvalues in parts of their mean, the largest first. */
function spectrum(form) {
  const values = [...symmetricEigen(form).values].sort((a, b) => b - a);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return values.map((value) => rounded(Math.max(0, value) / mean));
}

async function drawAll(isCheck) {
  const measured = JSON.parse(readFileSync(new URL(MEASURED, root), 'utf8'));
  const header = await readModelHeader(MODEL);
  const calibration = nodeStore(MODEL, { ...header, fingerprint: measured.fingerprint }).calibration('');
  const draw = await loadDrawing();
  for (const [name, spec] of Object.entries(figures(measured, calibration, header.config))) {
    const path = new URL(`docs/charts/${name}.svg`, root);
    const svg = standaloneSvg(await draw({ ...spec, config: CONFIG }, name));
    if (!isCheck) writeFileSync(path, svg);
    else if (readFileSync(path, 'utf8') !== svg) {
      process.stderr.write(
        `docs/charts/${name}.svg is not what the numbers say: run "node scripts/write-error-figures.mjs"\n`,
      );
      process.exitCode = 1;
    }
  }
}

function figures({ sensitivities, metric }, calibration, config) {
  const kvDim = config.numKeyValueHeads * config.headDim;
  const set = (predict) =>
    calibration.sets.find((each) => each.predict === predict && each.basis === 'joint').layers;
  const plan = calibratedPlan(calibration, { predict: 1, basis: 'joint', bits: BITS, groupSize: 128 }, kvDim);
  const byLayer = (part) => sensitivities[part].map((cost, layer) => ({ part, layer, cost }));
  const importance = [...set(1)[LAYER].importance]
    .map((value, k) => ({ value, bits: String(plan.channelBits[LAYER][k]) }))
    .sort((a, b) => b.value - a.value)
    .map((each, channel) => ({ ...each, channel }));
  const left = [
    [0, 'nothing'],
    [1, 'the layer below'],
    [2, 'the two layers below'],
  ].flatMap(([predict, from]) =>
    set(predict).map((layer, index) => ({
      from,
      layer: index,
      cost: layer.importance.reduce((sum, value) => sum + value, 0),
    })),
  );
  return {
    'error-metric': lines(
      ['keys', 'values'].flatMap((part) =>
        metric[part].map((cost, direction) => ({ part, direction, cost })),
      ),
      {
        x: 'direction',
        title: 'direction, the dearest first',
        y: 'cost of an error, 1 on average',
        series: 'part',
        least: 1e-3,
      },
    ),
    'error-sensitivity': lines([...byLayer('keys'), ...byLayer('values')], {
      x: 'layer',
      title: 'layer',
      y: 'nats a token for one unit of error',
      series: 'part',
    }),
    'error-bits': {
      ...SIZE,
      data: { values: importance },
      mark: { type: 'bar', width: { band: 1 } },
      encoding: {
        x: {
          field: 'channel',
          type: 'ordinal',
          axis: { title: 'channel, the most important first', labelOverlap: true, labelAngle: 0 },
        },
        y: { ...COST, field: 'value', axis: { ...COST.axis, title: 'importance, nats a token' } },
        y2: { datum: Math.min(...importance.map(({ value }) => value)) / 2 },
        color: {
          field: 'bits',
          type: 'nominal',
          scale: {
            domain: ['0', '1', '2', '3', '4', '8'],
            range: ['#8b929e', '#c98612', '#12a37c', '#3f83f0', '#9466ef', '#e0527a'],
          },
          legend: { title: 'bits' },
        },
      },
    },
    'error-prediction': lines(left, {
      x: 'layer',
      title: 'layer',
      y: 'to be coded, nats a token',
      series: 'from',
      legend: 'predicted from',
    }),
  };
}

function lines(values, { x, title, y, series, legend = null, least = 0 }) {
  const names = [...new Set(values.map((each) => each[series]))];
  return {
    ...SIZE,
    data: { values: values.map((each) => ({ ...each, cost: Math.max(least, each.cost) })) },
    mark: { type: 'line', point: { size: 22 }, strokeWidth: 1.5 },
    encoding: {
      x: { field: x, type: 'quantitative', axis: { title, grid: false, tickMinStep: 1, format: 'd' } },
      y: { ...COST, field: 'cost', axis: { ...COST.axis, title: y } },
      color: {
        field: series,
        type: 'nominal',
        sort: names,
        scale: { domain: names, range: COLORS },
        legend: { title: legend },
      },
    },
  };
}

function rounded(value) {
  return Number(value.toPrecision(4));
}
