/**
 * Camera cuts, by the rules of `rmn_hub.video.cuts`: frames that show another scene than the frame before. Cameras of
 * conference programs cut, and so does a visitor who covers the lens.
 *
 * @typedef {import('./pixels.js').Pixels} Pixels
 */

import { reduce, resize } from './pixels.js';

/** Compares thumbnails of neighbouring frames. */
export class CutDetector {
  /** @param {typeof import('./settings.js').default['cuts']} numbers */
  constructor(numbers) {
    this.numbers = numbers;
    /** @type {Uint8Array | Uint8ClampedArray | undefined} */
    this.last = undefined;
    this.motion = 0;
  }

  /**
   * Return whether there is a cut between the last frame and this one.
   * @param {Pixels} frame
   */
  update(frame) {
    const { leastChange, againstMotion, mostCorrelation, newest } = this.numbers;
    const [last, now] = [this.last, this.#thumbnail(frame)];
    this.last = now;
    if (!last) return false;
    let change = 0;
    for (let place = 0; place < now.length; place++) change += Math.abs(now[place] - last[place]);
    change /= now.length;
    const cut = change > Math.max(leastChange, againstMotion * this.motion) && correlation(now, last) < mostCorrelation;
    // The scene after a cut moves as it likes: its motion was not measured yet.
    this.motion = cut ? 0 : this.motion + newest * (change - this.motion);
    return cut;
  }

  /** @param {Pixels} frame */
  #thumbnail(frame) {
    const { width, height } = this.numbers;
    const small = reduce(frame, Math.max(1, Math.floor(frame.width / width)), Math.max(1, Math.floor(frame.height / height)));
    return (small.width === width && small.height === height ? small : resize(small, width, height)).data;
  }
}

/**
 * Return the correlation of two thumbnails in -1..1; 1 where both are flat, 0 where one is.
 * @param {Uint8Array | Uint8ClampedArray} first
 * @param {Uint8Array | Uint8ClampedArray} second
 */
function correlation(first, second) {
  const size = first.length;
  let [a, b, aa, bb, ab] = [0, 0, 0, 0, 0];
  for (let place = 0; place < size; place++) {
    const [x, y] = [first[place], second[place]];
    a += x;
    b += y;
    aa += x * x;
    bb += y * y;
    ab += x * y;
  }
  const [varianceA, varianceB] = [aa - (a * a) / size, bb - (b * b) / size];
  // Below a standard deviation of 1 of 255, a thumbnail is one colour and its noise.
  const [flatA, flatB] = [varianceA < size, varianceB < size];
  if (flatA || flatB) return Number(flatA && flatB);
  return (ab - (a * b) / size) / Math.sqrt(varianceA * varianceB);
}
