/**
 * The chart of the system model (XQuant §3.4): FLOPs for each byte of one layer over the length of the cache.
 *
 * @module
 */

import {
  type Device,
  hiddenTokens,
  type RooflineLayer,
  ridgePoint,
  rooflineCost,
} from '../../ts/src/analysis/roofline.js';

import { svgNode, svgText } from './dom.js';

const HEIGHT = 380;
const MARGIN = { left: 48, right: 20, top: 28, bottom: 52 };
const LENGTHS = [2 ** 7, 2 ** 20] as const;
const INTENSITIES = [1, 4096] as const;

/**
 * Draws the chart.
 *
 * @param width of the picture, in CSS pixels
 * @param description what a reader who cannot see it is told
 */
export function drawRoofline(
  device: Device,
  layers: Readonly<Record<'mha' | 'gqa', RooflineLayer>>,
  width: number,
  description: string,
): SVGSVGElement {
  const svg = svgNode('svg', {
    width,
    height: HEIGHT,
    role: 'img',
    'aria-label': description,
  }) as SVGSVGElement;
  const [left, right, bottom] = [MARGIN.left, width - MARGIN.right, HEIGHT - MARGIN.bottom];
  const xOf = (length: number) => scale(length, LENGTHS, left, right);
  const yOf = (value: number) => scale(value, INTENSITIES, bottom, MARGIN.top);
  for (let power = 7; power <= 20; power++) {
    const x = xOf(2 ** power);
    svg.append(svgNode('line', { class: 'grid', x1: x, x2: x, y1: MARGIN.top, y2: bottom }));
    if (power % 3 === 1) svg.append(svgText(tokens(2 ** power), x, bottom + 20, 'middle'));
  }
  for (let power = 0; power <= 12; power += 2) {
    const y = yOf(2 ** power);
    svg.append(svgNode('line', { class: 'grid', x1: left, x2: right, y1: y, y2: y }));
    svg.append(svgText(String(2 ** power), left - 8, y + 4, 'end'));
  }
  svg.append(svgText('tokens in the cache', (left + right) / 2, HEIGHT - 8, 'middle'));
  svg.append(svgText('FLOPs for each byte', left, MARGIN.top - 10, 'start'));

  const ridge = ridgePoint(device);
  const y = yOf(ridge);
  svg.append(svgNode('line', { class: 'ridge', x1: left, x2: right, y1: y, y2: y }));
  svg.append(svgText(`device: ${ridge.toFixed(0)}`, left + 6, y - 7, 'start'));
  for (const form of ['mha', 'gqa'] as const) {
    const intensity = (length: number) => {
      const { flops, bytes } = rooflineCost(layers[form], device, length);
      return flops / bytes;
    };
    const lengths = Array.from({ length: 131 }, (_, i) => 2 ** (7 + i / 10));
    const shown = lengths.filter((length) => intensity(length) <= INTENSITIES[1]);
    const points = shown.map((length) => `${xOf(length).toFixed(1)},${yOf(intensity(length)).toFixed(1)}`);
    svg.append(svgNode('polyline', { class: form, points: points.join(' ') }));
    const crossing = hiddenTokens(layers[form], device);
    if (crossing < LENGTHS[0] || crossing > LENGTHS[1]) continue;
    svg.append(svgNode('circle', { class: `${form}-point`, cx: xOf(crossing), cy: y, r: 6 }));
    svg.append(svgText(tokens(crossing), xOf(crossing) + 10, y + 20, 'start'));
  }
  return svg;
}

/** A logarithmic axis. */
function scale(value: number, [low, high]: readonly [number, number], from: number, to: number): number {
  const part = Math.log(Math.min(high, Math.max(low, value)) / low) / Math.log(high / low);
  return from + part * (to - from);
}

/** `40.6K`. */
function tokens(count: number): string {
  if (count < 1000) return String(Math.round(count));
  if (count >= 2 ** 20) return `${count / 2 ** 20}M`;
  // Powers of two are called by their binary thousands.
  const binary = Number.isInteger(Math.log2(count));
  return binary ? `${count / 1024}K` : `${(count / 1000).toFixed(1)}K`;
}
