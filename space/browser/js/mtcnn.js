/**
 * MTCNN's cascade as `rmn_hub.detection.mtcnn` runs it: the same numbers (`settings.js` holds them), the same steps.
 *
 * @typedef {object} Face
 * @property {number[]} box x0, y0, x1, y1 in pixels of the image
 * @property {number[][]} landmarks five points: eyes, nose, corners of the mouth
 * @property {number} score 0..1
 *
 * @typedef {object} Networks
 * @property {(pixels: Float32Array, shape: number[]) => Promise<Float32Array[]>} pnet offsets and scores
 * @property {(pixels: Float32Array, shape: number[]) => Promise<Float32Array[]>} rnet offsets and scores
 * @property {(pixels: Float32Array, shape: number[]) => Promise<Float32Array[]>} onet offsets, landmarks and scores
 */

import { area, best, moved, square, suppress } from './boxes.js';
import { roundEven, shrink } from './pixels.js';
import { Pyramid } from './pyramid.js';

/** @typedef {import('./pixels.js').Pixels} Pixels */

/** Finds faces. */
export class Detector {
  /**
   * @param {Networks} networks
   * @param {typeof import('./settings.js').default['detector']} numbers MTCNN's constants
   */
  constructor(networks, numbers) {
    this.networks = networks;
    this.numbers = numbers;
  }

  /**
   * Return the faces of an image, largest first.
   * @param {Pixels} image RGB
   * @param {number} [minFace] smallest face in pixels of the image; when not given, 40 or more in large photos
   * @param {number} [larger] how many times as large the smallest face is, for a quicker search
   * @returns {Promise<Face[]>}
   */
  async detect(image, minFace, larger = 1) {
    const seen = this.#seen(image.width, image.height, larger, minFace);
    const same = seen.width === image.width && seen.height === image.height;
    const pyramid = new Pyramid(same ? image : shrink(image, seen.width, seen.height), this.numbers.window);
    const [x, y] = [image.width / seen.width, image.height / seen.height];
    return (await this.#cascade(pyramid, seen.minFace))
      .map(({ box, points, score }) => ({
        box: [box[0] * x, box[1] * y, box[2] * x, box[3] * y],
        landmarks: points.map(([across, down]) => [across * x, down * y]),
        score,
      }))
      .filter(({ box }) => isInside((box[0] + box[2]) / 2, image.width) && isInside((box[1] + box[3]) / 2, image.height))
      .sort((first, second) => area(second.box) - area(first.box));
  }

  /**
   * Return the size at which MTCNN sees an image, and the smallest face in pixels of that size.
   * @param {number} width
   * @param {number} height
   * @param {number} larger
   * @param {number} [minFace]
   */
  #seen(width, height, larger, minFace) {
    const { maxSize, minSeen, minFace: usual } = this.numbers;
    const longer = Math.max(width, height);
    const smallest = larger * (minFace ?? Math.max(usual, (longer * minSeen) / maxSize));
    const least = minFace === undefined ? 0 : minSeen / smallest;
    const scale = Math.min(1, Math.max(maxSize / longer, least));
    return {
      width: Math.max(1, roundEven(width * scale)),
      height: Math.max(1, roundEven(height * scale)),
      minFace: smallest * scale,
    };
  }

  /**
   * @param {Pyramid} pyramid
   * @param {number} smallest
   */
  async #cascade(pyramid, smallest) {
    const { refineThreshold, threshold, mostRefined } = this.numbers;
    const proposed = await this.#propose(pyramid, smallest);
    const refined = [];
    for await (const { box, outputs: [offsets, [score]] } of this.#onCrops('rnet', pyramid, proposed, 24)) {
      if (score > refineThreshold) refined.push({ box, offsets, score });
    }
    const squares = suppress(refined, 0.7).slice(0, mostRefined).map(({ box, offsets }) => square(moved(box, offsets)));
    const faces = [];
    for await (const { box, outputs: [offsets, five, [score]] } of this.#onCrops('onet', pyramid, squares, 48)) {
      if (!(score > threshold)) continue;
      const [width, height] = [box[2] - box[0], box[3] - box[1]];
      // Five x and then five y, in parts of the square that the network saw.
      const points = [0, 1, 2, 3, 4].map(point => [box[0] + width * five[point], box[1] + height * five[point + 5]]);
      faces.push({ box: moved(box, offsets), points, score });
    }
    return suppress(faces, 0.7, true);
  }

  /**
   * Return the squares where the first network, run over every level, finds a face.
   * @param {Pyramid} pyramid
   * @param {number} smallest
   */
  async #propose(pyramid, smallest) {
    const { window, stride, step, slack, proposalThreshold, mostProposals } = this.numbers;
    const found = [];
    for (let scale = window / (slack * smallest); Math.min(pyramid.width, pyramid.height) * scale >= window; scale *= step) {
      const [width, height] = [roundEven(pyramid.width * scale), roundEven(pyramid.height * scale)];
      const [across, down] = [pyramid.width / width, pyramid.height / height];
      const windows = [];
      for await (const { top, columns, rows, offsets, scores } of this.#strips(pyramid.level(width, height, scale), width, height)) {
        const places = columns * rows;
        for (let place = 0; place < places; place++) {
          const score = scores[place];
          if (!(score >= proposalThreshold)) continue;
          const [x, y] = [(place % columns) * stride, (top + Math.floor(place / columns)) * stride];
          const box = Float32Array.of(x * across, y * down, (x + window) * across, (y + window) * down);
          windows.push({ box, score, offsets: [0, 1, 2, 3].map(side => offsets[side * places + place]) });
        }
      }
      for (const { box, score, offsets } of suppress(best(windows, mostProposals), 0.5)) {
        found.push({ box: moved(box, offsets), score });
      }
    }
    return suppress(best(found, mostProposals), 0.7).map(({ box }) => square(box));
  }

  /**
   * Yield P-Net's outputs for a level, a strip of rows at a time: WebAssembly keeps the memory that it once had.
   * @param {Float32Array} pixels
   * @param {number} width
   * @param {number} height
   */
  async *#strips(pixels, width, height) {
    const { window, stride, pixelsAtOnce } = this.numbers;
    const rows = Math.max(1, Math.floor((pixelsAtOnce / width - window) / stride) + 1);
    const all = Math.floor((height - window + 1) / stride) + 1;
    for (let top = 0; top < all; top += rows) {
      const [from, to] = [top * stride, Math.min(height, (top + rows - 1) * stride + window)];
      const strip = to - from === height ? pixels : new Float32Array(3 * width * (to - from));
      if (strip !== pixels) {
        for (let channel = 0; channel < 3; channel++) {
          const plane = channel * width * height;
          strip.set(pixels.subarray(plane + from * width, plane + to * width), channel * width * (to - from));
        }
      }
      const [offsets, scores] = await this.networks.pnet(strip, [1, 3, to - from, width]);
      const columns = Math.floor((width - window + 1) / stride) + 1;
      yield { top, columns, rows: scores.length / columns, offsets, scores };
    }
  }

  /**
   * Yield each box with a network's outputs for it.
   * @param {'rnet' | 'onet'} name
   * @param {Pyramid} pyramid
   * @param {Float32Array[]} boxes
   * @param {number} size
   */
  async *#onCrops(name, pyramid, boxes, size) {
    const atOnce = Math.floor(this.numbers.cropPixelsAtOnce / size ** 2);
    for (let start = 0; start < boxes.length; start += atOnce) {
      const batch = boxes.slice(start, start + atOnce);
      const outputs = await this.networks[name](pyramid.crops(batch, size), [batch.length, 3, size, size]);
      for (let number = 0; number < batch.length; number++) {
        const own = outputs.map(output => {
          const length = output.length / batch.length;
          return output.subarray(number * length, (number + 1) * length);
        });
        yield { box: batch[number], outputs: own };
      }
    }
  }
}

/**
 * @param {number} value
 * @param {number} length
 */
function isInside(value, length) {
  return value > 0 && value < length;
}
