/**
 * From Vega-Lite specifications to SVG, without a browser. `vega` and `vega-lite` are optional dependencies of the
 * package: only this file loads them.
 *
 * @module
 */

import { LoadError } from '../errors.js';
import type { VegaLiteSpec } from './figure.js';

/** Draws a specification as an `<svg>` element. */
export type Draw = (spec: VegaLiteSpec, id: string) => Promise<string>;

/**
 * Loads the libraries.
 *
 * @throws {LoadError} if they are not installed; says how to
 */
export async function loadDrawing(): Promise<Draw> {
  let libraries: [typeof import('vega'), typeof import('vega-lite')];
  try {
    libraries = await Promise.all([import('vega'), import('vega-lite')]);
  } catch (cause) {
    const reason = 'draw the figures and are not installed: npm install vega vega-lite';
    throw new LoadError('vega, vega-lite', reason, { cause });
  }
  const [vega, vegaLite] = libraries;
  return async (spec, id) => {
    const { spec: compiled } = vegaLite.compile(spec as unknown as Parameters<typeof vegaLite.compile>[0]);
    const view = new vega.View(vega.parse(compiled), { renderer: 'none', logLevel: vega.Error });
    try {
      return uniqueIds(await view.toSVG(), id);
    } finally {
      view.finalize();
    }
  };
}

/** A drawing as a file of its own, readable in light and dark. */
export function standaloneSvg(svg: string): string {
  const style =
    '<style>svg{color:#1c2026;background:#fff}' +
    '@media(prefers-color-scheme:dark){svg{color:#dfe3ea;background:#14171c}}</style>';
  return `<?xml version="1.0" encoding="UTF-8"?>\n${svg.replace(/<svg[^>]*>/, (tag) => `${tag}${style}`)}\n`;
}

/** Several drawings on one page must not share the names of clip paths and gradients. */
function uniqueIds(svg: string, prefix: string): string {
  return svg
    .replace(/ id="([^"]+)"/g, ` id="${prefix}-$1"`)
    .replace(/url\(#([^)]+)\)/g, `url(#${prefix}-$1)`)
    .replace(/(href)="#([^"]+)"/g, `$1="#${prefix}-$2"`);
}
