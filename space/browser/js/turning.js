/** Images that lie on their side or stand upside down, as `rmn_hub.turning` treats them. */

/**
 * @typedef {import('./pixels.js').Pixels} Pixels
 * @typedef {import('./mtcnn.js').Face} Face
 */

import settings from './settings.js';

/**
 * Return whether there is no face, or none that the detector is sure of.
 * @param {Face[]} faces
 */
export function isDoubtful(faces) {
  return faces.every(face => face.score < settings.turning.doubtful);
}

/**
 * Look for faces in an image turned by 90, 180 and 270 degrees; return the turn that shows the most, and its faces in
 * pixels of the image as it came.
 * @param {Pixels} image
 * @param {(image: Pixels) => Promise<Face[]>} detect
 * @param {(image: Pixels) => Promise<Face[]>} detectLarger a quicker search that chooses the turn
 */
export async function foundTurned(image, detect, detectLarger) {
  /** @type {{degrees: number, faces: Face[]}} */
  let best = { degrees: 0, faces: [] };
  for (const degrees of [90, 180, 270]) {
    const faces = sure(await detectLarger(turn(image, degrees)));
    if (faces.length > best.faces.length) best = { degrees, faces };
  }
  const { degrees } = best;
  if (!degrees) return best;
  const again = sure(await detect(turn(image, degrees)));
  const faces = again.length ? again : best.faces;
  return { degrees, faces: faces.map(face => turnedBack(face, degrees, image.width, image.height)) };
}

/** @param {Face[]} faces */
function sure(faces) {
  return faces.filter(face => face.score >= settings.turning.sure);
}

/**
 * Return an image turned clockwise by 0, 90, 180 or 270 degrees.
 * @param {Pixels} image
 * @param {number} degrees
 * @returns {Pixels}
 */
export function turn(image, degrees) {
  if (!degrees) return image;
  const { width, height, channels, data } = image;
  const turned = new Uint8Array(data.length);
  const wide = degrees === 180 ? width : height;
  // Where the first pixel goes, and how far each step to the right and down is.
  const { first, across, down } = {
    90: { first: height - 1, across: wide, down: -1 },
    180: { first: width * height - 1, across: -1, down: -wide },
    270: { first: (width - 1) * wide, across: -wide, down: 1 },
  }[degrees];
  for (let y = 0, from = 0; y < height; y++) {
    for (let x = 0, place = first + y * down; x < width; x++, place += across) {
      for (let channel = 0; channel < channels; channel++) turned[place * channels + channel] = data[from++];
    }
  }
  return { width: wide, height: degrees === 180 ? height : width, channels, data: turned };
}

/**
 * @param {Face} face
 * @param {number} degrees
 * @param {number} width of the image as it came
 * @param {number} height likewise
 * @returns {Face}
 */
function turnedBack({ box, landmarks, score }, degrees, width, height) {
  const back = (/** @type {number[]} */ [x, y]) => (degrees === 180 ? [width - x, height - y] : degrees === 90 ? [y, height - x] : [width - y, x]);
  const [[x0, y0], [x1, y1]] = [back(box.slice(0, 2)), back(box.slice(2))];
  return { box: [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)], landmarks: landmarks.map(back), score };
}
