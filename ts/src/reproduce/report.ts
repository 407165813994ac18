/**
 * The report: one HTML page with everything in it, readable in light and dark and without a script.
 *
 * @module
 */

import type { Figure } from './figure.js';
import type { Reproduction } from './results.js';
import { claimsTable, type ReportTable, reportTables, skippedTable } from './tables.js';

/** A figure that is drawn. */
export interface DrawnFigure extends Omit<Figure, 'spec'> {
  /** An `<svg>` element. */
  readonly svg: string;
}

/**
 * Writes the page.
 *
 * @returns HTML
 */
export function reportHtml(results: Reproduction, figures: readonly DrawnFigure[]): string {
  const { model, text, windows, windowSize, baseline, run, engine, command, version } = results;
  const tables = reportTables(results);
  const skipped = skippedTable(results);
  const all = [claimsTable(results), ...tables, ...(skipped.rows.length > 0 ? [skipped] : [])];
  const title = `XQuant on ${model.name}`;
  const config = model.config;
  const facts: [string, string][] = [
    [
      'Model',
      `${model.name}: ${(model.parameters / 1e6).toFixed(1)} M parameters (${model.weights}), ` +
        `${config.numHiddenLayers} layers, hidden size ${config.hiddenSize}, ${config.numAttentionHeads} query ` +
        `and ${config.numKeyValueHeads} KV heads of ${config.headDim}`,
    ],
    [
      'Text',
      `${text.name}: ${windows} ${windows === 1 ? 'window' : 'windows'} of ${windowSize} tokens, teacher forcing`,
    ],
    [
      'f16 KV cache',
      `perplexity ${baseline.perplexity.toFixed(3)}${baseline.stdErr === null ? '' : ` ± ${baseline.stdErr.toFixed(3)}`}`,
    ],
    ['Command', command],
    [
      'Run',
      `${run.date.slice(0, 10)}, ${run.machine}, ${run.threads} ${run.threads === 1 ? 'thread' : 'threads'}, xquant ${version}, ${engine}`,
    ],
  ];
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${escapeHtml(title)}</title>
<link rel="icon" href="data:,">
<style>${STYLE}</style>
</head>
<body>
<header>
<h1>${escapeHtml(title)}</h1>
<p>Caches of <a href="https://arxiv.org/abs/2508.10395">arXiv 2508.10395</a> on one model. Losses are paired: every
cache reads the same windows as the f16 KV cache, and what is given is the mean difference over windows with its
standard error. Sizes are counted bytes, scales and minima included.</p>
<dl>${facts.map(([name, value]) => `<dt>${name}</dt><dd>${escapeHtml(value)}</dd>`).join('')}</dl>
<nav aria-label="Contents"><ul>
${[...all, ...figures].map(({ id, title: name }) => `<li><a href="#${id}">${escapeHtml(name)}</a></li>`).join('\n')}
</ul></nav>
</header>
<main>
${tableHtml(all[0])}
${figures.slice(0, 1).map(figureHtml).join('\n')}
${all.slice(1).map(tableHtml).join('\n')}
${figures.slice(1).map(figureHtml).join('\n')}
</main>
</body>
</html>
`;
}

function tableHtml({ id, title, note, head, rows }: ReportTable): string {
  const verdicts = ['holds', 'fails', 'unclear', 'untested'];
  const cell = (text: string, column: number) => {
    if (column === 0) return `<th scope="row">${escapeHtml(text)}</th>`;
    const kind = verdicts.includes(text) ? ` class="verdict ${text}"` : '';
    return `<td${kind}>${escapeHtml(text)}</td>`;
  };
  const isProse = id === 'claims' || id === 'skipped';
  return `<section id="${id}">
<h2>${escapeHtml(title)}</h2>
<p>${escapeHtml(note)}.</p>
<div class="scroll" tabindex="0" role="region" aria-label="${escapeHtml(title)}">
<table${isProse ? ' class="prose"' : ''}>
<thead><tr>${head.map((each) => `<th scope="col">${escapeHtml(each)}</th>`).join('')}</tr></thead>
<tbody>
${rows.map((cells) => `<tr>${cells.map(cell).join('')}</tr>`).join('\n')}
</tbody>
</table>
</div>
</section>`;
}

function figureHtml({ id, title, caption, svg }: DrawnFigure): string {
  return `<section id="${id}">
<h2>${escapeHtml(title)}</h2>
<figure>
<div class="scroll" tabindex="0" role="region" aria-label="${escapeHtml(title)}">${svg}</div>
<figcaption>${escapeHtml(caption)}</figcaption>
</figure>
</section>`;
}

function escapeHtml(text: string): string {
  return text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/"/g, '&quot;');
}

const STYLE = `
:root{color-scheme:light dark;--text:#1c2026;--soft:#59616e;--page:#fff;--line:#d9dde3;--band:#f4f6f8;--link:#1f5fd0;
--holds:#0b7a4b;--fails:#b42332;--unclear:#8a5a00}
@media(prefers-color-scheme:dark){:root{--text:#dfe3ea;--soft:#a2abb9;--page:#14171c;--line:#333a45;--band:#1c2129;
--link:#8ab4ff;--holds:#4cc38a;--fails:#ff8f98;--unclear:#e2b25c}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:84rem;padding:2rem 1.25rem 4rem;background:var(--page);color:var(--text);
font:1rem/1.55 system-ui,sans-serif}
h1{font-size:1.9rem;margin:0 0 .5rem}h2{font-size:1.25rem;margin:0 0 .25rem}
section{margin-top:2.75rem}p{max-width:48rem;margin:.25rem 0 .75rem;color:var(--soft)}
a{color:var(--link)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:1rem 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
nav ul{columns:20rem;font-size:.92rem;padding-left:1.1rem;margin:1rem 0 0}
.scroll{overflow-x:auto}
.scroll:focus-visible{outline:2px solid var(--link);outline-offset:2px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.85rem}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
thead th{border-bottom-width:2px;font-weight:600;vertical-align:bottom;white-space:normal}
tbody th{font-weight:400}
th:first-child,.prose th,.prose td{text-align:left}
.prose td:last-child{white-space:normal;min-width:20rem}
tbody tr:nth-child(even){background:var(--band)}
.verdict{font-weight:600}.holds{color:var(--holds)}.fails{color:var(--fails)}.unclear,.untested{color:var(--unclear)}
figure{margin:.5rem 0 0}figcaption{max-width:48rem;color:var(--soft);font-size:.92rem;margin-top:.5rem}
svg{display:block;color:var(--text);height:auto}
`;
