/**
 * The figures that show tensors: XQuant Fig. 3 and those of App. B, how alike neighbouring layers are, and what caches do
 * to keys and values.
 *
 * @module
 */

import type { ProfiledTensor, SteppedTensor } from '../analysis/distributions.js';
import { COLORS, type Figure, LAYER_AXIS, sparseAxis, TENSOR_NAMES, type VegaLiteSpec } from './figure.js';
import type { Reproduction } from './results.js';

/** Figure 3 of the paper. */
export function tensorMagnitudes({ analysis }: Reproduction): Figure {
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
export function channelProfiles({ analysis }: Reproduction): Figure {
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
export function similarity(results: Reproduction): Figure {
  return {
    id: 'cosine-similarity',
    title: 'Cosine similarity to the layer before',
    caption:
      `Mean over ${results.analysis.tokens} tokens. The residual stream changes little from layer to layer, X hardly ` +
      'more; keys and values of neighbouring layers have nothing to do with each other.',
    spec: steps(results, 'cosine similarity', ({ cosine }) => cosine),
  };
}

/** How much smaller differences from layer to layer are (XQuant §3.2). */
export function differenceRange(results: Reproduction): Figure {
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
      x: { field: 'layer', type: 'quantitative', axis: LAYER_AXIS, scale: { nice: false, padding: 8 } },
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

/** What caches do to keys and values, by layer. */
export function layerErrors({ analysis }: Reproduction): Figure {
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
          x: { field: 'layer', type: 'quantitative', axis: LAYER_AXIS, scale: { nice: false, padding: 8 } },
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

/** What caches do to keys and values, by layer and channel. */
export function channelErrors({ analysis }: Reproduction): Figure {
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
