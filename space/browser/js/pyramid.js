/** An image at all the sizes that MTCNN looks at, and the crops that it takes from them: `rmn_hub.detection.pyramid`. */

import { halve, taps } from './pixels.js';

/** @typedef {import('./pixels.js').Pixels} Pixels */

/** An image and its halves, quarters, ..., from which every other size is made. */
export class Pyramid {
  /**
   * @param {Pixels} image RGB
   * @param {number} smallest the shorter side of the smallest halving has at least this many pixels
   */
  constructor(image, smallest) {
    this.width = image.width;
    this.height = image.height;
    this.images = [image];
    for (let last = image; Math.min(last.width, last.height) >= 2 * smallest; this.images.push(last)) {
      last = halve(last);
    }
  }

  /**
   * Return the image at `width x height` pixels, about `scale` of its size: `(3, height, width)` in -1..1.
   * @param {number} width
   * @param {number} height
   * @param {number} scale
   */
  level(width, height, scale) {
    const halving = Math.min(Math.max(0, Math.floor(-Math.log2(scale))), this.images.length - 1);
    const image = this.images[halving];
    const across = taps(image.width, image.width, width);
    const down = taps(image.height, image.height, height);
    // In floats: values rounded to 8 bits move scores by a hundredth.
    const wide = new Float32Array(image.height * width * 3);
    for (let row = 0, to = 0; row < image.height; row++) {
      for (let column = 0; column < width; column++, to += 3) {
        let [red, green, blue] = [0, 0, 0];
        for (let tap = 0, at = (row * image.width + across.starts[column]) * 3; tap < across.counts[column]; tap++) {
          const weight = across.weights[column * across.most + tap];
          red += weight * image.data[at++];
          green += weight * image.data[at++];
          blue += weight * image.data[at++];
        }
        wide[to] = red;
        wide[to + 1] = green;
        wide[to + 2] = blue;
      }
    }
    const plane = width * height;
    const pixels = new Float32Array(3 * plane);
    const line = new Float64Array(width * 3);
    for (let row = 0; row < height; row++) {
      line.fill(0);
      for (let tap = 0; tap < down.counts[row]; tap++) {
        const weight = down.weights[row * down.most + tap];
        const start = (down.starts[row] + tap) * width * 3;
        for (let place = 0; place < line.length; place++) line[place] += weight * wide[start + place];
      }
      for (let column = 0, from = 0, to = row * width; column < width; column++, to++) {
        for (let channel = 0; channel < 3; channel++) pixels[to + channel * plane] = normalized(line[from++]);
      }
    }
    return pixels;
  }

  /**
   * Write squares of the image, each scaled to `size` pixels, to `(N, 3, size, size)`; outside the image they are grey.
   * A pixel of a crop is the mean of 2 x 2 samples, bilinear between the pixels of the image.
   * @param {Float32Array[]} boxes
   * @param {number} size
   */
  crops(boxes, size) {
    const crops = new Float32Array(boxes.length * 3 * size * size);
    boxes.forEach((box, number) => {
      // From the halving where the crop has once to twice as many pixels as it needs: four samples are then its mean.
      const ratio = Math.max((box[2] - box[0]) / size, 1);
      const halving = Math.min(Math.floor(Math.log2(ratio)), this.images.length - 1);
      const image = this.images[halving];
      const [x0, y0, x1, y1] = box.map(value => value * 0.5 ** halving);
      const across = samples(x0, x1, size, image.width);
      const down = samples(y0, y1, size, image.height);
      sample(image, across, down, size, crops.subarray(number * 3 * size * size, (number + 1) * 3 * size * size));
    });
    return crops;
  }
}

/**
 * Return the four pixels of a line, and their weights, that each of `size` pixels of a crop is made of.
 * @param {number} start
 * @param {number} end
 * @param {number} size
 * @param {number} length pixels of the line
 */
function samples(start, end, size, length) {
  const step = (end - start) / size;
  const places = new Int32Array(4 * size);
  const weights = new Float32Array(4 * size);
  for (let number = 0; number < 2 * size; number++) {
    let position = start - 0.5 + ((number + 0.5) / 2) * step;
    const inside = position >= -1 && position <= length;
    position = Math.min(Math.max(position, 0), length - 1);
    const first = Math.floor(position);
    const part = position - first;
    places[2 * number] = first;
    places[2 * number + 1] = Math.min(first + 1, length - 1);
    weights[2 * number] = inside ? (1 - part) / 2 : 0;
    weights[2 * number + 1] = inside ? part / 2 : 0;
  }
  return { places, weights };
}

/**
 * @param {Pixels} image
 * @param {ReturnType<typeof samples>} across
 * @param {ReturnType<typeof samples>} down
 * @param {number} size
 * @param {Float32Array} crop where it is written to
 */
function sample({ width, data }, across, down, size, crop) {
  const [top, bottom] = [down.places[0], down.places[4 * size - 1]];
  const plane = size * size;
  const wide = new Float32Array((bottom - top + 1) * size * 3);
  for (let row = top, to = 0; row <= bottom; row++) {
    for (let column = 0; column < size; column++, to += 3) {
      for (let tap = 4 * column; tap < 4 * column + 4; tap++) {
        const weight = across.weights[tap];
        const at = (row * width + across.places[tap]) * 3;
        for (let channel = 0; channel < 3; channel++) wide[to + channel] += weight * normalized(data[at + channel]);
      }
    }
  }
  for (let row = 0; row < size; row++) {
    for (let tap = 4 * row; tap < 4 * row + 4; tap++) {
      const weight = down.weights[tap];
      let from = (down.places[tap] - top) * size * 3;
      for (let column = 0; column < size; column++) {
        for (let channel = 0; channel < 3; channel++) {
          crop[channel * plane + row * size + column] += weight * wide[from++];
        }
      }
    }
  }
}

/** @param {number} value in 0..255 */
function normalized(value) {
  return (value - 127.5) / 128;
}
