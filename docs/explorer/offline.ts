/**
 * A service worker that keeps the page, its code and the kernels for visits without a network. The network comes
 * first, so that nobody gets an old page; models are not its business, they are kept elsewhere.
 *
 * @module
 */

const CACHE = 'xquant-explorer';

/** Everything but the models. */
const FILES = [
  './',
  'index.html',
  'style.css',
  'icon.svg',
  'js/theme.js',
  'js/main.js',
  'js/worker.js',
  'wasm/simd.wasm',
  'wasm/relaxed.wasm',
  'wasm/simd-threads.wasm',
  'wasm/relaxed-threads.wasm',
];

/** The part of a service worker's scope that is used; the DOM library of TypeScript has no types for it. */
interface ServiceWorkerScope {
  skipWaiting(): Promise<void>;
  readonly clients: { claim(): Promise<void> };
  addEventListener(
    type: 'install' | 'activate' | 'fetch',
    listener: (event: {
      readonly request: Request;
      waitUntil(work: Promise<unknown>): void;
      respondWith(response: Promise<Response>): void;
    }) => void,
  ): void;
}

const scope = globalThis as unknown as ServiceWorkerScope;

scope.addEventListener('install', (event) => {
  const keep = async () => (await caches.open(CACHE)).addAll(FILES);
  event.waitUntil(Promise.all([keep(), scope.skipWaiting()]));
});

scope.addEventListener('activate', (event) => event.waitUntil(scope.clients.claim()));

scope.addEventListener('fetch', (event) => {
  const { request } = event;
  if (request.method !== 'GET' || request.headers.has('range')) return;
  if (!request.url.startsWith(new URL('./', location.href).href)) return;
  event.respondWith(answer(request));
});

async function answer(request: Request): Promise<Response> {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    const { pathname } = new URL(request.url);
    if (response.ok && FILES.some((name) => pathname === new URL(name, location.href).pathname)) {
      await cache.put(request, response.clone());
    }
    return response;
  } catch (error) {
    const kept = await cache.match(request, { ignoreSearch: true });
    if (kept) return kept;
    throw error;
  }
}
