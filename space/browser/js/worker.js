/**
 * The worker: everything that takes longer than a moment. A message `{id, kind, ...}` gets the reply `{id, value}` or
 * `{id, error}`; while files arrive, `{progress}` is sent.
 */

import { CutDetector } from './cuts.js';
import { faster, openGpu } from './gpu.js';
import { Detector } from './mtcnn.js';
import { withoutAlpha } from './pixels.js';
import { Recognizer } from './recognizer.js';
import { load } from './runtime.js';
import settings from './settings.js';
import { Smoother, Tracker } from './tracking.js';

/** @typedef {import('./recognizer.js').FaceExpression} FaceExpression */

/** @type {Promise<Recognizer> | undefined} */
let loading;
/** @type {{cuts: CutDetector, tracker: Tracker, smoother: Smoother} | undefined} */
let camera;
const canvas = new OffscreenCanvas(1, 1);
const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext('2d', { willReadFrequently: true }));

function recognizer() {
  loading ??= load((bytes, total) => self.postMessage({ progress: { bytes, total } })).then(
    ({ networks, network }) => new Recognizer(new Detector(networks, settings.detector), network, settings),
  );
  // A connection that failed may be back.
  loading.catch(() => (loading = undefined));
  return loading;
}

const kinds = {
  /**
   * Return the result of a photo.
   * @param {{image: ImageBitmap, minFace?: number, minConfidence: number}} request
   */
  async photo({ image, minFace, minConfidence }) {
    const pixels = pixelsOf(image, image.width, image.height);
    const ready = await recognizer();
    return ready.recognize(pixels, { minFace, minConfidence, attention: true, maxFaces: settings.maxFaces });
  },

  /**
   * Return the result of a camera's next frame.
   * @param {{image: ImageBitmap, now: number, minConfidence: number, attention: boolean}} request
   */
  async frame({ image, now, minConfidence, attention }) {
    const scale = Math.min(1, settings.live.frameSize / Math.max(image.width, image.height));
    const frame = pixelsOf(image, Math.round(image.width * scale), Math.round(image.height * scale));
    const ready = await recognizer();
    camera ??= {
      cuts: new CutDetector(settings.cuts),
      tracker: new Tracker(ready.detector, settings.live),
      smoother: new Smoother(settings.live.smooth),
    };
    const { cuts, tracker, smoother } = camera;
    if (cuts.update(frame)) tracker.reset();
    const tracks = await tracker.update(frame);
    const raw = await ready.classify(frame, tracks.map(track => track.face), 0, attention);
    const faces = raw.map((face, place) => {
      const probabilities = smoother.update(tracks[place].id, face.probabilities, now);
      const [expression, probability] = Object.entries(probabilities).reduce((a, b) => (b[1] > a[1] ? b : a));
      const uncertain = probability < minConfidence;
      return { ...face, expression, probability, probabilities, uncertain, track_id: tracks[place].id, raw: face.probabilities };
    });
    smoother.keep(tracker.tracks.map(track => track.id));
    return { width: frame.width, height: frame.height, faces };
  },

  /** Forget the faces of the camera. */
  async forget() {
    camera = undefined;
  },
};

/**
 * Return the pixels of a bitmap, which is closed; what is transparent becomes white.
 * @param {ImageBitmap} image
 * @param {number} width
 * @param {number} height
 */
function pixelsOf(image, width, height) {
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  context.fillStyle = '#ffffff';
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0, width, height);
  image.close();
  return withoutAlpha(context.getImageData(0, 0, width, height));
}

/**
 * Move the network to the graphics card, where that is faster. Photos and frames do not wait for its files.
 * @returns {Promise<Omit<import('./gpu.js').Choice, 'network'>>}
 */
async function accelerate() {
  try {
    const ready = await recognizer();
    const gpu = await openGpu();
    return await queued(async () => {
      if (!ready.latest) return { engine: 'wasm', reason: 'no face was seen yet' };
      const { network, ...choice } = await faster(ready.network, gpu, ready.latest);
      ready.network = network;
      return choice;
    });
  } catch (error) {
    return { engine: 'wasm', reason: sentenceOf(error) };
  }
}

// One after the other: a session of onnxruntime takes one call at a time.
let last = Promise.resolve();

/**
 * @template T
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
function queued(work) {
  const done = last.then(work);
  last = done.then(() => undefined, () => undefined);
  return done;
}

/** @param {any} error */
function sentenceOf(error) {
  return String(error?.message ?? error);
}

self.addEventListener('message', async ({ data: { id, kind, ...request } }) => {
  try {
    self.postMessage({ id, value: await (kind === 'accelerate' ? accelerate() : queued(() => kinds[kind](request))) });
  } catch (error) {
    self.postMessage({ id, error: sentenceOf(error) });
  }
});
