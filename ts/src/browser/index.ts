/**
 * XQuant in a browser: everything of the package, with a `loadModel` that runs the engine in a worker and keeps
 * what it downloads. This is what `import 'xquant'` gives there.
 *
 * @module xquant/browser
 */

export * from '../index.js';
export { type BrowserLoadOptions, loadModel } from './load.js';
export { OpfsStorage } from './opfs-storage.js';
export { RemoteCache, RemoteModel } from './remote-model.js';
export { type ModelStorage, StorageError, type StoredFile, type StoredInfo } from './storage.js';
export { StoredFetch } from './stored-fetch.js';
