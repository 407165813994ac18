/**
 * The site: guides in the order of reading, and the API of every entry of the package. Every export has to be
 * documented and every link has to lead somewhere; what does not, fails the build.
 */

import { readdirSync } from 'node:fs';
import { math } from './scripts/markdown-math.mjs';

/** Pages of docs/ that come first; the start page is the readme. */
const FIRST = [
  'algorithm.md',
  'paper-map.md',
  'reference.md',
  'numerics.md',
  'format.md',
  'cross-check.md',
  'extend.md',
  'run-a-model.md',
  'tasks.md',
  'serve.md',
  'cli.md',
  'troubleshooting.md',
];

const pages = readdirSync(new URL('docs/', import.meta.url)).filter((name) => name.endsWith('.md'));
const others = pages.filter((name) => name !== 'index.md' && !FIRST.includes(name)).sort();

export default {
  name: 'xquant',
  plugin: ['./scripts/typedoc-guides.mjs'],
  markdownItLoader: (parser) => parser.use(math),
  entryPoints: [
    'ts/src/index.ts',
    'ts/src/reference.ts',
    'ts/src/text/tokenizer.ts',
    'ts/src/io/safetensors.ts',
    'ts/src/check/index.ts',
    'ts/src/browser/index.ts',
  ],
  sortEntryPoints: false,
  tsconfig: 'tsconfig.build.json',
  out: 'docs/site',
  readme: 'docs/index.md',
  projectDocuments: [...FIRST, ...others].map((name) => `docs/${name}`),
  customCss: 'docs/theme/site.css',
  favicon: 'docs/theme/icon.svg',
  navigation: { includeFolders: false, compactFolders: false },
  headings: { readme: false, document: false },
  searchInDocuments: true,
  searchInComments: true,
  preservedTypeAnnotationTags: ['@throws'],
  highlightLanguages: ['shellscript', 'json', 'python', 'diff', 'typescript', 'javascript', 'html', 'http'],
  excludePrivate: true,
  excludeInternal: true,
  includeVersion: true,
  disableSources: true,
  githubPages: false,
  treatWarningsAsErrors: true,
  treatValidationWarningsAsErrors: true,
  // What the engine's classes are made of. Caches and models are used through their interfaces.
  intentionallyNotExported: [
    ...['CacheHost', 'WasmLayerCache'],
    // Roles of tensors, whose table is model/tensors.ts, and what a row of WEIGHT_BLOCKS is made of.
    ...['MatrixRole', 'VectorRole', 'FloatKind', 'BlockDecoder', 'BlockRewrite'],
  ],
  validation: { notExported: true, invalidLink: true, notDocumented: true },
  requiredToBeDocumented: [
    'Class',
    'Interface',
    'Function',
    'TypeAlias',
    'Variable',
    'Enum',
    'Method',
    'Accessor',
  ],
};
