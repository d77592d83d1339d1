/**
 * Pixels as Pillow has them: its resize, its reduction, its luma, with the same rounding.
 *
 * A canvas scales with filters of its own, which differ between browsers; MTCNN's scores would move with them.
 *
 * @typedef {object} Pixels
 * @property {number} width
 * @property {number} height
 * @property {number} channels 3 (RGB) or 1 (luma)
 * @property {Uint8Array | Uint8ClampedArray} data rows from the top, `channels` bytes for each pixel
 */

// Pillow multiplies whole numbers of this many bits after the point.
const PRECISION = 22;

/**
 * Return the nearest whole number, and the even one of two, as Python's `round`.
 * @param {number} value
 */
export function roundEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

/**
 * Return the RGB pixels of a canvas's RGBA; what is transparent must have been drawn on white.
 * @param {ImageData} image
 * @returns {Pixels}
 */
export function withoutAlpha(image) {
  const { width, height, data } = image;
  const pixels = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < pixels.length; from += 4, to += 3) {
    pixels[to] = data[from];
    pixels[to + 1] = data[from + 1];
    pixels[to + 2] = data[from + 2];
  }
  return { width, height, channels: 3, data: pixels };
}

/**
 * Return luma (ITU-R 601), rounded to 8 bits.
 * @param {Pixels} image RGB
 * @returns {Pixels}
 */
export function luma({ width, height, data }) {
  const grey = new Uint8Array(width * height);
  for (let from = 0, to = 0; to < grey.length; from += 3, to++) {
    grey[to] = (data[from] * 19595 + data[from + 1] * 38470 + data[from + 2] * 7471 + 0x8000) >> 16;
  }
  return { width, height, channels: 1, data: grey };
}

/**
 * Return the means of blocks of pixels; blocks at the right and at the bottom may be smaller.
 * @param {Pixels} image
 * @param {number} across width of a block
 * @param {number} down height of a block
 * @returns {Pixels}
 */
export function reduce({ width, height, channels, data }, across, down) {
  const [columns, rows] = [Math.ceil(width / across), Math.ceil(height / down)];
  const means = new Uint8Array(columns * rows * channels);
  for (let row = 0, to = 0; row < rows; row++) {
    const [top, bottom] = [row * down, Math.min(height, (row + 1) * down)];
    for (let column = 0; column < columns; column++) {
      const [left, right] = [column * across, Math.min(width, (column + 1) * across)];
      const count = (bottom - top) * (right - left);
      for (let channel = 0; channel < channels; channel++, to++) {
        let sum = count >> 1;
        for (let y = top; y < bottom; y++) {
          const line = y * width * channels + channel;
          for (let x = left; x < right; x++) sum += data[line + x * channels];
        }
        means[to] = sum / count;
      }
    }
  }
  return { width: columns, height: rows, channels, data: means };
}

/**
 * Return the image at half its size; an odd last row or column is left out.
 * @param {Pixels} image RGB
 * @returns {Pixels}
 */
export function halve({ width, height, channels, data }) {
  const [columns, rows] = [width >> 1, height >> 1];
  const means = new Uint8Array(columns * rows * channels);
  const line = width * channels;
  for (let row = 0, to = 0; row < rows; row++) {
    for (let column = 0, from = 2 * row * line; column < columns; column++, from += channels) {
      for (let channel = 0; channel < channels; channel++, from++, to++) {
        means[to] = (data[from] + data[from + channels] + data[from + line] + data[from + line + channels] + 2) >> 2;
      }
    }
  }
  return { width: columns, height: rows, channels, data: means };
}

/**
 * Return what each pixel of a resized line is made of: a triangle as wide as two steps of the line.
 * @param {number} length pixels of the line
 * @param {number} extent pixels of the line that are shown, from its start; need not be whole
 * @param {number} size pixels of the resized line
 */
export function taps(length, extent, size) {
  const step = extent / size;
  const support = Math.max(1, step);
  const most = 2 * Math.ceil(support) + 1;
  const starts = new Int32Array(size);
  const counts = new Int32Array(size);
  const weights = new Float64Array(size * most);
  for (let place = 0; place < size; place++) {
    const centre = (place + 0.5) * step;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(length, Math.trunc(centre + support + 0.5));
    let sum = 0;
    for (let pixel = start; pixel < end; pixel++) {
      const weight = Math.max(0, 1 - Math.abs((pixel - centre + 0.5) / support));
      weights[place * most + pixel - start] = weight;
      sum += weight;
    }
    for (let tap = 0; tap < end - start; tap++) weights[place * most + tap] /= sum;
    starts[place] = start;
    counts[place] = end - start;
  }
  return { starts, counts, weights, most };
}

/**
 * Resize as `Image.resize(..., BILINEAR)` does with 8 bits: columns first, rounded, then rows.
 * @param {Pixels} image
 * @param {number} width
 * @param {number} height
 * @param {[number, number]} [extent] the part of the image from its upper left corner that is shown
 * @returns {Pixels}
 */
export function resize(image, width, height, extent = [image.width, image.height]) {
  const { channels } = image;
  const across = fixed(taps(image.width, extent[0], width));
  const down = fixed(taps(image.height, extent[1], height));
  const wide = new Uint8Array(width * image.height * channels);
  pass(image.data, wide, across, image.height, image.width * channels, channels, width * channels, channels, channels);
  const data = new Uint8Array(width * height * channels);
  pass(wide, data, down, width, channels, width * channels, channels, width * channels, channels);
  return { width, height, channels, data };
}

/**
 * Resize as Pillow does with `reducing_gap=2.0`: first by a whole factor where the image is far larger.
 * @param {Pixels} image
 * @param {number} width
 * @param {number} height
 * @returns {Pixels}
 */
export function shrink(image, width, height) {
  const across = Math.max(1, Math.trunc(image.width / width / 2));
  const down = Math.max(1, Math.trunc(image.height / height / 2));
  if (across === 1 && down === 1) return resize(image, width, height);
  return resize(reduce(image, across, down), width, height, [image.width / across, image.height / down]);
}

/** @param {ReturnType<typeof taps>} found */
function fixed(found) {
  const whole = Int32Array.from(found.weights, weight => Math.round(weight * (1 << PRECISION)));
  return { ...found, whole };
}

/**
 * Resize every line of one direction.
 * @param {Uint8Array | Uint8ClampedArray} from
 * @param {Uint8Array} to
 * @param {ReturnType<typeof fixed>} found
 * @param {number} lines lines to resize
 * @param {number} fromLine bytes from one line to the next in `from`
 * @param {number} fromStep bytes from one pixel of a line to the next in `from`
 * @param {number} toLine the same in `to`
 * @param {number} toStep the same in `to`
 * @param {number} channels
 */
function pass(from, to, found, lines, fromLine, fromStep, toLine, toStep, channels) {
  const { starts, counts, whole, most } = found;
  const half = 1 << (PRECISION - 1);
  for (let line = 0; line < lines; line++) {
    for (let place = 0; place < starts.length; place++) {
      const first = line * fromLine + starts[place] * fromStep;
      for (let channel = 0; channel < channels; channel++) {
        let sum = half;
        for (let tap = 0, at = first + channel; tap < counts[place]; tap++, at += fromStep) {
          sum += from[at] * whole[place * most + tap];
        }
        to[line * toLine + place * toStep + channel] = Math.min(255, Math.max(0, sum >> PRECISION));
      }
    }
  }
}

/**
 * Return where the square around a box lies, in whole pixels.
 * @param {number[]} box x0, y0, x1, y1
 * @param {number} margin how much wider the square is than the longer side of the box
 */
export function squareOf([x0, y0, x1, y1], margin) {
  const side = Math.max(1, roundEven((1 + margin) * Math.max(x1 - x0, y1 - y0)));
  return { left: roundEven((x0 + x1 - side) / 2), top: roundEven((y0 + y1 - side) / 2), side };
}

/**
 * Return the square around a box, rounded to whole pixels, as `rmn_hub.detection.detector.crop_face` cuts it. Where it
 * leaves the image, the border of the image is repeated.
 * @param {Pixels} image
 * @param {number[]} box x0, y0, x1, y1
 * @param {number} margin how much wider the square is than the longer side of the box
 * @returns {Pixels}
 */
export function cropFace({ width, height, channels, data }, box, margin) {
  const { left, top, side } = squareOf(box, margin);
  const crop = new Uint8Array(side * side * channels);
  for (let row = 0, to = 0; row < side; row++) {
    const y = Math.min(height - 1, Math.max(0, top + row));
    for (let column = 0; column < side; column++) {
      const x = Math.min(width - 1, Math.max(0, left + column));
      for (let channel = 0; channel < channels; channel++) crop[to++] = data[(y * width + x) * channels + channel];
    }
  }
  return { width: side, height: side, channels, data: crop };
}
