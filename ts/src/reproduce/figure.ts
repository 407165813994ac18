/**
 * What all figures of a report share: their shape, and how they are drawn.
 *
 * Text and rules are drawn in the colour of the surrounding text, so that one drawing is readable on light and dark
 * pages; the colours of marks are chosen for both.
 *
 * @module
 */

import type { ProfiledTensor, SteppedTensor } from '../analysis/distributions.js';
import type { CacheFamily } from './plans.js';

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

/** Colour and mark of each line of caches. */
export const FAMILIES: Readonly<Record<CacheFamily, { color: string; shape: string }>> = {
  'KIVI*': { color: '#8b929e', shape: 'circle' },
  KVQuant: { color: '#c98612', shape: 'square' },
  XQuant: { color: '#3f83f0', shape: 'triangle-up' },
  'XQuant-CL': { color: '#12a37c', shape: 'diamond' },
  'XQuant tuned': { color: '#9466ef', shape: 'triangle-down' },
  'XQuant-CL tuned': { color: '#e0527a', shape: 'cross' },
  'llama.cpp': { color: '#b5651d', shape: 'triangle-left' },
  'Lloyd-Max': { color: '#7a8c3a', shape: 'triangle-right' },
  'XQuant calibrated': { color: '#2aa9c9', shape: 'square' },
  'XQuant-CL calibrated': { color: '#d63a2f', shape: 'diamond' },
};

/** Colours of marks. */
export const COLORS = Object.values(FAMILIES).map(({ color }) => color);

/** What tensors are called in legends. */
export const TENSOR_NAMES: Readonly<Record<ProfiledTensor | SteppedTensor, string>> = {
  stream: 'residual stream',
  normalized: 'normalized, before the gain',
  x: 'X',
  keys: 'keys before RoPE',
  values: 'values',
  keyLatent: 'X Uk',
  valueLatent: 'X Uv',
};

/** How text, rules and axes of every figure are drawn. */
export const CONFIG = {
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

/** An axis of layers. */
export const LAYER_AXIS = { title: 'layer', grid: false, tickMinStep: 1, format: 'd' };

/** An axis of many bands: a label here and there. */
export function sparseAxis(title: string) {
  return { title, labelOverlap: 'greedy', labelAngle: 0, labelSeparation: 12, ticks: false, domain: false };
}
