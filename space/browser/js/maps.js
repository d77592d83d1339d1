/** The attention maps of one face: four stages to choose from, and what each mask did to the features. */

import { colored, place } from './attention.js';
import { el } from './dom.js';

/**
 * @typedef {import('./recognizer.js').Attention} Attention
 * @typedef {import('./recognizer.js').Grid} Grid
 */

const SIZE = 192;
const FORMULA = 'features × (1 + mask)';

/**
 * Return the maps of a face; `stage` is shown in detail, and `choose` is called with another one.
 * @param {Attention} attention
 * @param {number} stage from 1
 * @param {(stage: number) => void} choose
 */
export function maps(attention, stage, choose) {
  const face = el(
    'figure',
    {},
    el('div', { class: 'rmn-tile rmn-crop', role: 'img', 'aria-label': 'The face as it was cut out' }),
    el('figcaption', {}, 'Crop', el('small', {}, 'from the photo')),
  );
  const tiles = attention.maps.map((grid, place) =>
    el(
      'button',
      { type: 'button', class: 'rmn-stage', 'data-stage': place + 1, 'aria-pressed': String(place + 1 === stage), click: () => choose(place + 1) },
      el('span', { class: 'rmn-tile rmn-crop', style: { '--heat': heat(grid) } }),
      el('span', { class: 'rmn-caption' }, `Stage ${place + 1}`, el('small', {}, `${grid.width} × ${grid.height} px`)),
    ),
  );
  return el('div', { style: { '--crop': cropUrl(attention) } }, el('div', { class: 'rmn-maps' }, face, ...tiles), steps(attention, stage));
}

/**
 * @param {Attention} attention
 * @param {number} stage
 */
function steps(attention, stage) {
  const images = /** @type {[string, string, Grid][]} */ ([
    ['Features before', `strength in stage ${stage}`, attention.before[stage - 1]],
    [`Map ${stage}`, 'change by the mask', attention.maps[stage - 1]],
    ['Features after', FORMULA, attention.after[stage - 1]],
  ]);
  const figures = images.map(([title, caption, grid]) =>
    el(
      'figure',
      {},
      el('div', { class: 'rmn-tile', role: 'img', 'aria-label': `${title}, stage ${stage}`, style: { '--heat': heat(grid) } }),
      el('figcaption', {}, title, el('small', {}, caption)),
    ),
  );
  const sign = () => el('span', { class: 'rmn-sign', 'aria-hidden': 'true' }, '→');
  return el(
    'div',
    { class: 'rmn-steps' },
    figures[0], sign(), figures[1], sign(), figures[2],
    el(
      'p',
      {},
      `The strength of the features that stage ${stage} found, how far its mask changed them, and what the next layers ` +
        `see. A mask lies between 0 and 1, so ${FORMULA} makes features up to twice as strong and removes none.`,
      el('span', { class: 'rmn-scale' }, el('span', {}, 'least'), el('i'), el('span', {}, 'most')),
    ),
  );
}

/** @param {Grid} grid */
function heat(grid) {
  return imageUrl(colored(place(grid, SIZE), SIZE));
}

/** @param {Attention} attention */
function cropUrl({ crop }) {
  const image = new ImageData(crop.width, crop.height);
  for (let from = 0, to = 0; from < crop.data.length; from += 3, to += 4) {
    image.data.set(crop.data.subarray(from, from + 3), to);
    image.data[to + 3] = 255;
  }
  const canvas = el('canvas', { width: SIZE, height: SIZE });
  const context = canvas.getContext('2d');
  context.imageSmoothingQuality = 'high';
  const whole = el('canvas', { width: crop.width, height: crop.height });
  whole.getContext('2d').putImageData(image, 0, 0);
  context.drawImage(whole, 0, 0, SIZE, SIZE);
  return `url(${canvas.toDataURL('image/jpeg', 0.88)})`;
}

/** @param {ImageData} image */
function imageUrl(image) {
  const canvas = el('canvas', { width: image.width, height: image.height });
  canvas.getContext('2d').putImageData(image, 0, 0);
  return `url(${canvas.toDataURL('image/jpeg', 0.85)})`;
}
