/** Arithmetic on boxes, as `rmn_hub.detection.boxes` and `rmn_hub.results` have it. A box is x0, y0, x1, y1. */

/**
 * Return the box with its coordinates moved by `offsets`, in parts of its width and height.
 * @param {ArrayLike<number>} box
 * @param {ArrayLike<number>} offsets
 */
export function moved(box, offsets) {
  const [width, height] = [box[2] - box[0], box[3] - box[1]];
  return Float32Array.of(
    box[0] + offsets[0] * width, box[1] + offsets[1] * height,
    box[2] + offsets[2] * width, box[3] + offsets[3] * height,
  );
}

/**
 * Return the square of the longer side around the same centre.
 * @param {ArrayLike<number>} box
 */
export function square(box) {
  const [x, y] = centre(box);
  const half = Math.max(box[2] - box[0], box[3] - box[1]) / 2;
  return Float32Array.of(x - half, y - half, x + half, y + half);
}

/** @param {ArrayLike<number>} box */
export function area(box) {
  return (box[2] - box[0]) * (box[3] - box[1]);
}

/** @param {ArrayLike<number>} box */
export function centre(box) {
  return [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
}

/**
 * Return the shared area of two boxes as a part of their union, or of the smaller one.
 * @param {ArrayLike<number>} first
 * @param {ArrayLike<number>} second
 */
export function overlap(first, second, ofSmaller = false) {
  const width = Math.min(first[2], second[2]) - Math.max(first[0], second[0]);
  const height = Math.min(first[3], second[3]) - Math.max(first[1], second[1]);
  if (width <= 0 || height <= 0) return 0;
  const [one, other, shared] = [area(first), area(second), width * height];
  const whole = ofSmaller ? Math.min(one, other) : one + other - shared;
  return whole > 0 ? shared / whole : 0;
}

/**
 * Return the `most` best of some candidates, the best first; equal ones keep their order.
 * @template {{score: number}} Candidate
 * @param {Candidate[]} candidates
 */
export function best(candidates, most = Infinity) {
  return [...candidates].sort((first, second) => second.score - first.score).slice(0, most);
}

/**
 * Return the candidates that non-maximum suppression keeps, the best first.
 * @template {{score: number, box: ArrayLike<number>}} Candidate
 * @param {Candidate[]} candidates
 * @param {number} most a candidate that shares more than this with a better one is dropped
 */
export function suppress(candidates, most, ofSmaller = false) {
  /** @type {Candidate[]} */
  const kept = [];
  for (const candidate of best(candidates)) {
    if (!kept.some(other => overlap(candidate.box, other.box, ofSmaller) > most)) kept.push(candidate);
  }
  return kept;
}

/**
 * Return the indices of boxes in reading order: rows from top to bottom, and from left to right in each row.
 * @param {ArrayLike<number>[]} boxes
 */
export function readingOrder(boxes) {
  let waiting = boxes.map((_, index) => index);
  waiting.sort((a, b) => boxes[a][1] + boxes[a][3] - boxes[b][1] - boxes[b][3] || boxes[a][0] - boxes[b][0]);
  /** @type {number[]} */
  const order = [];
  while (waiting.length) {
    const bottom = boxes[waiting[0]][3];
    const row = waiting.filter(index => (boxes[index][1] + boxes[index][3]) / 2 <= bottom);
    order.push(...row.sort((a, b) => boxes[a][0] - boxes[b][0] || boxes[a][1] - boxes[b][1]));
    waiting = waiting.filter(index => !row.includes(index));
  }
  return order;
}
