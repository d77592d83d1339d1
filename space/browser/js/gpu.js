/**
 * The network on the graphics card, by WebGPU: where the browser has it, its results are right, and it is faster. The
 * first result does not wait for it, and WebAssembly stays: it takes over where the graphics card fails.
 *
 * @typedef {import('./runtime.js').Network} Network
 *
 * @typedef {object} Choice
 * @property {Network} network
 * @property {'webgpu' | 'wasm'} engine
 * @property {string} [reason] why WebGPU is not used
 * @property {number} [difference] largest difference of an output, in parts of its largest value
 * @property {{wasm: number, webgpu: number}} [milliseconds] for the pixels that the two were compared on
 */

import settings from './settings.js';
import { asNetwork, openCache, stored } from './runtime.js';

const SCRIPT = '../runtime/ort.jspi.bundle.min.mjs';
const BINARY = 'runtime/ort-wasm-simd-threaded.jspi.wasm.gz';
const MODEL = 'models/rmn.onnx.gz';
// How far an output may lie from WebAssembly's, in parts of its largest value.
const TOLERANCE = 0.01;
const RUNS = 5;

/**
 * Load the network onto the graphics card: 4 MB more, and a second or two.
 * @param {{software?: boolean}} [options] whether a card that the processor imitates will do, as in tests
 * @returns {Promise<Network>}
 */
export async function openGpu({ software = false } = {}) {
  // Without JSPI the runtime would be half as large again. Chromium has it, and most of the browsers with WebGPU.
  if (!('Suspending' in WebAssembly)) throw new Error('the browser has no JSPI');
  if (/** @type {any} */ (navigator).connection?.saveData) throw new Error('the browser saves data');
  const adapter = await /** @type {any} */ (navigator).gpu?.requestAdapter();
  if (!adapter) throw new Error('the browser has no WebGPU');
  const imitated = adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter;
  if (imitated && !software) throw new Error('there is no graphics card');
  const script = new URL(SCRIPT, import.meta.url);
  // For visits without a connection. No room: next time again.
  await (await openCache())?.add(script).catch(() => undefined);
  const [ort, binary, model] = await Promise.all([import(script.href), stored(BINARY), stored(MODEL)]);
  ort.env.wasm.wasmBinary = binary;
  ort.env.wasm.numThreads = 1;
  const options = { executionProviders: ['webgpu'], graphOptimizationLevel: 'all', logSeverityLevel: 3 };
  return asNetwork(await ort.InferenceSession.create(model, options), ort);
}

/**
 * Return the faster of the two networks, if both compute the same.
 * @param {Network} wasm
 * @param {Network} webgpu
 * @param {{pixels: Float32Array, count: number}} faces to compare them on
 * @returns {Promise<Choice>}
 */
export async function faster(wasm, webgpu, { pixels, count }) {
  const difference = await differenceOf(wasm, webgpu, { pixels, count });
  if (!(difference <= TOLERANCE)) return { network: wasm, engine: 'wasm', reason: 'WebGPU computes something else', difference };
  const milliseconds = { wasm: await median(wasm, pixels, count), webgpu: await median(webgpu, pixels, count) };
  if (milliseconds.webgpu >= milliseconds.wasm) {
    return { network: wasm, engine: 'wasm', reason: 'WebAssembly is as fast', difference, milliseconds };
  }
  return { network: orElse(webgpu, wasm), engine: 'webgpu', difference, milliseconds };
}

/**
 * Return how far an output of the two lies apart at most, in parts of its largest value.
 * @param {Network} wasm
 * @param {Network} webgpu
 * @param {{pixels: Float32Array, count: number}} faces
 */
export async function differenceOf(wasm, webgpu, { pixels, count }) {
  const [expected, found] = [await wasm(pixels, count, true), await webgpu(pixels, count, true)];
  return Math.max(...Object.keys(expected).map(name => apart(expected[name].data, found[name].data)));
}

/**
 * Return a network that runs on the graphics card until that fails: a driver may restart, a laptop may sleep.
 * @param {Network} webgpu
 * @param {Network} wasm
 * @returns {Network}
 */
export function orElse(webgpu, wasm) {
  let failed = false;
  return async (pixels, count, attention) => {
    if (!failed) {
      try {
        return await webgpu(pixels, count, attention);
      } catch {
        failed = true;
      }
    }
    return wasm(pixels, count, attention);
  };
}

/**
 * @param {Float32Array} expected
 * @param {Float32Array} found
 */
function apart(expected, found) {
  let [most, largest] = [0, 1e-6];
  for (let place = 0; place < expected.length; place++) {
    // What is not a number lies as far away as can be.
    const distance = Math.abs(found[place] - expected[place]);
    if (!(distance <= most)) most = Number.isNaN(distance) ? Infinity : distance;
    largest = Math.max(largest, Math.abs(expected[place]));
  }
  return most / largest;
}

/**
 * @param {Network} network
 * @param {Float32Array} pixels
 * @param {number} count
 */
async function median(network, pixels, count) {
  const times = [];
  for (let run = 0; run < RUNS; run++) {
    const started = performance.now();
    await network(pixels, count, false);
    times.push(performance.now() - started);
  }
  return times.sort((first, second) => first - second)[RUNS >> 1];
}
