/**
 * Which model runs.
 *
 * @module
 */

import type { App } from './app.js';
import { byId } from './dom.js';
import type { LoadedInfo } from './protocol.js';

const MODELS = new URL('../models/', import.meta.url);

/** Sets the section up. @param onLoad told of each model that is loaded */
export function modelSection(app: App, onLoad: (model: LoadedInfo) => void): void {
  const choice = byId('model', HTMLSelectElement);
  const file = byId('file', HTMLInputElement);
  const url = byId('url', HTMLInputElement);
  const calibration = byId('calibration', HTMLInputElement);
  const note = byId('model-note', HTMLElement);
  let loadedFrom = '';

  /** @throws {Error} if nothing is chosen */
  const source = (): string | File => {
    if (choice.value === 'file') {
      const [chosen] = file.files ?? [];
      if (!chosen) throw new Error('Choose a GGUF file first.');
      return chosen;
    }
    if (choice.value === 'url') {
      const location = url.value.trim();
      if (location === '') throw new Error('Type the URL of a GGUF file first.');
      return /^(hf:|https?:)/i.test(location) ? location : new URL(location, document.baseURI).href;
    }
    return new URL(`${choice.value}.gguf`, MODELS).href;
  };

  /** Where the calibration of the model is; the embedded ones have theirs beside them. */
  const calibrationSource = (): string | File | undefined => {
    if (choice.value === 'file' || choice.value === 'url') return calibration.files?.[0];
    return new URL(`${choice.value}.xquant-calibration.safetensors`, MODELS).href;
  };

  app.loadModel = async () => {
    const from = source();
    const learned = calibrationSource();
    const name = [from, learned].map(nameOf).join();
    if (app.model && loadedFrom === name) return app.model;
    app.model = undefined;
    const storage = 'getDirectory' in (navigator.storage ?? {}) ? 'opfs' : 'none';
    const model = await app.client.request('load', { source: from, calibration: learned, storage }, app.show);
    app.model = model;
    loadedFrom = name;
    note.textContent = describe(model);
    app.say('Model loaded.');
    onLoad(model);
    return model;
  };

  choice.addEventListener('change', () => {
    byId('file-field', HTMLElement).hidden = choice.value !== 'file';
    byId('url-field', HTMLElement).hidden = choice.value !== 'url';
    byId('calibration-field', HTMLElement).hidden = choice.value !== 'url' && choice.value !== 'file';
  });
  app.button('load', async () => void (await app.loadModel()));
}

/** Tells sources apart. */
function nameOf(source: string | File | undefined): string {
  return source instanceof File ? `${source.name} ${source.size} ${source.lastModified}` : (source ?? '');
}

function describe({ name, config, parameterCount, threads, build, storageNote }: LoadedInfo): string {
  const { numHiddenLayers, hiddenSize, numAttentionHeads, numKeyValueHeads } = config;
  const why = globalThis.crossOriginIsolated ? '' : ' (the page is not cross-origin isolated)';
  return (
    `${name}: ${(parameterCount / 1e6).toFixed(1)} M weights, ${numHiddenLayers} layers, hidden size ${hiddenSize}, ` +
    `${numAttentionHeads} query heads, ${numKeyValueHeads} KV heads. Kernels “${build}” on ` +
    `${threads} thread${threads === 1 ? why : 's'}. ${storageNote}`
  );
}
