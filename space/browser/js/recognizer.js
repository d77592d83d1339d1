/**
 * From an image to the expressions of its faces, as `rmn_hub.ExpressionRecognizer` does it.
 *
 * @typedef {import('./pixels.js').Pixels} Pixels
 * @typedef {import('./mtcnn.js').Face} Face
 *
 * @typedef {object} Grid one value for each place
 * @property {number} width
 * @property {number} height
 * @property {Float32Array} values
 *
 * @typedef {object} Attention
 * @property {Grid[]} maps each stage's map in 0..1
 * @property {Grid[]} before the strength of each stage's features before its mask, in 0..1
 * @property {Grid[]} after the same after the mask
 * @property {Pixels} crop
 * @property {number} turned degrees clockwise that it was turned by, so that the face is upright
 *
 * @typedef {Face & {
 *   index: number,
 *   expression: string,
 *   probability: number,
 *   probabilities: Record<string, number>,
 *   uncertain: boolean,
 *   attention?: Attention,
 *   track_id?: number,
 *   raw?: Record<string, number>,
 * }} FaceExpression
 *
 * @typedef {object} Result
 * @property {number} width
 * @property {number} height
 * @property {FaceExpression[]} faces
 * @property {number} [turned] degrees clockwise that the image had to be turned by for its faces to be found
 */

import { normalize, onOneScale } from './attention.js';
import { readingOrder } from './boxes.js';
import { luma, resize } from './pixels.js';
import { foundTurned, isDoubtful } from './turning.js';
import { cropTurned, lean } from './upright.js';

// Faces that go through the network at once.
const BATCH = 8;

/** Detector, crops, network. */
export class Recognizer {
  /**
   * @param {import('./mtcnn.js').Detector} detector
   * @param {import('./runtime.js').Network} network
   * @param {typeof import('./settings.js').default} settings
   */
  constructor(detector, network, settings) {
    this.detector = detector;
    this.network = network;
    this.settings = settings;
    /** @type {{pixels: Float32Array, count: number} | undefined} what the network saw last */
    this.latest = undefined;
  }

  /**
   * Return the faces of an image in reading order, with their expressions.
   * @param {Pixels} image RGB
   * @param {{minFace?: number, minConfidence?: number, attention?: boolean, maxFaces?: number}} [options]
   * @returns {Promise<Result>}
   */
  async recognize(image, { minFace, minConfidence = 0, attention = false, maxFaces = Infinity } = {}) {
    let [faces, turned] = [await this.detector.detect(image, minFace), 0];
    if (isDoubtful(faces)) {
      const search = (/** @type {number} */ larger) => (/** @type {Pixels} */ other) =>
        this.detector.detect(other, minFace, larger);
      const sideways = await foundTurned(image, search(1), search(this.detector.numbers.larger));
      if (sideways.faces.length) [faces, turned] = [sideways.faces, sideways.degrees];
    }
    faces = faces.slice(0, maxFaces);
    faces = readingOrder(faces.map(face => face.box)).map(place => faces[place]);
    const expressions = await this.classify(image, faces, minConfidence, attention, turned);
    return { width: image.width, height: image.height, faces: expressions, ...(turned && { turned }) };
  }

  /**
   * Return the expressions of faces, in their order.
   * @param {Pixels} image RGB
   * @param {Face[]} faces
   * @param {number} minConfidence probability below which an expression is uncertain
   * @param {boolean} attention
   * @param {number} [turned] degrees clockwise that show the faces upright
   * @returns {Promise<FaceExpression[]>}
   */
  async classify(image, faces, minConfidence, attention, turned = 0) {
    const { classes, margin, stages, views } = this.settings;
    const results = [];
    for (let start = 0; start < faces.length; start += BATCH) {
      const batch = faces.slice(start, start + BATCH);
      const turns = batch.map(face => (face.landmarks ? -lean(face) : turned));
      const crops = batch.map((face, number) => cropTurned(image, face.box, margin, turns[number]));
      const pixels = views > 1 ? withMirrored(this.#pixelValues(crops), this.settings.processor.width) : this.#pixelValues(crops);
      this.latest = { pixels, count: batch.length * views };
      const outputs = await this.network(pixels, batch.length * views, attention && stages > 0);
      batch.forEach((face, number) => {
        const seen = Array.from({ length: views }, (_, view) => softmax(part(outputs.logits, number + view * batch.length).values));
        const probabilities = classes.map((_, place) => seen.reduce((sum, values) => sum + values[place], 0) / views);
        const likely = probabilities.indexOf(Math.max(...probabilities));
        /** @type {FaceExpression} */
        const result = {
          index: start + number + 1,
          box: face.box,
          landmarks: face.landmarks,
          score: face.score,
          expression: classes[likely],
          probability: probabilities[likely],
          probabilities: Object.fromEntries(classes.map((name, place) => [name, probabilities[place]])),
          uncertain: probabilities[likely] < minConfidence,
        };
        if (attention && stages > 0) result.attention = attentionOf(outputs, number, stages, crops[number], turns[number]);
        results.push(result);
      });
    }
    return results;
  }

  /**
   * Return the pixel values of crops, `(N, 3, height, width)`: luma, resized, in three equal channels.
   * @param {Pixels[]} crops
   */
  #pixelValues(crops) {
    const { width, height, grayscale, factor, mean, std } = this.settings.processor;
    const plane = width * height;
    const values = new Float32Array(crops.length * 3 * plane);
    crops.forEach((crop, number) => {
      const { channels, data } = resize(grayscale ? luma(crop) : crop, width, height);
      for (let channel = 0; channel < 3; channel++) {
        const start = (3 * number + channel) * plane;
        const from = channels === 1 ? 0 : channel;
        for (let place = 0; place < plane; place++) {
          values[start + place] = (data[place * channels + from] * factor - mean[channel]) / std[channel];
        }
      }
    });
    return values;
  }
}

/**
 * Return pixel values followed by those of the mirror images: a face and its mirror image have the same probabilities.
 * @param {Float32Array} values
 * @param {number} width
 */
function withMirrored(values, width) {
  const both = new Float32Array(2 * values.length);
  both.set(values);
  for (let line = 0; line < values.length; line += width) {
    both.set(values.subarray(line, line + width).slice().reverse(), values.length + line);
  }
  return both;
}

/**
 * Return the output of one face of a batch.
 * @param {{data: Float32Array, dims: readonly number[]}} output
 * @param {number} number
 * @returns {Grid}
 */
function part({ data, dims }, number) {
  const length = data.length / dims[0];
  return { width: dims[2] ?? 1, height: dims[1], values: data.slice(number * length, (number + 1) * length) };
}

/**
 * @param {Record<string, {data: Float32Array, dims: readonly number[]}>} outputs
 * @param {number} number
 * @param {number} stages
 * @param {Pixels} crop
 * @param {number} turned degrees clockwise that it was turned by
 * @returns {Attention}
 */
function attentionOf(outputs, number, stages, crop, turned) {
  const all = kind => Array.from({ length: stages }, (_, stage) => part(outputs[`${kind}${stage + 1}`], number));
  const maps = all('map').map(normalize);
  const scaled = all('before').map((before, stage) => onOneScale(before, part(outputs[`after${stage + 1}`], number)));
  return { maps, before: scaled.map(pair => pair[0]), after: scaled.map(pair => pair[1]), crop, turned };
}

/**
 * @param {Float32Array} logits
 * @returns {number[]} probabilities that sum to 1
 */
function softmax(logits) {
  const highest = Math.max(...logits);
  const powers = Array.from(logits, logit => Math.exp(logit - highest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map(power => power / sum);
}
