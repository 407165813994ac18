/**
 * Writes docs/benchmarks.md from the measurements in docs/benchmarks/: every `bench-*.json` is a report of
 * `npm run bench -- --out`, every `peers-*.json` one of `npm run bench:peers -- --json`. The text around the tables is
 * docs/benchmarks/text.md, in which a line `{{bench}}` or `{{peers}}` stands for the tables. `--check` writes nothing
 * and fails if the page is not what it should be.
 */

import { readdirSync, readFileSync, writeFileSync } from 'node:fs';

const FOLDER = new URL('../docs/benchmarks/', import.meta.url);
const FILE = new URL('../docs/benchmarks.md', import.meta.url);

const reports = (prefix) =>
  readdirSync(FOLDER)
    .filter((name) => name.startsWith(prefix) && name.endsWith('.json'))
    .sort()
    .map((name) => JSON.parse(readFileSync(new URL(name, FOLDER), 'utf8')));

const megabytes = (bytes) => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);
const speed = (value) =>
  value ? `${value.median.toFixed(1)} (${value.min.toFixed(1)} to ${value.max.toFixed(1)})` : '';
const where = ({ command, date, machine, node, flags, build }) =>
  `\`${command}\`, ${date}, ${machine}, Node ${node}${flags ? ` \`${flags}\`` : ''}, kernels \`${build}\``;

function table(heads, rows) {
  const line = (cells) => `| ${cells.join(' | ')} |`;
  return [line(heads), line(heads.map(() => '---')), ...rows.map(line)].join('\n');
}

function bench(report) {
  const parts = [where(report)];
  if (report.kernels.length > 0) {
    const rows = report.kernels.map(({ name, rate, unit, ratio }) => [
      name,
      `${rate.toFixed(2)} ${unit}`,
      ratio === undefined ? '' : `${ratio.toFixed(2)} x`,
    ]);
    parts.push(table(['kernel', 'speed', 'of the plain tile'], rows));
  }
  if (report.models.length > 0) {
    const speeds = report.models.flatMap(({ cache, threads, contexts }) =>
      contexts.map(({ context, prefill, decode, cacheBytes, accumulatorBytes }) => [
        `\`${cache}\``,
        threads,
        context,
        speed(prefill),
        speed(decode),
        megabytes(cacheBytes),
        accumulatorBytes ? megabytes(accumulatorBytes) : '',
      ]),
    );
    const heads = [
      'cache',
      'threads',
      'context',
      'prefill, tokens/s',
      'decode, tokens/s',
      'cache, MB',
      'accumulator, MB',
    ];
    parts.push(table(heads, speeds));
    const memory = report.models.map(({ cache, threads, memory: { linear, weights, resident } }) => [
      `\`${cache}\``,
      threads,
      megabytes(linear),
      megabytes(weights),
      megabytes(resident),
    ]);
    parts.push(
      table(['cache', 'threads', 'linear memory, MB', 'of it weights, MB', 'process at most, MB'], memory),
    );
  }
  return parts.join('\n\n');
}

function peers(report) {
  const { command, date, machine, node, build, peer, pinned, clock, rows } = report;
  const head =
    `\`${command}\`, ${date}, ${machine}, Node ${node}, kernels \`${build}\`; ${peer}` +
    `${pinned ? ', its threads pinned to cores' : ''}; clock: ${clock}`;
  const cells = rows.map(({ work, cache, threads, xquant, nodeLlamaCpp, ratio }) => [
    work,
    `\`${cache}\``,
    threads,
    xquant.toFixed(1),
    nodeLlamaCpp.toFixed(1),
    `${ratio.toFixed(3)} x`,
  ]);
  return `${head}\n\n${table(['work', 'cache', 'threads', 'xquant, tokens/s', 'node-llama-cpp', 'ratio'], cells)}`;
}

const page = readFileSync(new URL('text.md', FOLDER), 'utf8')
  .replace('{{peers}}', () => reports('peers-').map(peers).join('\n\n'))
  .replace('{{bench}}', () => reports('bench-').map(bench).join('\n\n'));
if (process.argv.includes('--check')) {
  if (readFileSync(FILE, 'utf8') !== page) {
    console.error('docs/benchmarks.md is not what scripts/write-benchmarks.mjs makes');
    process.exit(1);
  }
} else {
  writeFileSync(FILE, page);
}
