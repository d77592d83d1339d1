/** Heads that lean to a side, cut out upright as `rmn_hub.turning.lean` and `rmn_hub.detection.detector.crop_face` do. */

/**
 * @typedef {import('./pixels.js').Pixels} Pixels
 * @typedef {import('./mtcnn.js').Face} Face
 */

import { cropFace, roundEven, squareOf } from './pixels.js';
import { turn } from './turning.js';

/**
 * Return how far a head leans clockwise, in degrees: the direction of the line through the eyes.
 * @param {Pick<Face, 'landmarks'>} face
 */
export function lean({ landmarks }) {
  // The mouth lies clockwise of the way from the left eye to the right one, unless a detector has them the other way.
  const [[left, top], [right, bottom], , ...mouth] = landmarks;
  let [x, y] = [right - left, bottom - top];
  const down = [mouth[0][0] + mouth[1][0] - left - right, mouth[0][1] + mouth[1][1] - top - bottom];
  if (x * down[1] - y * down[0] < 0) [x, y] = [-x, -y];
  return (Math.atan2(y, x) * 180) / Math.PI;
}

/**
 * Return the square around a box, turned clockwise around its centre.
 * @param {Pixels} image
 * @param {number[]} box x0, y0, x1, y1
 * @param {number} margin how much wider the square is than the longer side of the box
 * @param {number} degrees
 * @returns {Pixels}
 */
export function cropTurned(image, box, margin, degrees) {
  const quarter = 90 * roundEven(degrees / 90);
  const upright = ((quarter % 360) + 360) % 360;
  if (degrees === quarter) return turn(cropFace(image, box, margin), upright);
  const { left, top, side } = squareOf(box, margin);
  const more = Math.ceil(((Math.SQRT2 - 1) / 2) * side);
  const wide = side + 2 * more;
  const around = [left - more, top - more, left - more + wide, top - more + wide];
  return rotated(turn(cropFace(image, around, 0), upright), degrees - quarter, more, side);
}

/**
 * Return the middle of a square image that is turned clockwise, by Pillow's bicubic filter.
 * @param {Pixels} image
 * @param {number} degrees in -45..45
 * @param {number} edge pixels at each border that are left out
 * @param {number} side of what is returned
 * @returns {Pixels}
 */
function rotated({ width, channels, data }, degrees, edge, side) {
  const [cosine, sine] = [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180)];
  const turned = new Uint8Array(side * side * channels);
  const inside = /** @param {number} place */ place => Math.min(width - 1, Math.max(0, place));
  const line = width * channels;
  for (let row = 0, to = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const across = column + edge + 0.5 - width / 2;
      const down = row + edge + 0.5 - width / 2;
      const x = cosine * across + sine * down + width / 2 - 0.5;
      const y = cosine * down - sine * across + width / 2 - 0.5;
      const left = Math.floor(x);
      const top = Math.floor(y);
      const a = inside(left - 1) * channels;
      const b = inside(left) * channels;
      const c = inside(left + 1) * channels;
      const d = inside(left + 2) * channels;
      // Without arrays: with them, a face of 250 px took 79 ms, and 6 without.
      const along = (/** @type {number} */ from) => cubic(data[from + a], data[from + b], data[from + c], data[from + d], x - left);
      for (let channel = 0; channel < channels; channel++) {
        const value = cubic(
          along(inside(top - 1) * line + channel), along(inside(top) * line + channel),
          along(inside(top + 1) * line + channel), along(inside(top + 2) * line + channel), y - top,
        );
        turned[to++] = Math.min(255, Math.max(0, Math.trunc(value)));
      }
    }
  }
  return { width: side, height: side, channels, data: turned };
}

/**
 * Return the value between the second and the third of four.
 * @param {number} before
 * @param {number} first
 * @param {number} second
 * @param {number} after
 * @param {number} place 0..1
 */
function cubic(before, first, second, after, place) {
  const square = 2 * (before - first) + second - after;
  return first + place * (second - before + place * (square + place * (first - before - second + after)));
}
