/**
 * How code for browsers is bundled: one ES module without bare imports, with what needs Node left out.
 */

import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';

const source = fileURLToPath(new URL('../ts/src/', import.meta.url));

/** Modules that only Node loads, by dynamic import behind a check of the platform. */
const nodeOnly = {
  name: 'node-only',
  load: {
    filter: { id: /\/(node-[\w-]+|[\w-]+-node)\.ts$/ },
    handler: () => 'export {};',
  },
};

/**
 * Bundles an entry.
 *
 * @param {string} entry path of a TypeScript file
 * @param {{ workerSource?: string, minify?: boolean, sourcemap?: boolean }} [options] `workerSource` is what
 *   browser/worker-source.ts holds
 * @returns {Promise<{ code: string, map?: string }>}
 */
export async function bundle(entry, { workerSource, minify = true, sourcemap = false } = {}) {
  const worker = {
    name: 'worker-source',
    load: {
      filter: { id: /\/browser\/worker-source\.ts$/ },
      handler: () => `export const WORKER_SOURCE = ${JSON.stringify(workerSource ?? '')};`,
    },
  };
  const build = await rolldown({
    input: entry,
    platform: 'browser',
    plugins: [nodeOnly, worker],
    resolve: { extensionAlias: { '.js': ['.ts', '.js'] } },
    treeshake: { moduleSideEffects: [{ test: new RegExp(`^${source}`), sideEffects: false }] },
    onLog(level, log, handle) {
      // Names that are imported from modules that only Node has.
      if (log.code === 'IMPORT_IS_UNDEFINED' || log.code === 'MISSING_EXPORT') return;
      // Expected: the readers of `@huggingface/hub` look for Node.
      if (level === 'warn' && /node:|externalized|EVAL/i.test(`${log.code} ${log.message}`)) return;
      handle(level, log);
    },
  });
  try {
    // Errors are known by the names of their classes.
    const mangle = { keepNames: { class: true, function: false } };
    const { output } = await build.generate({
      format: 'esm',
      minify: minify && { mangle, compress: true, codegen: true },
      sourcemap,
      codeSplitting: false,
    });
    const [chunk, ...others] = output.filter(({ type }) => type === 'chunk');
    if (others.length > 0) throw new Error(`${entry}: ${others.length + 1} chunks instead of one`);
    const external = [...chunk.imports, ...chunk.dynamicImports];
    if (external.length > 0) throw new Error(`${entry} still imports ${external.join(', ')}`);
    return { code: chunk.code, map: chunk.map?.toString() };
  } finally {
    await build.close();
  }
}

/** The text of the engine's worker. */
export async function bundleWorker() {
  return (await bundle(`${source}browser/worker-entry.ts`)).code;
}

/** The module that `import 'xquant'` gives in a browser. */
export async function bundleLibrary(workerSource) {
  return (await bundle(`${source}browser/index.ts`, { workerSource })).code;
}
