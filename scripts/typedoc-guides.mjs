/**
 * A TypeDoc plugin that makes one site of guides and API:
 *
 *   - a guide is named by its first heading, so that the Markdown files need no front matter
 *   - in a guide, the name of an export in backticks (`quantizeGroup`, `generate()`) leads to its page
 *   - every page has the doors in its toolbar; links there are relative, so that the site can lie anywhere
 */

import { Converter, PageEvent, ReflectionKind, Renderer } from 'typedoc';

/** The toolbar: text, and page relative to the site. */
const DOORS = [
  ['The algorithm', 'documents/algorithm.html'],
  ['Check a kernel', 'documents/cross-check.html'],
  ['Run a model', 'documents/run-a-model.html'],
  ['API', 'modules.html'],
  ['Explorer', 'explorer/index.html'],
];

const MARKER = '<div id="tsd-toolbar-links">';

/** @param {import('typedoc').Application} app */
export function load(app) {
  app.converter.on(Converter.EVENT_RESOLVE_END, ({ project }) => {
    const exports = exportsOf(project);
    for (const guide of project.documents ?? []) guide.content = withLinks(guide.content, exports);
    if (project.readme) project.readme = withLinks(project.readme, exports);
  });
  // Addresses have been given by then: they come from the names of the files, which change less often.
  app.renderer.on(Renderer.EVENT_BEGIN, ({ project }) => {
    for (const guide of project.documents ?? []) guide.name = headingOf(guide);
  });
  app.renderer.on(PageEvent.END, (page) => {
    if (!page.contents?.includes('<html')) return;
    const [, base] = /<html[^>]* data-base="([^"]*)"/.exec(page.contents) ?? [];
    if (base === undefined || !page.contents.includes(MARKER)) {
      throw new Error(`${page.url}: the pages of TypeDoc look different now`);
    }
    const links = DOORS.map(([text, target]) => {
      const current = page.url === target ? ' aria-current="page"' : '';
      return `<a href="${base}${target}"${current}>${text}</a>`;
    });
    page.contents = page.contents.replace(MARKER, `${MARKER}<nav aria-label="Site">${links.join('')}</nav>`);
  });
}

/** Exports by name; what several entries export is found under the first. */
function exportsOf(project) {
  const exports = new Map();
  const modules = project.getChildrenByKind(ReflectionKind.Module);
  for (const { children = [] } of modules) {
    for (const child of children) {
      if (!child.kindOf(ReflectionKind.Reference) && !exports.has(child.name)) exports.set(child.name, child);
    }
  }
  return exports;
}

/** Turns code that is nothing but the name of an export into a link. */
function withLinks(parts, exports) {
  return parts.map((part) => {
    const [, name, call] = (part.kind === 'code' && /^`([A-Za-z]\w*)(\(\))?`$/.exec(part.text)) || [];
    // A word in lower case may be meant as a word: `generate` is a command, `generate()` the function.
    const target = name && (call || /[A-Z]/.test(name)) ? exports.get(name) : undefined;
    return target ? { kind: 'inline-tag', tag: '@linkcode', text: name + (call ?? ''), target } : part;
  });
}

function headingOf(guide) {
  const [, heading] = /^\s*# (.+)$/m.exec(guide.content[0]?.text ?? '') ?? [];
  if (!heading) throw new Error(`${guide.name}.md does not start with a heading`);
  return heading.trim();
}
