/**
 * A TypeDoc plugin that makes one site of guides and API:
 *
 *   - a guide is named by its first heading, so that the Markdown files need no front matter
 *   - in guides and comments, the name of an export in backticks (`quantizeGroup`, `generate()`) leads to its page
 *   - the errors of a function are one list, with their classes
 *   - every page has the doors in its toolbar; links there are relative, so that the site can lie anywhere
 *   - so do the names of source files, to pages that show them (source-pages.mjs)
 *   - figures of docs/figures become part of their page, so that they follow its switch of light and dark
 *   - pages can be used without seeing or pointing: a main landmark, no link inside a button, headings in order
 */

import { existsSync, readFileSync } from 'node:fs';
import { Converter, PageEvent, ReflectionKind, Renderer } from 'typedoc';
import { SourcePages } from './source-pages.mjs';

/** The toolbar: text, and page relative to the site. */
const DOORS = [
  ['The algorithm', 'documents/algorithm.html'],
  ['Check a kernel', 'documents/cross-check.html'],
  ['Run a model', 'documents/run-a-model.html'],
  ['API', 'modules.html'],
  ['Explorer', 'explorer/index.html'],
];

/** How much more a guide counts in the search than the member of a class that has the same words. */
const GUIDE_BOOST = 60;

/** @param {import('typedoc').Application} app */
export function load(app) {
  app.converter.on(Converter.EVENT_RESOLVE_END, ({ project }) => {
    const exports = exportsOf(project);
    for (const guide of project.documents ?? []) guide.content = withLinks(guide.content, exports);
    if (project.readme) project.readme = withLinks(project.readme, exports);
    for (const reflection of Object.values(project.reflections)) {
      if (reflection.comment) finishComment(reflection, exports);
    }
  });
  // Addresses have been given by then: they come from the names of the files, which change less often.
  app.renderer.on(Renderer.EVENT_BEGIN, ({ project }) => {
    for (const guide of project.documents ?? []) {
      guide.name = headingOf(guide);
      guide.relevanceBoost = GUIDE_BOOST;
    }
    const { theme } = app.renderer;
    const getNavigation = theme.getNavigation.bind(theme);
    theme.getNavigation = (each) => getNavigation(each).map(withoutLinkInButton);
  });
  const sources = new SourcePages();
  app.renderer.on(PageEvent.END, (page) => {
    if (page.contents?.includes('<html')) page.contents = finishPage(page.contents, page.url, sources);
  });
  app.renderer.on(Renderer.EVENT_END, ({ outputDirectory }) => sources.write(outputDirectory, DOORS));
}

/** What opens and closes a list in the navigation is a button; its page becomes the first entry of the list. */
function withoutLinkInButton(entry) {
  if (!entry.children) return entry;
  const { text, path, kind, children } = entry;
  return { text, children: [{ text: 'Overview', path, kind }, ...children] };
}

/** @throws {Error} if TypeDoc writes pages in another way than this expects */
function finishPage(html, url, sources) {
  const [, base] = /<html[^>]* data-base="([^"]*)"/.exec(html) ?? [];
  const links = DOORS.map(([text, target]) => {
    const current = url === target ? ' aria-current="page"' : '';
    return `<a href="${base}${target}"${current}>${text}</a>`;
  });
  const pieces = [
    [
      '<div id="tsd-toolbar-links">',
      `<div id="tsd-toolbar-links"><nav aria-label="Site">${links.join('')}</nav>`,
    ],
    ['<div class="col-content">', '<main class="col-content">'],
    [
      '</div>\n<div class="col-sidebar">',
      '</main>\n<div class="col-sidebar" role="complementary" aria-label="Contents">',
    ],
  ];
  // The explorer is no page of TypeDoc, so that Markdown cannot lead there by its file.
  let page = html.replaceAll('href="#explorer"', `href="${base}explorer/index.html"`);
  for (const [from, to] of pieces) {
    if (base === undefined || !page.includes(from))
      throw new Error(`${url}: the pages of TypeDoc look different now`);
    page = page.replace(from, to);
  }
  page = sources.link(withFigures(page), base);
  // A table that is wider than the screen scrolls, with the keyboard, too.
  page = page
    .replaceAll('<table>', '<div class="wide-table" role="group" aria-label="Table" tabindex="0"><table>')
    .replaceAll('</table>', '</table></div>');
  return withHeadingsInOrder(
    page.replace(/<summary[\s\S]*?<\/summary>/g, (summary) =>
      summary.replace(/<a [^>]*class="tsd-anchor-icon"[\s\S]*?<\/a>/g, ''),
    ),
  );
}

/** Takes the figures in, with the text that Markdown gives in their place as their title. */
function withFigures(html) {
  return html.replace(/<img src="[^"]*?([\w-]+\.svg)" alt="([^"]*)"[^>]*>/g, (image, name, alt) => {
    const file = new URL(`../docs/figures/${name}`, import.meta.url);
    if (!existsSync(file)) return image;
    const svg = readFileSync(file, 'utf8')
      .replace(/\s*<style>[\s\S]*?<\/style>/, '')
      .replace(/<title>[^<]*/, `<title>${alt}`)
      .trim();
    return svg;
  });
}

/** Tells those who hear a page its true levels, where the theme chose a heading by its size. */
function withHeadingsInOrder(html) {
  const open = [];
  return html.replace(/<h([1-6])(?=[\s>])/g, (tag, digit) => {
    while (open.length > 0 && open.at(-1) >= digit) open.pop();
    open.push(digit);
    return open.length === Number(digit) ? tag : `${tag} aria-level="${open.length}"`;
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

/** Links in a comment, and one list of errors in place of a heading for each. */
function finishComment(reflection, exports) {
  const { comment } = reflection;
  const others = new Map(exports);
  for (let own = reflection; own; own = own.parent) others.delete(own.name);
  comment.summary = withLinks(comment.summary, others);
  for (const tag of comment.blockTags) tag.content = withLinks(tag.content, others);
  const thrown = comment.blockTags.filter(({ tag }) => tag === '@throws');
  if (thrown.length === 0) return;
  const [list] = thrown;
  list.content = thrown.flatMap(({ typeAnnotation, content }) => [
    { kind: 'text', text: '- ' },
    ...classesOf(typeAnnotation, exports),
    ...content.map((part) => ({ ...part, text: part.text.replaceAll('\n', '\n  ') })),
    { kind: 'text', text: '\n' },
  ]);
  list.typeAnnotation = undefined;
  comment.blockTags = comment.blockTags.filter((tag) => tag === list || !thrown.includes(tag));
}

/** `{LoadError | FormatError}`, as code that leads to the classes. */
function classesOf(annotation, exports) {
  const names = (annotation ?? '').replace(/[{}]/g, '').split('|');
  const parts = names
    .map((name) => name.trim())
    .filter((name) => name !== '')
    .map((name) => ({ kind: 'code', text: `\`${name}\`` }));
  return withLinks(parts, exports).flatMap((part, i) => [
    part,
    { kind: 'text', text: i + 1 < parts.length ? ' or ' : ' ' },
  ]);
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
