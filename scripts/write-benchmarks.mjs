/**
 * Writes docs/benchmarks.md from the measurements in docs/benchmarks/: one folder a machine, one file a piece of
 * `npm run bench:all`. The text around the tables is docs/benchmarks/text.md, in which a line `{{decode}}` stands for the
 * table of that name below. `--check` writes nothing and fails if the page is not what it should be.
 */

import { readdirSync, readFileSync, writeFileSync } from 'node:fs';

const FOLDER = new URL('../docs/benchmarks/', import.meta.url);
const FILE = new URL('../docs/benchmarks.md', import.meta.url);

/** Every measurement, with the name of its machine. */
const reports = readdirSync(FOLDER, { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .flatMap(({ name: folder }) =>
    readdirSync(new URL(`${folder}/`, FOLDER))
      .filter((file) => file.endsWith('.json'))
      .sort()
      .map((file) => ({ folder, ...JSON.parse(readFileSync(new URL(`${folder}/${file}`, FOLDER), 'utf8')) })),
  );
const of = (kind) => reports.filter((report) => report.kind === kind);

const table = (heads, rows) => {
  if (rows.length === 0) return 'Not measured yet.';
  const line = (cells) => `| ${cells.join(' | ')} |`;
  return [line(heads), line(heads.map(() => '---')), ...rows.map(line)].join('\n');
};
const code = (text) => `\`${text}\``;
const rate = (value) => (value === undefined ? '' : value.toFixed(value < 10 ? 2 : 1));
const times = (value) => (value === undefined ? '' : `${value.toFixed(2)} x`);
const spread = ({ median, min, max }) => `${times(median)} (${min.toFixed(2)} to ${max.toFixed(2)})`;
const megabytes = (bytes) => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);
const sorted = (values) => [...new Set(values)].sort((a, b) => a - b);

/** In this order caches are shown; others follow. */
const CACHES = ['kv', 'kivi', 'xquant:4', 'xquant-cl'];
const cacheRank = (cache) => {
  const rank = CACHES.findLastIndex((name) => cache.startsWith(name));
  return rank < 0 ? CACHES.length : rank;
};
const inOrder = (a, b) =>
  a.folder.localeCompare(b.folder) ||
  a.threads - b.threads ||
  cacheRank(a.cache) - cacheRank(b.cache) ||
  a.cache.localeCompare(b.cache);

/** Where: a row a machine. */
function machines() {
  const rows = [...new Set(reports.map(({ folder }) => folder))].map((folder) => {
    const own = reports.filter((report) => report.folder === folder);
    const all = (key) => [...new Set(own.map((report) => report[key]))].filter(Boolean).join(', ');
    return [
      code(folder),
      all('machine'),
      all('node'),
      all('build'),
      sorted(own.map(({ date }) => date)).join(', '),
    ];
  });
  return table(['machine', 'processor', 'Node', 'kernels', 'measured'], rows);
}

/** Speeds by context: a row a cache. */
function speeds(which) {
  const rows = new Map();
  for (const { folder, result } of of('speed')) {
    const { cache, threads } = result;
    const key = `${folder} ${threads} ${cache}`;
    const row = rows.get(key) ?? { folder, threads, cache, at: new Map() };
    for (const { context, [which]: measured } of result.contexts) {
      if (measured) row.at.set(context, measured.median);
    }
    rows.set(key, row);
  }
  const contexts = sorted([...rows.values()].flatMap(({ at }) => [...at.keys()]));
  const cells = [...rows.values()]
    .sort(inOrder)
    .map(({ folder, threads, cache, at }) => [
      code(folder),
      threads,
      code(cache),
      ...contexts.map((context) => rate(at.get(context))),
    ]);
  return table(['machine', 'threads', 'cache', ...contexts.map((context) => `at ${context}`)], cells);
}

/** Against node-llama-cpp, a row a measurement. */
function peers() {
  const rows = of('peers').flatMap(({ folder, node, result }) =>
    result.rows.map((row) => ({ folder, node, peer: result.peer.replace(/^node-llama-cpp /, ''), ...row })),
  );
  const context = ({ work }) => Number(/\d+/.exec(work)?.[0] ?? 0);
  const cells = rows
    .sort((a, b) => inOrder(a, b) || a.peer.localeCompare(b.peer) || context(a) - context(b))
    .map(({ folder, threads, work, cache, peer, xquant, nodeLlamaCpp, ratio }) => [
      code(folder),
      threads,
      work,
      code(cache),
      rate(xquant),
      rate(nodeLlamaCpp),
      peer,
      times(ratio),
    ]);
  return table(
    ['machine', 'threads', 'work', 'cache', 'xquant, tokens/s', 'node-llama-cpp', 'its build', 'ratio'],
    cells,
  );
}

/** With guesses against without: a row a cache. */
function guessing(isGuessable) {
  const rows = of('generation').map(({ folder, result }) => ({ folder, ...result }));
  const cells = rows
    .filter(({ temperature }) => (temperature === 0) === isGuessable)
    .sort(inOrder)
    .map((row) => [
      code(row.folder),
      row.threads,
      code(row.cache),
      rate(row.plain.median),
      rate(row.guessing.median),
      spread(row.ratio),
      row.drafted === 0 ? '' : `${Math.round((100 * row.accepted) / row.drafted)} % of ${row.drafted}`,
    ]);
  const heads = ['machine', 'threads', 'cache', 'without, tokens/s', 'with', 'ratio', 'guesses right'];
  return table(heads, cells);
}

/** Most memory of a process: a row a cache. */
function memory() {
  const rows = of('process').map(({ folder, result }) => ({ folder, ...result }));
  const baseline = ({ folder, context }) =>
    rows.find((row) => row.folder === folder && row.context === context && row.cache === 'kv');
  const cells = rows
    .sort((a, b) => a.context - b.context || inOrder(a, b))
    .map((row) => {
      const kv = baseline(row);
      const above = ({ resident, weights }) => resident - weights;
      return [
        code(row.folder),
        row.context,
        code(row.cache),
        megabytes(row.stored),
        megabytes(row.scratch),
        megabytes(row.plan),
        megabytes(row.linear),
        megabytes(row.resident),
        kv ? times(row.resident / kv.resident) : '',
        kv ? times(above(row) / above(kv)) : '',
      ];
    });
  const heads = [
    'machine',
    'context',
    'cache',
    'stored, MB',
    'accumulators',
    'plan',
    'linear memory',
    'process at most',
  ];
  return table([...heads, 'of `kv`', 'of `kv`, without weights'], cells);
}

/** Seconds to the first token: a row a cache. */
function start() {
  const cells = of('start')
    .map(({ folder, result }) => ({ folder, ...result }))
    .sort(inOrder)
    .map(({ folder, cache, first, later }) => [
      code(folder),
      code(cache),
      first.toFixed(1),
      later.median.toFixed(2),
    ]);
  return table(['machine', 'cache', 'first start, s', 'later starts, s'], cells);
}

/** Speed of kernels: a column a machine. */
function kernels() {
  const measured = of('kernels');
  const names = [...new Set(measured.flatMap(({ result }) => result.results.map(({ name }) => name)))];
  const rows = names.map((name) => {
    const cells = measured.map(({ result }) => {
      const found = result.results.find((each) => each.name === name);
      if (!found) return '';
      const ratio = found.ratio === undefined ? '' : `, ${times(found.ratio)}`;
      return `${found.rate.toFixed(2)} ${found.unit}${ratio}`;
    });
    return [name, ...cells];
  });
  return table(['kernel', ...measured.map(({ folder, build }) => `${code(folder)}, ${code(build)}`)], rows);
}

const TABLES = {
  machines,
  decode: () => speeds('decode'),
  prefill: () => speeds('prefill'),
  peers,
  guessing: () => guessing(true),
  unguessable: () => guessing(false),
  memory,
  start,
  kernels,
};

const page = readFileSync(new URL('text.md', FOLDER), 'utf8').replace(/^\{\{(\w+)\}\}$/gm, (_, name) =>
  TABLES[name](),
);
if (process.argv.includes('--check')) {
  if (readFileSync(FILE, 'utf8') !== page) {
    console.error('docs/benchmarks.md is not what scripts/write-benchmarks.mjs makes');
    process.exit(1);
  }
} else {
  writeFileSync(FILE, page);
}
