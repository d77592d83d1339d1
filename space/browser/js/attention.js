/**
 * Attention maps over the pixels of their face, as `rmn_hub.attention` lays them.
 *
 * @typedef {import('./recognizer.js').Grid} Grid
 */

import settings from './settings.js';

// A map whose values differ by less than this share of the largest one holds only rounding errors.
const FLAT = 1e-5;

/**
 * Stretch a map to 0..1; a flat one becomes zeros.
 * @param {Grid} grid
 * @returns {Grid}
 */
export function normalize({ width, height, values }) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const spread = high - low;
  const usable = spread > FLAT * Math.max(Math.abs(low), Math.abs(high)) && Number.isFinite(spread);
  return { width, height, values: values.map(value => (usable ? (value - low) / spread : 0)) };
}

/**
 * Divide features before and after a mask by the larger maximum of the two.
 * @param {Grid} before
 * @param {Grid} after
 * @returns {[Grid, Grid]}
 */
export function onOneScale(before, after) {
  const scale = Math.max(...before.values, ...after.values, 1e-12);
  return [
    { ...before, values: before.values.map(value => value / scale) },
    { ...after, values: after.values.map(value => value / scale) },
  ];
}

/**
 * Return the weights that stretch a line of a map over the same line of its face. Cell i of n sees the face around
 * i / n of its width, and the curve between is Keys' cubic convolution.
 * @param {number} cells
 * @param {number} pixels
 * @returns {{cell: number, weight: number}[][]}
 */
function placement(cells, pixels) {
  return Array.from({ length: pixels }, (_, pixel) => {
    const position = Math.min(Math.max(((pixel + 0.5) * cells) / pixels, 0), cells - 1);
    const left = Math.floor(position);
    return [-1, 0, 1, 2].map(offset => {
      const distance = Math.abs(position - left - offset);
      const near = 1.5 * distance ** 3 - 2.5 * distance ** 2 + 1;
      const far = -0.5 * distance ** 3 + 2.5 * distance ** 2 - 4 * distance + 2;
      return { cell: Math.min(Math.max(left + offset, 0), cells - 1), weight: distance <= 1 ? near : far };
    });
  });
}

/**
 * Stretch a map over its face.
 * @param {Grid} grid
 * @param {number} size pixels on a side
 */
export function place({ width, height, values }, size) {
  const [across, down] = [placement(width, size), placement(height, size)];
  const wide = new Float32Array(height * size);
  for (let row = 0; row < height; row++) {
    across.forEach((taps, column) => {
      wide[row * size + column] = taps.reduce((sum, { cell, weight }) => sum + weight * values[row * width + cell], 0);
    });
  }
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const placed = new Float32Array(size * size);
  down.forEach((taps, row) => {
    for (let column = 0; column < size; column++) {
      const value = taps.reduce((sum, { cell, weight }) => sum + weight * wide[cell * size + column], 0);
      placed[row * size + column] = Math.min(high, Math.max(low, value)); // a cubic curve overshoots a little
    }
  });
  return placed;
}

/**
 * Return values in 0..1 in the colours of the maps.
 * @param {Float32Array} values `size x size`
 * @param {number} size
 * @param {boolean} fading whether low values let through what lies below
 */
export function colored(values, size, fading = false) {
  const image = new ImageData(size, size);
  values.forEach((value, place) => {
    const share = Math.min(1, Math.max(0, value));
    const from = 6 * Math.round(share * 255);
    for (let channel = 0; channel < 3; channel++) {
      image.data[4 * place + channel] = parseInt(settings.heat.slice(from + 2 * channel, from + 2 * channel + 2), 16);
    }
    image.data[4 * place + 3] = fading ? share * 220 : 255;
  });
  return image;
}
