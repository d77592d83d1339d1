/**
 * The service worker: the page without a connection, and with the headers that a server of files may not send. Threads
 * in WebAssembly need them, and the policy holds for workers only where a header names it. `cross-origin`: a page that is
 * isolated itself, such as the Hub's, may show this one.
 */

importScripts('kept.js');

// As js/runtime.js has it. An address has no space in it.
const CACHE = `rmn-${self.KEPT.version} ${new URL('./', self.location.href).pathname}`;
const HEADERS = {
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'cross-origin',
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; " +
    "connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'",
};

self.addEventListener('install', event => event.waitUntil(keep()));
self.addEventListener('activate', event => event.waitUntil(begin()));
self.addEventListener('fetch', event => {
  const { request } = event;
  if (request.method === 'GET' && new URL(request.url).origin === self.location.origin) event.respondWith(found(request));
});

async function keep() {
  const cache = await caches.open(CACHE);
  // The page itself keeps the large files as it loads them. A new version must have all before it takes over.
  const names = self.registration.active ? [...self.KEPT.small, ...self.KEPT.large] : self.KEPT.small;
  await cache.addAll(names.map(name => new Request(name, { cache: 'no-cache' })));
}

async function begin() {
  const index = new URL('index.html', self.registration.scope);
  for (const name of await caches.keys()) {
    // Other pages of this origin have caches, too.
    const isOld = name.startsWith('rmn-') && name !== CACHE && (await (await caches.open(name)).match(index));
    if (isOld) await caches.delete(name);
  }
  await self.clients.claim();
}

/** @param {Request} request */
async function found(request) {
  const cache = await caches.open(CACHE);
  const isPage = request.url.replace(/[?#].*/, '') === self.registration.scope;
  const name = isPage ? new URL('index.html', request.url) : request;
  const response = (await cache.match(name, { ignoreSearch: true })) ?? (await fetch(request));
  if (response.type === 'opaqueredirect' || response.status === 0) return response;
  const headers = new Headers(response.headers);
  for (const [header, value] of Object.entries(HEADERS)) headers.set(header, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
