/**
 * What the figures of the documentation are drawn with: boxes, arrows and texts of one look, in colours for light and dark.
 * Each figure is a whole SVG, so that it shows in a plain Markdown viewer; the site takes its body in, and gives it its own
 * colours (docs/theme/site.css), which follow the switch of the page.
 */

/** Classes of a figure, and their colours: light, dark. docs/theme/site.css has the same for the site. */
const STYLE = `
    text { font: 13px system-ui, sans-serif; fill: #1d2026 }
    .small { font-size: 11.5px } .bold { font-weight: 600 } .code { font-family: ui-monospace, monospace; font-size: 12px }
    .muted { fill: #5b616c } .box { fill: #f2f3f5; stroke: #8a8f99 } .store { fill: #dcebf5; stroke: #0b6aa2 }
    .sum { fill: #f6e3f0; stroke: #b0388a } .line { fill: none; stroke: #5b616c; stroke-width: 1.4 } .head { fill: #5b616c }
    .cache { fill: #0b6aa2 } .accumulator { fill: #b0388a } .plan { fill: #8a8f99 } .dot { fill: #0b6aa2 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6e4df }
      .muted { fill: #a5abb6 } .box { fill: #2a2e35; stroke: #737a86 } .store { fill: #17364a; stroke: #4fa8dc }
      .sum { fill: #45233b; stroke: #ea86c6 } .line { stroke: #a5abb6 } .head { fill: #a5abb6 }
      .cache { fill: #4fa8dc } .accumulator { fill: #ea86c6 } .plan { fill: #737a86 } .dot { fill: #4fa8dc }
    }
  `;

/** A whole figure. @param title read aloud in its place */
export function figure(width, height, title, ...parts) {
  return `<svg xmlns="http://www.w3.org/2000/svg" class="figure" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">
  <title>${escaped(title)}</title>
  <style>${STYLE}</style>
  ${parts.flat(Number.POSITIVE_INFINITY).join('\n  ')}
</svg>
`;
}

/** A line of text; `at` is start, middle or end. */
export function text(x, y, content, { at = 'middle', style = '' } = {}) {
  return `<text x="${x}" y="${y}" text-anchor="${at}"${style && ` class="${style}"`}>${escaped(content)}</text>`;
}

/** A box with lines of text in its middle. */
export function box(x, y, width, height, lines, { style = 'box', texts = '' } = {}) {
  const all = [lines].flat();
  const first = y + height / 2 + 4.5 - 8 * (all.length - 1);
  return [
    `<rect class="${style}" x="${x}" y="${y}" width="${width}" height="${height}" rx="4"/>`,
    all.map((line, i) =>
      text(x + width / 2, first + 16 * i, line, { style: texts || (i > 0 ? 'small muted' : '') }),
    ),
  ];
}

/** A line through points, with a head at its end. */
export function arrow(...points) {
  const [[fromX, fromY], [x, y]] = points.slice(-2);
  const [dx, dy] = [Math.sign(x - fromX), Math.sign(y - fromY)];
  const path = [...points.slice(0, -1), [x - 6 * dx, y - 6 * dy]];
  const side = (sign) => `${x - 8 * dx + sign * 4 * dy},${y - 8 * dy + sign * 4 * dx}`;
  return `${line(...path)}<polygon class="head" points="${x},${y} ${side(1)} ${side(-1)}"/>`;
}

/** A line through points. */
export function line(...points) {
  return `<polyline class="line" points="${points.map((point) => point.join(',')).join(' ')}"/>`;
}

function escaped(content) {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}
