/**
 * The importance of the channels of a layer in its learned basis, and the bits that each of them gets.
 *
 * @module
 */

import { svgNode, svgText } from './dom.js';
import type { Spectrum } from './protocol.js';

const [WIDTH, HEIGHT] = [640, 260];
const MARGIN = { left: 56, right: 12, top: 30, bottom: 44 };

/** Channels by the bits they have, most bits first: `3 with 8 bits, 40 with 4 bits, ...`. */
export function describeBits(bits: ArrayLike<number>): string {
  const counts = new Map<number, number>();
  for (const each of Array.from(bits)) counts.set(each, (counts.get(each) ?? 0) + 1);
  const parts = [...counts].sort(([a], [b]) => b - a);
  return parts
    .map(
      ([width, count]) => `${count} with ${width === 0 ? 'none' : `${width} bit${width === 1 ? '' : 's'}`}`,
    )
    .join(', ');
}

/** Draws the channels in order of importance, on a logarithmic axis; bars in the colour of their bits. */
export function drawSpectrum({ importance, bits }: Spectrum, description: string): SVGSVGElement {
  const order = Array.from(importance.keys()).sort((a, b) => importance[b] - importance[a]);
  const values = order.map((channel) => Math.max(importance[channel], Number.MIN_VALUE));
  const [high, low] = [Math.ceil(Math.log10(values[0])), Math.floor(Math.log10(values.at(-1) as number))];
  const svg = svgNode('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': description });
  const [left, right, bottom] = [MARGIN.left, WIDTH - MARGIN.right, HEIGHT - MARGIN.bottom];
  const y = (value: number) =>
    bottom - ((bottom - MARGIN.top) * (Math.log10(value) - low)) / Math.max(1, high - low);
  const step = Math.max(1, Math.ceil((high - low) / 5));
  for (let power = low; power <= high; power += step) {
    const at = y(10 ** power);
    svg.append(svgNode('line', { class: 'grid', x1: left, x2: right, y1: at, y2: at }));
    svg.append(svgText(`1e${power}`, left - 6, at + 4, 'end'));
  }
  const width = (right - left) / order.length;
  for (const [i, channel] of order.entries()) {
    const top = y(values[i]);
    svg.append(
      svgNode('rect', {
        class: `bits-${bits[channel]}`,
        x: (left + i * width).toFixed(2),
        y: top.toFixed(1),
        width: Math.max(width, 0.5).toFixed(2),
        height: Math.max(0, bottom - top).toFixed(1),
      }),
    );
  }
  svg.append(svgText('importance, nats', 4, 16, 'start'));
  svg.append(
    svgText(`${order.length} channels, the most important first`, (left + right) / 2, HEIGHT - 8, 'middle'),
  );
  const widths = [...new Set(Array.from(bits))].sort((a, b) => b - a);
  for (const [i, each] of widths.entries()) {
    const x = right - 66 * (widths.length - i);
    svg.append(svgNode('rect', { class: `bits-${each}`, x, y: 6, width: 12, height: 12 }));
    svg.append(svgText(each === 0 ? 'none' : `${each} bit${each === 1 ? '' : 's'}`, x + 17, 16, 'start'));
  }
  return svg as SVGSVGElement;
}
