/**
 * Formulas in the guides: `$...$` in a line, `$$...$$` in a paragraph of its own, as GitHub shows them. Temml makes MathML of
 * them when the site is built, which browsers set by themselves: no script, no fonts.
 */

import temml from 'temml';

/** A plugin of markdown-it. */
export function math(parser) {
  parser.inline.ruler.after('escape', 'math', (state, silent) => {
    const found = formulaAt(state.src, state.pos);
    if (!found) return false;
    if (!silent) {
      const token = state.push('math', 'math', 0);
      token.content = found.tex;
      token.meta = { displayMode: found.displayMode };
    }
    state.pos = found.end;
    return true;
  });
  parser.renderer.rules.math = (tokens, i) => {
    const { content, meta } = tokens[i];
    const markup = temml.renderToString(content, { ...meta, throwOnError: true, annotate: false });
    // A formula that is wider than the screen scrolls, with the keyboard, too.
    return meta.displayMode
      ? `<span class="formula" role="group" aria-label="Formula" tabindex="0">${markup}</span>`
      : markup;
  };
}

/** A formula that begins here; a dollar with a space after it, or before the one that would close it, is a dollar. */
function formulaAt(source, at) {
  const rest = source.slice(at);
  const [whole, tex] =
    /^\$\$(.+?)\$\$/s.exec(rest) ?? /^\$(?=[^\s$])([^$\n]*?[^\s$\\])\$(?!\d)/.exec(rest) ?? [];
  return tex && { tex: tex.trim(), end: at + whole.length, displayMode: whole.startsWith('$$') };
}
