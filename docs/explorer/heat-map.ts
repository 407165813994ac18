/**
 * Matrices as pictures: one pixel for each number.
 *
 * @module
 */

import { make } from './dom.js';

type Rgb = readonly [number, number, number];

/** Negative, zero, positive. Readable without telling red from green. */
const DIVERGING: readonly Rgb[] = [
  [33, 102, 172],
  [245, 243, 238],
  [178, 60, 24],
];

/** Lowest to highest code. */
const SEQUENTIAL: readonly Rgb[] = [
  [29, 18, 66],
  [124, 36, 118],
  [222, 95, 80],
  [250, 224, 150],
];

/** A picture with its caption. */
export interface MapOptions {
  readonly rows: number;
  readonly columns: number;
  readonly title: string;
  readonly caption: string;
}

/** Values around zero; those beyond `limit` have the colour of `limit`. */
export function valueMap(values: Float32Array, limit: number, options: MapOptions): HTMLElement {
  return figure(options, (i) => colour(DIVERGING, 0.5 + values[i] / (2 * limit || 1)));
}

/** Codes from 0 to `largest`. */
export function codeMap(codes: Uint8Array, largest: number, options: MapOptions): HTMLElement {
  return figure(options, (i) => colour(SEQUENTIAL, codes[i] / largest));
}

/** The magnitude below which 99.5 % of the values lie: outliers should not turn everything else to grey. */
export function usualMagnitude(values: Float32Array): number {
  const step = Math.max(1, Math.floor(values.length / 20000));
  const sample: number[] = [];
  for (let i = 0; i < values.length; i += step) sample.push(Math.abs(values[i]));
  sample.sort((a, b) => a - b);
  return sample[Math.floor(0.995 * (sample.length - 1))] || 1;
}

/** Root of the mean square. */
export function rootMeanSquare(values: Float32Array): number {
  let sum = 0;
  for (const value of values) sum += value * value;
  return Math.sqrt(sum / values.length);
}

function figure(
  { rows, columns, title, caption }: MapOptions,
  colourOf: (index: number) => Rgb,
): HTMLElement {
  const canvas = make('canvas', {
    width: String(columns),
    height: String(rows),
    role: 'img',
    'aria-label': `${title}. ${caption}`,
  });
  const context = canvas.getContext('2d');
  if (context) {
    const image = context.createImageData(columns, rows);
    for (let i = 0; i < rows * columns; i++) {
      const [red, green, blue] = colourOf(i);
      image.data.set([red, green, blue, 255], 4 * i);
    }
    context.putImageData(image, 0, 0);
  }
  return make('figure', {}, make('h3', {}, title), canvas, make('figcaption', {}, caption));
}

function colour(stops: readonly Rgb[], at: number): Rgb {
  const place = Math.min(1, Math.max(0, at)) * (stops.length - 1);
  const below = Math.min(Math.floor(place), stops.length - 2);
  const part = place - below;
  const mix = (channel: 0 | 1 | 2) =>
    Math.round(stops[below][channel] * (1 - part) + stops[below + 1][channel] * part);
  return [mix(0), mix(1), mix(2)];
}
