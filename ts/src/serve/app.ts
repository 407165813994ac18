/**
 * The HTTP side: routes, keys, limits, and errors as OpenAI clients expect them. Built on Hono, which has no
 * dependencies, speaks the `Request` and `Response` of the platform, and brings streaming with back-pressure.
 *
 * @module
 */

import { createHash, randomUUID, timingSafeEqual } from 'node:crypto';
import { type Context, Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { type SSEStreamingApi, streamSSE } from 'hono/streaming';
import type { Tokenizer } from '../text/tokenizer.js';
import { ApiError, GoneReason, toApiError } from './api-error.js';
import type { Completions } from './completions.js';
import type { Metrics } from './metrics.js';
import { type CompletionRequest, parseRequest } from './openai-request.js';
import { type AnswerHead, AnswerWriter } from './openai-response.js';

/** The dependencies of the routes. */
export interface AppOptions {
  readonly completions: Completions;
  readonly metrics: Metrics;
  readonly tokenizer: Tokenizer;
  /** The name of the model, and others that are accepted for it. */
  readonly modelId: string;
  readonly modelAliases: readonly string[];
  readonly apiKey?: string;
  /** Whether only names of this machine are accepted as `Host`: a web page elsewhere could lead its name here. */
  readonly localHostsOnly: boolean;
  /** Bytes of a request body. */
  readonly bodyLimit: number;
  /** Fires when the server stops; answers end then. */
  readonly stopping: AbortSignal;
  /** Called with errors that are the server's fault. */
  readonly onError: (error: unknown) => void;
}

/** How long an error waits for a reader who has not taken the last token. */
const LAST_WORD_MS = 1000;

/** The server, without a port. */
export function createApp(options: AppOptions): Hono {
  const { metrics, modelId, apiKey, onError } = options;
  const created = Math.floor(Date.now() / 1000);
  const models = [{ id: modelId, object: 'model', created, owned_by: 'xquant' }];
  const app = new Hono();

  app.use(async (c, next) => {
    await next();
    // A stream counts when it has ended; see #stream.
    if (!c.res.headers.get('content-type')?.startsWith('text/event-stream')) metrics.respond(c.res.status);
  });
  app.use(async (c, next) => {
    assertHost(c, options.localHostsOnly);
    await next();
  });
  app.get('/health', (c) => c.json({ status: 'ok' }));
  if (apiKey !== undefined) {
    app.use(async (c, next) => {
      assertKey(c, apiKey);
      await next();
    });
  }
  app.get('/metrics', (c) =>
    c.text(metrics.text(), 200, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' }),
  );
  app.get('/v1/models', (c) => c.json({ object: 'list', data: models }));
  app.get('/v1/models/:id{.+}', (c) => {
    assertModel(c.req.param('id'), options);
    return c.json(models[0]);
  });
  const limit = bodyLimit({
    maxSize: options.bodyLimit,
    onError: () => {
      throw new ApiError(413, `the body is larger than ${options.bodyLimit} bytes`, null, 'body_too_large');
    },
  });
  app.post('/v1/chat/completions', limit, (c) => answer(c, 'chat', options));
  app.post('/v1/completions', limit, (c) => answer(c, 'text', options));
  app.notFound((c) => {
    throw new ApiError(404, `there is no ${c.req.method} ${c.req.path} here`, null, 'unknown_url');
  });
  app.onError((thrown, c) => {
    const error = toApiError(thrown);
    if (error.status === 500) onError(thrown);
    if (error.status === 503) c.header('Retry-After', '1');
    return c.json(error.body, error.status as 500);
  });
  return app;
}

async function answer(c: Context, kind: 'chat' | 'text', options: AppOptions): Promise<Response> {
  const request = parseRequest(kind, await readJson(c));
  assertModel(request.model, options);
  const head = {
    id: `${kind === 'chat' ? 'chatcmpl' : 'cmpl'}-${randomUUID()}`,
    created: Math.floor(Date.now() / 1000),
    model: options.modelId,
  };
  return request.stream ? stream(c, request, head, options) : whole(c, request, head, options);
}

async function whole(
  c: Context,
  request: CompletionRequest,
  head: AnswerHead,
  options: AppOptions,
): Promise<Response> {
  const { completions, tokenizer, stopping } = options;
  const writer = new AnswerWriter(request, head, tokenizer);
  const gone = goneSignal(c);
  const generations = await completions.run(request, AbortSignal.any([gone, stopping]), (token) =>
    writer.note(token),
  );
  return c.json(writer.whole(generations.map(({ summary }) => summary)));
}

/**
 * Answers with events. The response begins when the first token is there, so that an error before it still has a
 * status of its own.
 */
async function stream(
  c: Context,
  request: CompletionRequest,
  head: AnswerHead,
  options: AppOptions,
): Promise<Response> {
  const { completions, tokenizer, stopping, metrics, onError } = options;
  const writer = new AnswerWriter(request, head, tokenizer);
  const gone = new AbortController();
  const signal = AbortSignal.any([goneSignal(c), gone.signal, stopping]);
  const begun = deferred<void>();
  const opened = deferred<SSEStreamingApi>();
  const send = async (event: object | undefined): Promise<void> => {
    if (event) await (await opened.promise).writeSSE({ data: JSON.stringify(event) });
  };
  const running = completions.run(request, signal, async (token, tokenSignal) => {
    begun.resolve();
    await orAborted(send(writer.chunk(token)), tokenSignal);
  });
  running.then(() => begun.resolve(), begun.reject);
  await begun.promise;
  return streamSSE(c, async (events) => {
    events.onAbort(() => gone.abort(new GoneReason('the client is gone')));
    opened.resolve(events);
    let status = 200;
    try {
      const summaries = (await running).map(({ summary }) => summary);
      for (const event of writer.lastChunks(summaries)) await send(event);
      if (request.includeUsage) await send(writer.usageChunk(summaries));
      await events.writeSSE({ data: '[DONE]' });
    } catch (thrown) {
      const error = toApiError(thrown);
      status = error.status;
      if (status === 500) onError(thrown);
      const lastWord = events.writeSSE({ data: JSON.stringify(error.body) }).then(() => undefined);
      await orAborted(lastWord, AbortSignal.timeout(LAST_WORD_MS)).catch(() => undefined); // nobody may be reading
    }
    metrics.respond(status);
  });
}

/** Fires when the connection closes before the answer is complete. */
function goneSignal(c: Context): AbortSignal {
  const gone = new AbortController();
  const { signal } = c.req.raw;
  const abort = () => gone.abort(new GoneReason('the client is gone'));
  if (signal.aborted) abort();
  else signal.addEventListener('abort', abort, { once: true });
  return gone.signal;
}

async function readJson(c: Context): Promise<unknown> {
  // A web page can send any other type to a server of this machine without asking first.
  if (!/^application\/json\b/i.test(c.req.header('content-type') ?? '')) {
    throw new ApiError(415, 'the content type must be application/json');
  }
  try {
    return await c.req.json();
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    throw new ApiError(400, 'the body is not JSON', null, null, { cause });
  }
}

function assertModel(name: string, { modelId, modelAliases }: AppOptions): void {
  if (name === modelId || modelAliases.includes(name)) return;
  throw new ApiError(
    404,
    `there is no model "${name}" here; this server has "${modelId}"`,
    'model',
    'model_not_found',
  );
}

function assertKey(c: Context, apiKey: string): void {
  const given = /^Bearer (.+)$/i.exec(c.req.header('authorization') ?? '')?.[1];
  const digest = (text: string) => createHash('sha256').update(text).digest();
  if (given !== undefined && timingSafeEqual(digest(given), digest(apiKey))) return;
  throw new ApiError(
    401,
    given === undefined ? 'an API key is needed' : 'the API key is wrong',
    null,
    'invalid_api_key',
  );
}

function assertHost(c: Context, localOnly: boolean): void {
  if (!localOnly) return;
  const host = c.req.header('host')?.replace(/:\d+$/, '');
  if (host === undefined || ['localhost', '127.0.0.1', '[::1]'].includes(host)) return;
  throw new ApiError(403, `the host "${host}" is not one of this machine`, null, 'host_not_allowed');
}

/** A promise that others settle. (`Promise.withResolvers` needs Node 22.) */
function deferred<T>() {
  let resolve!: (value: T) => void;
  let reject!: (reason: unknown) => void;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}

/** Waits for a reader, who may have stopped reading, no longer than a signal allows. */
async function orAborted(work: Promise<void>, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const aborted = deferred<void>();
  const abort = () => aborted.reject(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  try {
    await Promise.race([work, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}
