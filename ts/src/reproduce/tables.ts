/**
 * The tables of a report, as text: the same for the HTML page and for Markdown.
 *
 * @module
 */

import type { TableName } from './plans.js';
import {
  PUBLISHED_OUTLIER_PREDICTION,
  type PublishedPerplexity,
  type PublishedTable,
  publishedFor,
} from './published.js';
import type { ReproducedCache, Reproduction } from './results.js';
import type { Estimate } from './statistics.js';

/** A table whose first column names the rows. */
export interface ReportTable {
  readonly id: string;
  readonly title: string;
  /** What it shows and how to read it. */
  readonly note: string;
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

/** A number with its standard error. */
function formatEstimate({ mean, stdErr }: Estimate, digits: number, factor = 1): string {
  const value = (factor * mean).toFixed(digits);
  const sign = mean >= 0 ? '+' : '';
  return stdErr === null ? `${sign}${value}` : `${sign}${value} ± ${(factor * stdErr).toFixed(digits)}`;
}

/** All tables that the results have something for, in the order of the report. */
export function reportTables(results: Reproduction): ReportTable[] {
  const tables = [
    comparison(
      results,
      'plain',
      'table-1',
      'Table 1: caches with the same bits in every layer',
      'KIVI*, KVQuant and XQuant as in the paper',
    ),
    comparison(
      results,
      'firstLayers',
      'table-4',
      'Table 4: the first three layers at 4 bits, and XQuant-CL',
      'XQuant-CL stores its first three layers at 4 bits; so do the others here, except KVQuant',
    ),
    comparison(
      results,
      'outlierChannel',
      'table-b1',
      'Table B.1: the outlier channel of X Uk in f16',
      'All outliers of X Uk gather in its first channel, which is kept in f16 in the last row',
    ),
    outlierPrediction(results),
    comparison(
      results,
      'ladder',
      'ladder',
      'From the encoder of the paper to the tuned one',
      'Step by step at 2 bits; what is stored is the same kind of thing in every row',
    ),
    comparison(
      results,
      'tuned',
      'tuned',
      'Beyond the paper',
      'The tuned encoder, at several bit widths, against what it improves on',
    ),
    comparison(
      results,
      'calibrated',
      'calibrated',
      'Calibrated caches, and what else users have',
      'Bits of a calibrated cache are those of keys and values on average, with everything that is stored',
    ),
    hiddenLengths(results),
  ];
  return tables.filter(({ rows }) => rows.length > 0);
}

/** Planned caches without a result. */
export function skippedTable({ skipped }: Reproduction): ReportTable {
  return {
    id: 'skipped',
    title: 'Not run',
    note: 'Caches of the plan that this model cannot have',
    head: ['cache', 'why'],
    rows: skipped.map(({ cache, reason }) => [cache, reason]),
  };
}

/** Claims with their verdicts. */
export function claimsTable({ claims }: Reproduction): ReportTable {
  return {
    id: 'claims',
    title: 'What holds on this model',
    note:
      '“holds” and “fails”: by more than two standard errors of the paired difference, and the memory is as said; ' +
      '“unclear”: within them. Negative differences are in favour of the first cache',
    head: ['claim', 'verdict', 'measured'],
    rows: claims.map(({ text, verdict, evidence }) => [text, verdict, evidence]),
  };
}

/** Tables of the paper, whose columns are beside ours. */
const OF_PAPER: readonly TableName[] = ['plain', 'firstLayers', 'outlierChannel'];

/** Columns of every comparison; the last one only where the paper's do not need the room. */
const HEAD = ['cache', 'of f16 KV', 'smaller', 'in all', 'perplexity', 'loss, nats/token', 'perplexity +%'];

/** What the column "in all" says. */
function inAll({ caches }: Reproduction): string {
  const tokens = caches[0]?.totals.tokens;
  return (
    `“in all”: how much smaller cache, accumulator and plan are together, for one sequence of ${tokens} tokens; the ` +
    'plan serves all sequences'
  );
}

/** Sizes and losses of a cache, in the order of the head of a comparison. */
export function cacheCells(row: ReproducedCache): string[] {
  return [
    row.label,
    row.size.toFixed(4),
    `${row.compression.toFixed(2)}x`,
    `${row.totals.smaller.toFixed(2)}x`,
    row.perplexity.toFixed(3),
    formatEstimate(row.loss, 4),
    formatEstimate(row.relativePerplexity, 2, 100),
  ];
}

function comparison(
  results: Reproduction,
  name: TableName,
  id: string,
  title: string,
  note: string,
): ReportTable {
  const { caches, baseline, model } = results;
  const rows = caches.filter(({ tables }) => tables.includes(name));
  const error = baseline.stdErr === null ? '' : ` ± ${baseline.stdErr.toFixed(3)}`;
  const first = ['f16 KV', '1.0000', '1.00x', '1.00x', `${baseline.perplexity.toFixed(3)}${error}`, '0', '0'];
  const divergence = (row: ReproducedCache) => row.klDivergence.mean.toFixed(4);
  if (rows.length === 0) return { id, title, note, head: HEAD, rows: [] };
  if (!OF_PAPER.includes(name)) {
    const body = rows.map((row) => [...cacheCells(row), divergence(row)]);
    return {
      id,
      title,
      note: `${note}. ${inAll(results)}`,
      head: [...HEAD, 'KL'],
      rows: [[...first, '0'], ...body],
    };
  }
  const published = publishedFor(model.config);
  return {
    id,
    title,
    note: `${note}. ${inAll(results)}. In the columns of the paper: perplexity on WikiText-2 / C4, and by how much the first is above f16`,
    head: [...HEAD, 'paper: of f16 KV', ...published.models.map((each) => `paper: ${each}`)],
    rows: [
      [...first, ...publishedBaseline(published)],
      ...rows.map((row) => [...cacheCells(row), ...publishedCells(published, row.cache)]),
    ],
  };
}

function publishedBaseline({ baselines }: PublishedTable): string[] {
  return ['1.00', ...baselines.map((each) => `${each.wikitext2.toFixed(2)} / ${each.c4.toFixed(2)}`)];
}

function publishedCells({ rows, baselines }: PublishedTable, cache: string): string[] {
  const found = rows[cache];
  if (!found) return ['', '', ''];
  const cell = ({ wikitext2, c4 }: PublishedPerplexity, i: number) => {
    const percent = 100 * (wikitext2 / baselines[i].wikitext2 - 1);
    return `${wikitext2.toFixed(2)} / ${c4.toFixed(2)} (+${percent.toFixed(1)} %)`;
  };
  return [found.size.toFixed(2), ...found.perplexities.map(cell)];
}

function outlierPrediction({ analysis }: Reproduction): ReportTable {
  const { model, layers } = PUBLISHED_OUTLIER_PREDICTION;
  return {
    id: 'table-b2',
    title: 'Table B.2: the outlier channel of the keys, predicted from the weights',
    note:
      'In how many layers the channel of the keys with the largest mean magnitude is among the k largest entries ' +
      'of the first row of Bk^T',
    head: ['k', 'layers', `paper: ${model}`],
    rows: analysis.outlierPrediction.map(({ k, layers: own }) => [
      String(k),
      `${(100 * own).toFixed(0)} %`,
      layers[k] === undefined ? '' : `${(100 * layers[k]).toFixed(0)} %`,
    ]),
  };
}

function hiddenLengths({ systemModel: { hidden, devices } }: Reproduction): ReportTable {
  const format = (tokens: number | null) => {
    if (tokens === null) return 'always';
    return tokens < 1000 ? String(tokens) : `${(tokens / 1000).toFixed(1)}K`;
  };
  return {
    id: 'hidden-lengths',
    title: 'System model: tokens whose rematerialization hides behind memory traffic',
    note:
      'XQuant §3.4, decode, one sequence; the paper prints 2.3K for Llama-2-7B and 40.6K for Llama-3.1-8B, at 2 bits ' +
      `on its H100. ${devices.map(({ name, source }) => `${name}: ${source}`).join('; ')}`,
    head: ['layer', 'bits', ...devices.map(({ name }) => name)],
    rows: hidden.map(({ label, bits, tokens }) => [
      label,
      String(bits),
      ...devices.map(({ name }) => format(tokens[name])),
    ]),
  };
}
