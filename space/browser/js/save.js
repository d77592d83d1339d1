/** What can be saved: the image with its boxes and labels, and the values as JSON. */

import { el } from './dom.js';
import { colorsOf, longLabelOf } from './labels.js';

/** @typedef {import('./recognizer.js').Result} Result */

// Long side of the saved image, in pixels.
const LONGEST = 2048;

/**
 * Return the values with the keys of `rmn-hub predict --json`.
 * @param {Result} result
 * @param {string} source name of the photo
 */
export function json({ width, height, faces, turned }, source) {
  const values = faces.map(({ index, box, landmarks, score, expression, probability, probabilities, uncertain }) => ({
    index, box, landmarks, score, expression, probability, probabilities, uncertain,
  }));
  const sideways = turned ? { message: turnedSentence(turned), turned } : {};
  return new Blob([JSON.stringify({ source, width, height, faces: values, ...sideways }, null, 2)], { type: 'application/json' });
}

/**
 * Return what a visitor should read about an image whose faces were found after turning it.
 * @param {number} degrees
 */
export function turnedSentence(degrees) {
  return `The image was turned by ${degrees} degrees clockwise to find its faces; boxes are in the image as it came.`;
}

/**
 * Return the photo with the box and the label of every face, as a JPEG.
 * @param {Result} result
 * @param {string} url of the photo
 * @returns {Promise<Blob>}
 */
export async function annotated({ width, height, faces }, url) {
  const photo = el('img', { src: url });
  await photo.decode();
  const scale = Math.min(1, LONGEST / Math.max(width, height));
  const canvas = el('canvas', { width: Math.round(width * scale), height: Math.round(height * scale) });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
  context.drawImage(photo, 0, 0, canvas.width, canvas.height);
  const longer = Math.max(canvas.width, canvas.height);
  const [line, size] = [Math.max(2, Math.round(longer / 300)), Math.max(12, Math.round(longer / 45))];
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = 'middle';
  const pad = Math.round(size / 3);
  const tall = size + 2 * pad;
  /** @type {number[][]} */
  const taken = [];
  for (const face of faces) {
    const [x0, y0, x1, y1] = face.box.map(value => value * scale);
    const { '--c': color, '--on': ink } = colorsOf(face.expression);
    context.setLineDash(face.uncertain ? [4 * line, 3 * line] : []);
    for (const [stroke, thick] of [[ink, line + 2], [color, line]]) {
      context.strokeStyle = stroke;
      context.lineWidth = thick;
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
    context.setLineDash([]);
    const text = `${faces.length > 1 ? `${face.index} ` : ''}${longLabelOf(face)}`;
    const wide = context.measureText(text).width + 2 * pad;
    const left = Math.max(0, Math.min(x0, canvas.width - wide));
    // Above its box, else below it, else wherever no other label lies.
    const tops = [y0 - tall - line, y1 + line, y0 + line, y1 - tall - line];
    const free = top => top >= 0 && top + tall <= canvas.height && taken.every(box => apart(box, [left, top, left + wide, top + tall]));
    const top = tops.find(free) ?? Math.max(0, Math.min(tops[0], canvas.height - tall));
    taken.push([left, top, left + wide, top + tall]);
    context.fillStyle = face.uncertain ? '#ffffff' : color;
    context.fillRect(left, top, wide, tall);
    context.strokeStyle = color;
    context.lineWidth = Math.max(1, line / 2);
    context.strokeRect(left, top, wide, tall);
    context.fillStyle = face.uncertain ? '#000000' : ink;
    context.fillText(text, left + pad, top + tall / 2);
  }
  return new Promise((resolve, reject) => {
    canvas.toBlob(blob => (blob ? resolve(blob) : reject(new Error('The image could not be made'))), 'image/jpeg', 0.9);
  });
}

/**
 * @param {number[]} first
 * @param {number[]} second
 */
function apart(first, second) {
  return first[2] <= second[0] || second[2] <= first[0] || first[3] <= second[1] || second[3] <= first[1];
}
