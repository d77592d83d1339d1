/**
 * onnxruntime in WebAssembly, and the files that it runs. They are compressed, whatever the server does, and stay in the
 * browser's cache for the next visit, with or without a connection.
 *
 * @typedef {(pixels: Float32Array, count: number, attention: boolean) =>
 *   Promise<Record<string, {data: Float32Array, dims: readonly number[]}>>} Network
 */

import * as ort from '../runtime/ort.wasm.bundle.min.mjs';
import settings from './settings.js';

const OPTIONS = { executionProviders: ['wasm'], graphOptimizationLevel: 'all', logSeverityLevel: 3 };

/**
 * Load the runtime and the four networks.
 * @param {(bytes: number, total: number) => void} report called as files arrive
 * @returns {Promise<{networks: import('./mtcnn.js').Networks, network: Network}>}
 */
export async function load(report) {
  const total = settings.files.reduce((sum, file) => sum + file.bytes, 0);
  let arrived = 0;
  const got = bytes => report((arrived += bytes), total);
  const [binary, ...models] = await Promise.all(settings.files.map(file => stored(file.name, got)));
  ort.env.wasm.wasmBinary = binary;
  // Threads need memory that they share, which browsers give to isolated pages only.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  const sessions = [];
  // One after the other: the runtime starts with the first.
  for (const model of models) sessions.push(await ort.InferenceSession.create(model, OPTIONS));
  const [rmn, ...cascade] = sessions;
  const [pnet, rnet, onet] = cascade.map(session => async (pixels, shape) => {
    const outputs = await session.run({ pixels: new ort.Tensor('float32', pixels, shape) });
    return session.outputNames.map(name => /** @type {Float32Array} */ (outputs[name].data));
  });
  return { networks: { pnet, rnet, onet }, network: asNetwork(rmn, ort) };
}

/**
 * @param {any} session of RMN
 * @param {any} runtime that opened it
 * @returns {Network}
 */
export function asNetwork(session, runtime) {
  const { height, width } = settings.processor;
  return (pixels, count, attention) =>
    session.run(
      { pixel_values: new runtime.Tensor('float32', pixels, [count, 3, height, width]) },
      attention ? session.outputNames : ['logits'],
    );
}

/** Return what the browser keeps for the next visit; private windows may have nothing. */
export function openCache() {
  const { pathname } = new URL('../', import.meta.url);
  return self.caches?.open(`rmn-${settings.version} ${pathname}`).catch(() => undefined);
}

/**
 * Return a file, from the cache or the server, unpacked.
 * @param {string} name relative to the page
 * @param {(bytes: number) => void} [got]
 */
export async function stored(name, got = () => undefined) {
  const url = new URL(`../${name}`, import.meta.url);
  const cache = await openCache();
  const kept = await cache?.match(url);
  const response = kept ?? (await fetch(url));
  if (!response.ok || !response.body) throw new Error(`${name} could not be loaded (status ${response.status})`);
  const counting = new TransformStream({
    transform(chunk, controller) {
      got(chunk.byteLength);
      controller.enqueue(chunk);
    },
  });
  const packed = new Uint8Array(await new Response(response.body.pipeThrough(counting)).arrayBuffer());
  if (cache && !kept) await cache.put(url, new Response(packed)).catch(() => undefined); // no room: next time again
  // A server that compresses may have had it unpacked on the way.
  if (packed[0] !== 0x1f || packed[1] !== 0x8b) return packed;
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}
