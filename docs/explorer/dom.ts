/**
 * The little that is needed instead of a framework.
 *
 * @module
 */

/**
 * The element with an id.
 *
 * @throws {Error} if the page has none of that kind
 */
export function byId<T extends HTMLElement>(id: string, kind: new () => T): T {
  const element = document.getElementById(id);
  if (!(element instanceof kind)) throw new Error(`the page has no ${kind.name} "${id}"`);
  return element;
}

/** Makes an element. Strings become text, never markup. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Readonly<Record<string, string>> = {},
  ...children: readonly (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    // As an attribute it would be an inline style, which a strict security policy forbids.
    if (name === 'style') element.style.cssText = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Makes an element of a drawing. */
export function svgNode(tag: string, attributes: Readonly<Record<string, string | number>>): SVGElement {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  return element;
}

/** Makes a line of text in a drawing. */
export function svgText(text: string, x: number, y: number, anchor: string): SVGElement {
  const element = svgNode('text', { x, y, 'text-anchor': anchor });
  element.textContent = text;
  return element;
}

/** `1.23 MB`, with decimal prefixes. */
export function formatBytes(bytes: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${units[unit]}`;
}

/** How many times smaller, or larger, than something else. */
export function formatTimes(smaller: number): string {
  if (smaller.toFixed(1) === '1.0') return 'as large';
  return smaller >= 1 ? `${smaller.toFixed(1)} times smaller` : `${(1 / smaller).toFixed(1)} times larger`;
}

/** `2,281`, or in thousands from 10,000 on. */
export function formatCount(count: number): string {
  return Math.round(count).toLocaleString('en');
}

/** A table with a heading for each row, in a region that scrolls. */
export function table(
  caption: string,
  heads: readonly string[],
  rows: readonly (readonly (Node | string)[])[],
): HTMLElement {
  const head = make('tr', {}, ...heads.map((text) => make('th', { scope: 'col' }, text)));
  const body = rows.map(([first, ...rest]) =>
    make(
      'tr',
      {},
      make('th', { scope: 'row' }, first),
      ...rest.map((cell) => make('td', typeof cell === 'string' ? {} : { class: 'wide-cell' }, cell)),
    ),
  );
  const content = make(
    'table',
    {},
    make('caption', {}, caption),
    make('thead', {}, head),
    make('tbody', {}, ...body),
  );
  // Wider than a phone: it scrolls by itself, and by keyboard.
  return make('div', { class: 'scroll', role: 'region', tabindex: '0', 'aria-label': caption }, content);
}
