/**
 * A server on a tiny model, as the command starts it.
 *
 * @module
 */

import { loadModel } from '../../src/load.js';
import type { LanguageModel } from '../../src/model/language-model.js';
import { type RunningServer, type ServerOptions, startServer } from '../../src/serve/server.js';
import { tinyModelGguf } from './gguf-writer.js';

/** Every turn on a line of its own. */
export const CHAT_TEMPLATE =
  '{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}';

/** What a test wants otherwise. */
export interface ServerOverrides extends Partial<ServerOptions> {
  /** Makes each pass of the model take this long, in ms. */
  readonly passMs?: number;
}

/** A server with what it serves. */
export interface TinyServer extends RunningServer {
  /** What it logged. */
  readonly logged: string[];
}

/** Starts a server on a free port; closing it frees the model, too. */
export async function startTinyServer({
  passMs = 0,
  ...overrides
}: ServerOverrides = {}): Promise<TinyServer> {
  const { model, tokenizer, file } = await loadModel(tinyModelGguf({ scale: 0.3 }), { backend: 'reference' });
  if (passMs > 0) slowDown(model, passMs);
  const logged: string[] = [];
  const server = await startServer({
    model,
    tokenizer,
    fingerprint: file.fingerprint,
    template: CHAT_TEMPLATE,
    cache: 'xquant:4?window=16',
    sampling: {},
    modelId: 'tiny',
    modelAliases: [],
    host: '127.0.0.1',
    port: 0,
    parallel: 4,
    queue: 256,
    timeoutSeconds: 60,
    bodyLimit: 100_000,
    cacheMemory: 2 ** 24,
    cacheDisk: 2 ** 24,
    log: (message) => logged.push(message),
    ...overrides,
  });
  return {
    ...server,
    logged,
    async close() {
      await server.close();
      await model.dispose();
    },
  };
}

/** Makes each pass wait first, as a larger model would. */
function slowDown(model: LanguageModel, ms: number): void {
  const pause = () => new Promise((resolve) => setTimeout(resolve, ms));
  const { forward, forwardBatch } = model;
  model.forward = async (...args) => {
    await pause();
    return forward.apply(model, args);
  };
  model.forwardBatch = async (...args) => {
    await pause();
    return forwardBatch.apply(model, args);
  };
}
