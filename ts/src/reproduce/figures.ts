/**
 * The figures of a report as Vega-Lite specifications: XQuant Fig. 1 and 3 and those of App. B, and what else the
 * measurements of analysis/ show.
 *
 * @module
 */

import { COLORS, CONFIG, FAMILIES, type Figure, type VegaLiteSpec } from './figure.js';
import type { CacheFamily } from './plans.js';
import type { ReproducedCache, Reproduction } from './results.js';
import {
  channelErrors,
  channelProfiles,
  differenceRange,
  layerErrors,
  similarity,
  tensorMagnitudes,
} from './tensor-figures.js';

/** Losses below are drawn here: a logarithmic axis has no zero. In percent. */
const SMALLEST_LOSS = 0.01;

/** All figures that the results have data for, in the order of the report. */
export function reportFigures(results: Reproduction): Figure[] {
  const { analysis, layerLosses } = results;
  const figures = [tensorMagnitudes(results), channelProfiles(results)];
  if (analysis.steps.x.length > 0) figures.push(similarity(results), differenceRange(results));
  if (layerLosses.length > 0) figures.push(singleLayers(results));
  if (analysis.errors.length > 0) figures.push(layerErrors(results), channelErrors(results));
  figures.push(roofline(results));
  return [...lossFigures(results), ...figures.map(styled)];
}

/** Those of them that need nothing but the caches: loss against the cache, and against memory in all. */
export function lossFigures(results: Pick<Reproduction, 'caches' | 'model'>): Figure[] {
  return [lossAgainstCache(results), lossAgainstTotal(results)].map(styled);
}

function styled(figure: Figure): Figure {
  return { ...figure, spec: { ...figure.spec, config: CONFIG } };
}

/** Figure 1 of the paper. */
function lossAgainstCache({ caches, model }: Pick<Reproduction, 'caches' | 'model'>): Figure {
  return {
    id: 'figure-1',
    title: 'Figure 1: compression against loss',
    caption:
      `Every cache of the plan on ${model.name}; the digit is its bits. Right and down is better; the dashed line ` +
      'joins those that no other one beats. Bars: two standard errors of the paired difference. Losses below ' +
      `${SMALLEST_LOSS} % are drawn there.`,
    spec: lossAgainst(
      caches,
      ({ compression }) => compression,
      ({ onParetoFront }) => onParetoFront,
      'cache, times smaller than f16 KV',
    ),
  };
}

/** The same by everything that a cache needs to be read. */
function lossAgainstTotal({ caches, model }: Pick<Reproduction, 'caches' | 'model'>): Figure {
  const tokens = caches[0]?.totals.tokens;
  return {
    id: 'figure-total',
    title: 'Loss against memory in all',
    caption:
      `The same caches with all that they need, for one sequence of ${tokens} tokens of ${model.name}: the cache, what ` +
      'its layers hand on, and the plan (folded weights, or the matrices of a calibration), which several sequences ' +
      'share. Left of 1, more is needed than for keys and values in f16.',
    spec: lossAgainst(
      caches,
      ({ totals }) => totals.smaller,
      ({ onTotalParetoFront }) => onTotalParetoFront,
      'in all, times smaller than f16 KV',
    ),
  };
}

function lossAgainst(
  caches: readonly ReproducedCache[],
  smaller: (row: ReproducedCache) => number,
  isOnFront: (row: ReproducedCache) => boolean,
  title: string,
): VegaLiteSpec {
  const percent = (value: number) => Math.max(SMALLEST_LOSS, 100 * value);
  const point = (row: ReproducedCache) => {
    const { mean, stdErr } = row.relativePerplexity;
    return {
      label: row.label,
      family: row.family,
      bits: String(row.bits),
      compression: smaller(row),
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
    axis: { title, format: '~r', tickCount: 6 },
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
    legend: { title: null, symbolOpacity: 1, columns: 5 },
  };
  const front = caches.filter(isOnFront).map(point);
  return {
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
