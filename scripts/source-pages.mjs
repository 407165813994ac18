/**
 * Pages of the site that show the source files which guides name, so that a name in a guide leads to the code.
 */

import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** A file as guides name it: `ts/src/cache/xquant.ts`. */
const NAMED = /<code>((?:ts\/src|as|golden\/generate|scripts)\/[\w/.-]+\.(?:ts|mjs|py))<\/code>/g;

/** Collects the files that pages name. */
export class SourcePages {
  #files = new Set();

  /** Makes links of the names in a page. @param base the way to the root of the site */
  link(html, base) {
    return html.replace(NAMED, (code, file) => {
      if (!existsSync(join(root, file))) return code;
      this.#files.add(file);
      return `<a href="${base}source/${file}.html">${code}</a>`;
    });
  }

  /** Writes the pages. @param links of the toolbar, by text: paths relative to the root of the site */
  write(site, links) {
    for (const file of this.#files) {
      const target = join(site, 'source', `${file}.html`);
      mkdirSync(dirname(target), { recursive: true });
      writeFileSync(target, page(file, '../'.repeat(file.split('/').length), links));
    }
  }
}

function page(file, base, links) {
  const lines = readFileSync(join(root, file), 'utf8').trimEnd().split('\n');
  const code = lines.map((line, i) => `<span class="line" id="L${i + 1}">${escaped(line)}</span>`).join('\n');
  const doors = links.map(([text, path]) => `<a href="${base}${path}">${text}</a>`).join('');
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${file} | xquant</title>
<link rel="icon" href="${base}assets/favicon.svg">
<link rel="stylesheet" href="${base}assets/style.css"><link rel="stylesheet" href="${base}assets/custom.css">
<script src="${base}explorer/js/theme.js"></script>
</head>
<body>
<header class="tsd-page-toolbar"><div class="tsd-toolbar-contents container">
<a href="${base}index.html" class="title">xquant</a>
<div id="tsd-toolbar-links"><nav aria-label="Site">${doors}</nav></div>
</div></header>
<main class="container source"><h1>${file}</h1>
<pre tabindex="0" aria-label="${file}"><code>${code}</code></pre>
</main>
</body>
</html>
`;
}

function escaped(text) {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}
