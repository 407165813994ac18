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

/** Steps of the colours of values. */
const COLOURS = 511;

/** A picture with its caption. */
export interface MapOptions {
  readonly rows: number;
  readonly columns: number;
  readonly title: string;
  readonly caption: string;
}

/** Values around zero; those beyond `limit` have the colour of `limit`. */
export function valueMap(values: Float32Array, limit: number, options: MapOptions): HTMLElement {
  const colours = table(DIVERGING, COLOURS);
  const half = (COLOURS - 1) / 2;
  return figure(options, (i) => {
    const step = Math.round(half + (half * values[i]) / (limit || 1));
    return colours[Math.min(COLOURS - 1, Math.max(0, step))];
  });
}

/** Codes from 0 to `largest`. */
export function codeMap(codes: Uint8Array, largest: number, options: MapOptions): HTMLElement {
  const colours = table(SEQUENTIAL, largest + 1);
  return figure(options, (i) => colours[codes[i]]);
}

/** The magnitude below which 99.5 % of the values lie: outliers should not turn everything else to grey. */
export function usualMagnitude(values: Float32Array): number {
  const step = Math.max(1, Math.floor(values.length / 20000));
  const sample = new Float32Array(Math.ceil(values.length / step));
  for (let i = 0; i < sample.length; i++) sample[i] = Math.abs(values[i * step]);
  sample.sort();
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
  colourOf: (index: number) => number,
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
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i++) pixels[i] = colourOf(i);
    context.putImageData(image, 0, 0);
  }
  return make('figure', {}, make('h3', {}, title), canvas, make('figcaption', {}, caption));
}

/** Pixels from the first stop to the last, in even steps: computed once, because a picture has 32,768 of them. */
function table(stops: readonly Rgb[], count: number): Uint32Array {
  const bytes = new Uint8ClampedArray(4 * count);
  for (let i = 0; i < count; i++) {
    const place = (i / Math.max(1, count - 1)) * (stops.length - 1);
    const below = Math.min(Math.floor(place), stops.length - 2);
    const part = place - below;
    const rgb = stops[below].map((from, channel) => from * (1 - part) + stops[below + 1][channel] * part);
    bytes.set([...rgb, 255], 4 * i);
  }
  return new Uint32Array(bytes.buffer);
}
