/**
 * The explorer's page: its sections, one after the other.
 *
 * @module
 */

import { detectFeatures } from '../../ts/src/engine/load-wasm.js';
import { App } from './app.js';
import { byId } from './dom.js';
import { generateSection } from './generate-section.js';
import { insideSection } from './inside-section.js';
import { memorySection } from './memory-section.js';
import { modelSection } from './model-section.js';
import { perplexitySection } from './perplexity-section.js';
import { rooflineSection } from './roofline-section.js';
import { chooseTheme, storedTheme } from './theme.js';

const theme = byId('theme', HTMLSelectElement);
theme.value = storedTheme();
theme.addEventListener('change', () => chooseTheme(theme.value));

const app = new App();
const lanes = generateSection(app, () => drawMemory());
const drawMemory = memorySection(app, lanes);
const inside = insideSection(app, lanes);
modelSection(app, (model) => {
  inside.setModel(model);
  drawMemory();
});
perplexitySection(app, lanes);
rooflineSection();
drawMemory();
if (!detectFeatures().simd) {
  app.fail('This browser has no WebAssembly SIMD, which the explorer needs: use one from 2023 or later.');
}
if (globalThis.isSecureContext && 'serviceWorker' in navigator) {
  navigator.serviceWorker
    .register(new URL('../offline.js', import.meta.url))
    .catch((error: unknown) => console.warn('The page is not kept for visits without a network:', error));
}
