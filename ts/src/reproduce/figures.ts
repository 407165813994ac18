/**
 * The figures of a report as Vega-Lite specifications: XQuant Fig. 1 and 3 and those of App. B, and what else the
 * measurements of analysis/ show.
 *
 * Text and rules are drawn in the colour of the surrounding text, so that one drawing is readable on light and dark
 * pages; the colours of marks are chosen for both.
 *
 * @module
 */

import type { ProfiledTensor, SteppedTensor } from '../analysis/distributions.js';
import type { CacheFamily } from './plans.js';
import type { ReproducedCache, Reproduction } from './results.js';

/** A Vega-Lite specification. */
export type VegaLiteSpec = Readonly<Record<string, unknown>>;

/** One figure. */
export interface Figure {
  /** Name of its file, and anchor. */
  readonly id: string;
  readonly title: string;
  /** What it shows. */
  readonly caption: string;
  readonly spec: VegaLiteSpec;
}

/** Losses below are drawn here: a logarithmic axis has no zero. In percent. */
const SMALLEST_LOSS = 0.01;

const FAMILIES: Readonly<Record<CacheFamily, { color: string; shape: string }>> = {
  'KIVI*': { color: '#8b929e', shape: 'circle' },
  KVQuant: { color: '#c98612', shape: 'square' },
  XQuant: { color: '#3f83f0', shape: 'triangle-up' },
  'XQuant-CL': { color: '#12a37c', shape: 'diamond' },
  'XQuant tuned': { color: '#9466ef', shape: 'triangle-down' },
  'XQuant-CL tuned': { color: '#e0527a', shape: 'cross' },
};

const COLORS = Object.values(FAMILIES).map(({ color }) => color);

const TENSOR_NAMES: Readonly<Record<ProfiledTensor | SteppedTensor, string>> = {
  stream: 'residual stream',
  normalized: 'normalized, before the gain',
  x: 'X',
  keys: 'keys before RoPE',
  values: 'values',
  keyLatent: 'X Uk',
  valueLatent: 'X Uv',
};

const CONFIG = {
  background: null,
  font: 'system-ui, sans-serif',
  view: { stroke: null },
  axis: {
    labelColor: 'currentColor',
    titleColor: 'currentColor',
    titleFontWeight: 'normal',
    gridColor: 'currentColor',
    gridOpacity: 0.12,
    domainColor: 'currentColor',
    domainOpacity: 0.45,
    tickColor: 'currentColor',
    tickOpacity: 0.45,
  },
  legend: {
    labelColor: 'currentColor',
    titleColor: 'currentColor',
    titleFontWeight: 'normal',
    labelLimit: 0,
    orient: 'top',
  },
  header: { labelColor: 'currentColor', titleColor: 'currentColor', labelFontSize: 12 },
  title: { color: 'currentColor' },
} as const;

/** All figures that the results have data for, in the order of the report. */
export function reportFigures(results: Reproduction): Figure[] {
  const { analysis, layerLosses } = results;
  const figures = [compressionAgainstLoss(results), tensorMagnitudes(results), channelProfiles(results)];
  if (analysis.steps.x.length > 0) figures.push(similarity(results), differenceRange(results));
  if (layerLosses.length > 0) figures.push(singleLayers(results));
  if (analysis.errors.length > 0) figures.push(layerErrors(results), channelErrors(results));
  figures.push(roofline(results));
  return figures.map((each) => ({ ...each, spec: { ...each.spec, config: CONFIG } }));
}

/** Figure 1 of the paper. */
function compressionAgainstLoss({ caches, model }: Reproduction): Figure {
  const percent = (value: number) => Math.max(SMALLEST_LOSS, 100 * value);
  const point = (row: ReproducedCache) => {
    const { mean, stdErr } = row.relativePerplexity;
    return {
      label: row.label,
      family: row.family,
      bits: String(row.bits),
      compression: row.compression,
      loss: percent(mean),
      low: percent(mean - 2 * (stdErr ?? 0)),
      high: percent(mean + 2 * (stdErr ?? 0)),
    };
  };
  const families = (Object.keys(FAMILIES) as CacheFamily[]).filter((name) =>
    caches.some(({ family }) => family === name),
  );
  const scale = (pick: (name: CacheFamily) => string) => ({ domain: families, range: families.map(pick) });
  const x = {
    field: 'compression',
    type: 'quantitative',
    scale: { type: 'log', base: 2, nice: false, padding: 20 },
    axis: { title: 'times smaller than f16 KV', format: '~r', tickCount: 6 },
  };
  const y = (field: string) => ({
    field,
    type: 'quantitative',
    scale: { type: 'log', nice: false, padding: 12 },
    axis: { title: 'perplexity above f16 KV, %', format: '~r', tickCount: 6 },
  });
  const color = {
    field: 'family',
    type: 'nominal',
    scale: scale((name) => FAMILIES[name].color),
    legend: { title: null, symbolOpacity: 1 },
  };
  const front = caches.filter(({ onParetoFront }) => onParetoFront).map(point);
  return {
    id: 'figure-1',
    title: 'Figure 1: compression against loss',
    caption:
      `Every cache of the plan on ${model.name}; the digit is its bits. Right and down is better; the dashed line ` +
      'joins those that no other one beats. Bars: two standard errors of the paired difference. Losses below ' +
      `${SMALLEST_LOSS} % are drawn there.`,
    spec: {
      width: 640,
      height: 380,
      data: { values: caches.map(point) },
      layer: [
        {
          data: { values: front },
          mark: { type: 'line', strokeDash: [5, 4], color: 'currentColor', opacity: 0.5 },
          encoding: { x, y: y('loss'), order: { field: 'compression' } },
        },
        { mark: { type: 'rule', opacity: 0.7 }, encoding: { x, y: y('low'), y2: { field: 'high' }, color } },
        {
          mark: { type: 'point', filled: true, size: 90, opacity: 0.9 },
          encoding: {
            x,
            y: y('loss'),
            color,
            shape: { field: 'family', type: 'nominal', scale: scale((name) => FAMILIES[name].shape) },
          },
        },
        {
          mark: { type: 'text', dx: 11, dy: -1, align: 'left', fontSize: 11, color: 'currentColor' },
          encoding: { x, y: y('loss'), text: { field: 'bits' } },
        },
      ],
    },
  };
}

/** Figure 3 of the paper. */
function tensorMagnitudes({ analysis }: Reproduction): Figure {
  const tensors: readonly string[] = ['x', 'keys', 'values'];
  const samples = analysis.samples.filter(({ tensor }) => tensors.includes(tensor));
  const layers = [...new Set(samples.map(({ layer }) => `layer ${layer}`))];
  const values = samples.flatMap(({ layer, tensor, tokens, channels, magnitudes }) => {
    const all = magnitudes.flat();
    const mean = all.reduce((sum, value) => sum + value, 0) / all.length || 1;
    // Every second token is enough to see columns.
    return magnitudes.flatMap((row, t) =>
      t % 2 === 1
        ? []
        : row.map((value, c) => ({
            layer: `layer ${layer}`,
            tensor: TENSOR_NAMES[tensor as ProfiledTensor],
            token: tokens[t],
            channel: channels[c],
            // Two digits: there are thousands.
            ratio: Number(Math.min(8, value / mean).toPrecision(2)),
          })),
    );
  });
  return {
    id: 'figure-3',
    title: 'Figure 3: X, keys and values of successive layers',
    caption:
      `Magnitudes against the mean of the tensor, a sample of the tokens and channels. X of neighbouring layers ` +
      'looks alike; channels that stand out in every token are what per-token groups suffer from.',
    spec: {
      data: { values },
      facet: {
        // as they come, since "layer 10" sorts before "layer 9"
        row: { field: 'layer', type: 'nominal', sort: layers, header: { title: null } },
        column: {
          field: 'tensor',
          type: 'nominal',
          sort: tensors.map((name) => TENSOR_NAMES[name as ProfiledTensor]),
          header: { title: null },
        },
      },
      spec: {
        width: 210,
        height: 130,
        mark: { type: 'rect', strokeWidth: 0 },
        encoding: {
          x: { field: 'channel', type: 'ordinal', axis: sparseAxis('channel') },
          y: { field: 'token', type: 'ordinal', axis: sparseAxis('token') },
          color: {
            field: 'ratio',
            type: 'quantitative',
            scale: { scheme: 'viridis', type: 'sqrt', domain: [0, 8] },
            legend: { title: '|value| / mean', gradientLength: 160 },
          },
        },
      },
      resolve: { scale: { x: 'independent' } },
    },
  };
}

/** The figures of App. B: X, X Uk, X Uv. */
function channelProfiles({ analysis }: Reproduction): Figure {
  const { layer, tensors } = analysis.profiles;
  const shown: ProfiledTensor[] = ['x', 'keyLatent', 'valueLatent'];
  const values = shown.flatMap((tensor) =>
    tensors[tensor].mean.flatMap((mean, channel) => [
      { tensor: TENSOR_NAMES[tensor], channel, magnitude: tensors[tensor].max[channel], of: 'largest' },
      { tensor: TENSOR_NAMES[tensor], channel, magnitude: mean, of: 'mean' },
    ]),
  );
  return {
    id: 'figure-b2',
    title: 'Figures B.2, B.3: X and its latents by channel',
    caption:
      `Layer ${layer}. Singular vectors gather the outliers: what is spread over the channels of X lies in the ` +
      'first channels of X Uk, whose scale is then one per channel.',
    spec: {
      data: { values },
      facet: {
        column: {
          field: 'tensor',
          type: 'nominal',
          sort: shown.map((name) => TENSOR_NAMES[name]),
          header: { title: null },
        },
      },
      spec: {
        width: 210,
        height: 150,
        mark: { type: 'line', strokeWidth: 1.2, interpolate: 'step' },
        encoding: {
          x: {
            field: 'channel',
            type: 'quantitative',
            axis: { title: 'channel', grid: false, tickCount: 5 },
          },
          y: { field: 'magnitude', type: 'quantitative', axis: { title: '|value|', tickCount: 5 } },
          color: {
            field: 'of',
            type: 'nominal',
            scale: { domain: ['mean', 'largest'], range: [COLORS[2], COLORS[1]] },
            legend: { title: null },
          },
        },
      },
      resolve: { scale: { x: 'independent', y: 'independent' } },
    },
  };
}

/** The premise of XQuant-CL (XQuant §3.2). */
function similarity(results: Reproduction): Figure {
  return {
    id: 'cosine-similarity',
    title: 'Cosine similarity to the layer before',
    caption:
      `Mean over ${results.analysis.tokens} tokens. The residual stream changes little from layer to layer, X hardly ` +
      'more; keys and values of neighbouring layers have nothing to do with each other.',
    spec: steps(results, 'cosine similarity', ({ cosine }) => cosine),
  };
}

function differenceRange(results: Reproduction): Figure {
  return {
    id: 'difference-range',
    title: 'Range of the difference to the layer before',
    caption:
      'Range (max - min of a token) of the difference, against the range of the tensor itself. Below one, ' +
      'a difference is easier to quantize than the tensor.',
    spec: steps(results, 'range of difference / range', (step) => step.differenceRange / step.range),
  };
}

type Step = Reproduction['analysis']['steps'][SteppedTensor][number];

function steps({ analysis }: Reproduction, title: string, of: (step: Step) => number): VegaLiteSpec {
  const tensors = Object.keys(analysis.steps) as SteppedTensor[];
  const values = tensors.flatMap((tensor) =>
    analysis.steps[tensor].map((step) => ({
      tensor: TENSOR_NAMES[tensor],
      layer: step.layer,
      value: of(step),
    })),
  );
  return {
    width: 640,
    height: 220,
    data: { values },
    mark: { type: 'line', point: { size: 28 } },
    encoding: {
      x: { field: 'layer', type: 'quantitative', axis: layerAxis, scale: { nice: false, padding: 8 } },
      y: { field: 'value', type: 'quantitative', axis: { title, tickCount: 6 } },
      color: {
        field: 'tensor',
        type: 'nominal',
        scale: {
          domain: tensors.map((name) => TENSOR_NAMES[name]),
          range: [2, 3, 5, 1, 4].map((i) => COLORS[i]),
        },
        legend: { title: null },
      },
    },
  };
}

function singleLayers({ layerLosses }: Reproduction): Figure {
  const values = layerLosses.map(({ layer, loss: { mean, stdErr } }) => ({
    layer,
    loss: mean,
    low: mean - 2 * (stdErr ?? 0),
    high: mean + 2 * (stdErr ?? 0),
  }));
  const x = { field: 'layer', type: 'ordinal', axis: { title: 'layer', labelAngle: 0, labelOverlap: true } };
  return {
    id: 'single-layer-loss',
    title: 'Loss when only one layer is quantized',
    caption:
      'XQuant of the paper, 2 bits in one layer and 8, which lose nothing, in all others. Bars: two standard errors.',
    spec: {
      width: 640,
      height: 200,
      data: { values },
      layer: [
        {
          mark: { type: 'bar', color: COLORS[2] },
          encoding: {
            x,
            y: { field: 'loss', type: 'quantitative', axis: { title: 'loss, nats a token', tickCount: 5 } },
          },
        },
        {
          mark: { type: 'rule', color: 'currentColor', opacity: 0.7 },
          encoding: { x, y: { field: 'low', type: 'quantitative' }, y2: { field: 'high' } },
        },
      ],
    },
  };
}

function layerErrors({ analysis }: Reproduction): Figure {
  const values = analysis.errors.flatMap(({ cache, layers }) =>
    layers.flatMap(({ layer, keys, values: errorOfValues }) => [
      { cache, layer, tensor: 'keys', error: keys },
      { cache, layer, tensor: 'values', error: errorOfValues },
    ]),
  );
  return {
    id: 'layer-errors',
    title: 'Error of keys and values by layer',
    caption:
      'Root mean square error against the root mean square of the exact tensor. What the cache of a layer does to ' +
      'the input that the layer gets; what layers below have done to that input is not counted.',
    spec: {
      data: { values },
      facet: { column: { field: 'tensor', type: 'nominal', header: { title: null } } },
      spec: {
        width: 320,
        height: 200,
        mark: { type: 'line', point: { size: 24 } },
        encoding: {
          x: { field: 'layer', type: 'quantitative', axis: layerAxis, scale: { nice: false, padding: 8 } },
          y: { field: 'error', type: 'quantitative', axis: { title: 'relative error', tickCount: 5 } },
          color: {
            field: 'cache',
            type: 'nominal',
            scale: {
              domain: analysis.errors.map(({ cache }) => cache),
              range: [0, 2, 3, 5].map((i) => COLORS[i]),
            },
            legend: { title: null },
          },
        },
      },
    },
  };
}

function channelErrors({ analysis }: Reproduction): Figure {
  const shown = analysis.errors.slice(0, 2);
  const values = shown.flatMap(({ cache, layers }) =>
    layers.flatMap(({ layer, keyChannels, valueChannels }) => [
      ...keyChannels.map((error, bin) => ({ cache, layer, tensor: 'keys', bin, error: Math.min(1, error) })),
      ...valueChannels.map((error, bin) => ({
        cache,
        layer,
        tensor: 'values',
        bin,
        error: Math.min(1, error),
      })),
    ]),
  );
  return {
    id: 'channel-errors',
    title: 'Error of keys and values by layer and channel',
    caption:
      'The same by channel, the largest of neighbouring channels where there are more than 64; errors above 1 are ' +
      'drawn as 1.',
    spec: {
      data: { values },
      facet: {
        row: { field: 'cache', type: 'nominal', header: { title: null } },
        column: { field: 'tensor', type: 'nominal', header: { title: null } },
      },
      spec: {
        width: 320,
        height: 160,
        mark: { type: 'rect', strokeWidth: 0 },
        encoding: {
          x: { field: 'bin', type: 'ordinal', axis: sparseAxis('channels, binned') },
          y: { field: 'layer', type: 'ordinal', axis: sparseAxis('layer') },
          color: {
            field: 'error',
            type: 'quantitative',
            scale: { scheme: 'viridis', domain: [0, 1] },
            legend: { title: 'relative error', gradientLength: 160 },
          },
        },
      },
    },
  };
}

/** The system model (XQuant §3.4). */
function roofline({ systemModel: { curves, device } }: Reproduction): Figure {
  const labels = [...new Set(curves.map(({ label }) => label))];
  const values = curves.flatMap(({ label, tokens, compute, memory }) => [
    { label, tokens, seconds: compute, what: 'rematerialize' },
    { label, tokens, seconds: memory, what: 'move weights and cache' },
  ]);
  return {
    id: 'system-model',
    title: `System model: one layer of a decode step on ${device.name}`,
    caption:
      'Time to rematerialize 2-bit caches and time to move what has to be moved anyway. Left of where the lines ' +
      'cross, rematerialization costs no time.',
    spec: {
      data: { values },
      facet: { field: 'label', type: 'nominal', sort: labels, header: { title: null } },
      columns: 2,
      spec: {
        width: 310,
        height: 130,
        mark: { type: 'line', strokeWidth: 2 },
        encoding: {
          x: {
            field: 'tokens',
            type: 'quantitative',
            scale: { type: 'log', base: 2, nice: false },
            axis: {
              title: 'cached tokens',
              tickCount: 6,
              labelExpr: "datum.value < 1024 ? datum.value : datum.value / 1024 + 'K'",
            },
          },
          y: {
            field: 'seconds',
            type: 'quantitative',
            scale: { type: 'log' },
            axis: { title: null, tickCount: 4, labelExpr: "format(datum.value, '~s') + 's'" },
          },
          color: {
            field: 'what',
            type: 'nominal',
            scale: { range: [COLORS[0], COLORS[5]] },
            legend: { title: null },
          },
        },
      },
      resolve: { scale: { y: 'independent' }, axis: { x: 'independent' } },
    },
  };
}

const layerAxis = { title: 'layer', grid: false, tickMinStep: 1, format: 'd' };

/** An axis of many bands: a label here and there. */
function sparseAxis(title: string) {
  return { title, labelOverlap: 'greedy', labelAngle: 0, labelSeparation: 12, ticks: false, domain: false };
}
