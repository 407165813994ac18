/**
 * The program of the engine's worker.
 *
 * @module
 */

import { type MessageEnd, serveEngine } from './worker.js';

serveEngine(globalThis as unknown as MessageEnd);
