/**
 * Results as Markdown, for `docs/results.md`.
 *
 * @module
 */

import type { Reproduction } from './results.js';
import { claimsTable, type ReportTable, reportTables, skippedTable } from './tables.js';

/** Tables of Markdown that say the same for every model. */
const NOT_BY_MODEL = ['hidden-lengths'];

/**
 * The results of one model as a section, with the command, the machine and the date.
 *
 * @param circumstances of the run, where they are not those of this program
 */
export function resultsMarkdown(results: Reproduction, circumstances = circumstancesOf(results)): string {
  const { model, text, windows, windowSize, baseline, command } = results;
  const { config } = model;
  const perplexity =
    baseline.stdErr === null
      ? baseline.perplexity.toFixed(3)
      : `${baseline.perplexity.toFixed(3)} ± ${baseline.stdErr.toFixed(3)}`;
  const tables = [claimsTable(results), ...reportTables(results), skippedTable(results)]
    .filter(({ id, rows }) => rows.length > 0 && !NOT_BY_MODEL.includes(id))
    .map(tableMarkdown);
  return [
    `## ${model.name} on ${text.name}, plan ${results.plan}`,
    '',
    '```sh',
    command,
    '```',
    '',
    `${windows} ${windows === 1 ? 'window' : 'windows'} of ${windowSize} tokens; f16 KV: perplexity ${perplexity}. ` +
      `${(model.parameters / 1e6).toFixed(1)} M parameters (${model.weights}), ${config.numHiddenLayers} layers, ` +
      `hidden size ${config.hiddenSize}, ${config.numAttentionHeads} query heads and ${config.numKeyValueHeads} ` +
      `KV heads of ${config.headDim}.`,
    '',
    `${circumstances}.`,
    '',
    ...tables,
  ].join('\n');
}

function circumstancesOf({ run, version, engine }: Reproduction): string {
  const threads = `${run.threads} ${run.threads === 1 ? 'thread' : 'threads'}`;
  return `${run.date.slice(0, 10)}; ${run.machine}; ${threads}; xquant ${version}, ${engine}`;
}

/** A table with its title and note. */
function tableMarkdown({ title, note, head, rows }: ReportTable): string {
  const escapeCell = (cell: string) => cell.replace(/([|*])/g, '\\$1');
  const line = (cells: readonly string[]) => `| ${cells.map(escapeCell).join(' | ')} |`;
  return [
    `### ${title}`,
    '',
    `${escapeCell(note)}.`,
    '',
    line(head),
    `| --- |${' ---: |'.repeat(head.length - 1)}`,
    ...rows.map(line),
    '',
  ].join('\n');
}
