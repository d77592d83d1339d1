/** The result of a photo: its faces to choose from, the chart and the maps of the chosen one, and what can be saved. */

import { Chart } from './chart.js';
import { el, say } from './dom.js';
import { colorsOf, longLabelOf, nearExpressions, spoken } from './labels.js';
import { maps } from './maps.js';
import { annotated, json } from './save.js';
import settings from './settings.js';

/**
 * @typedef {import('./recognizer.js').FaceExpression} FaceExpression
 * @typedef {import('./recognizer.js').Result} Result
 *
 * @typedef {object} Photo
 * @property {string} name of its file
 * @property {string} url of its pixels
 * @property {string} [note] a line below it
 * @property {Choice} choice what is shown of it
 *
 * @typedef {object} Choice
 * @property {number[]} [box] of the face
 * @property {number} stage from 1
 * @property {number} mix of face and map, 0..100
 */

// One of several faces that is narrower than this share of the photo is labelled with its number only.
const NARROW = 0.2;

/**
 * Return the box of a face as properties of a style, in shares of the image.
 * @param {number[]} box
 * @param {number} width
 * @param {number} height
 */
export function placed([x0, y0, x1, y1], width, height) {
  // A face at the border may reach over it.
  const [left, right] = [x0, x1].map(value => (100 * Math.min(Math.max(value, 0), width)) / width);
  const [top, bottom] = [y0, y1].map(value => (100 * Math.min(Math.max(value, 0), height)) / height);
  return { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` };
}

/**
 * Return the view of a result with at least one face.
 * @param {Result} result
 * @param {Photo} photo
 */
export function view(result, photo) {
  const { faces } = result;
  const several = faces.length > 1;
  const chart = new Chart();
  const doubt = el('p', { class: 'rmn-doubt', hidden: true });
  const attention = el('div');
  const { choice } = photo;

  const buttons = faces.map(face => faceButton(face, result, () => choose(face)));
  const pills = faces.map(face => pill(face, () => choose(face)));

  /** @param {FaceExpression} face */
  function show(face) {
    choice.box = face.box;
    chart.show(face, several ? `Face ${face.index} of ${faces.length}` : 'The face');
    doubt.hidden = !face.uncertain;
    doubt.textContent =
      'Uncertain: no expression reaches the probability set under Settings.' +
      (nearExpressions(face).length > 1 ? ' Two expressions are nearly as probable.' : '');
    for (const item of [...buttons, ...pills]) item.setAttribute('aria-pressed', String(Number(item.dataset.face) === face.index));
    showMaps(face);
  }

  /** @param {FaceExpression} face */
  function choose(face) {
    show(face);
    say(`Face ${face.index}: ${longLabelOf(face)}`);
  }

  /** @param {FaceExpression} face */
  function showMaps(face) {
    if (!face.attention?.maps.length) return;
    const focused = attention.contains(document.activeElement);
    attention.replaceChildren(maps(face.attention, choice.stage, chosen => {
      choice.stage = chosen;
      showMaps(face);
    }));
    if (focused) attention.querySelector(`[data-stage="${choice.stage}"]`)?.focus();
  }

  function attentionCard() {
    return el(
      'div',
      { class: 'rmn-card rmn-attention' },
      el(
        'div',
        { class: 'rmn-head' },
        el(
          'div',
          {},
          el('h2', {}, 'Where the masks strengthened features'),
          el(
            'p',
            { class: 'rmn-muted' },
            'Each of the four stages ends with features × (1 + mask). Its map is bright where that changed the features ' +
              'most. Choose a stage to see them before and after.',
          ),
        ),
        el(
          'label',
          { class: 'rmn-slider' },
          el('span', {}, 'Face'),
          el('input', {
            type: 'range', min: 0, max: 100, value: choice.mix, 'aria-label': 'How strongly the maps cover the face, in percent',
            input: event => {
              choice.mix = Number(event.target.value);
              section.style.setProperty('--mix', String(choice.mix / 100));
            },
          }),
          el('span', {}, 'Map'),
        ),
      ),
      attention,
    );
  }

  const section = el(
    'section',
    { class: `rmn-result${several ? ' rmn-several' : ''}`, 'aria-label': 'Result', 'data-say': spoken(faces), style: { '--mix': String(choice.mix / 100) } },
    el(
      'div',
      { class: 'rmn-top' },
      el(
        'div',
        { class: 'rmn-card rmn-hero' },
        zoomable(result, el('img', { src: photo.url, draggable: 'false', alt: `The photo with ${several ? `${faces.length} faces` : 'one face'}` }), buttons),
        el(
          'div',
          { class: 'rmn-under' },
          el('div', { class: 'rmn-lines' }, photo.note && el('p', { class: 'rmn-note' }, photo.note), several && legend(faces)),
          zoomButtons(),
        ),
        several && el('div', { class: 'rmn-chooser', role: 'group', 'aria-label': 'Choose a face' }, ...pills),
      ),
      el(
        'div',
        { class: 'rmn-card rmn-side' },
        el('div', { class: 'rmn-panel' }, chart.heading, doubt, chart.table),
        downloads(result, photo),
      ),
    ),
    settings.stages > 0 && attentionCard(),
  );
  // Other settings leave the choice as it is, where the face is still there; its number may be another one.
  show(faces.find(face => choice.box && liesIn(choice.box, face.box)) ?? faces[0]);
  return section;
}

/**
 * Return whether the middle of a box lies in another one.
 * @param {number[]} box
 * @param {number[]} other
 */
function liesIn([x0, y0, x1, y1], [left, top, right, bottom]) {
  const [x, y] = [(x0 + x1) / 2, (y0 + y1) / 2];
  return left < x && x < right && top < y && y < bottom;
}

/**
 * @param {Result} result
 * @param {Node} image
 * @param {Node[]} buttons one for each face
 */
function zoomable({ width, height }, image, buttons) {
  const shape = { 'aspect-ratio': `${width}/${height}` };
  return el(
    'div',
    { class: 'rmn-zoom', role: 'group', 'aria-label': 'The photo', tabindex: -1, style: { ...shape, '--ratio': String(width / height) } },
    el('div', { class: 'rmn-photo', style: shape }, image, ...buttons),
  );
}

/** Each with the key that does the same; `zoom.js` listens to them. */
function zoomButtons() {
  const button = (by, title, label, text) =>
    el('button', { type: 'button', 'data-zoom-by': by, 'aria-disabled': String(by !== 'in'), title, 'aria-label': label }, text);
  return el(
    'div',
    { class: 'rmn-zoom-buttons', role: 'group', 'aria-label': 'Zoom' },
    button('out', 'Smaller (-)', 'Zoom out', '−'),
    button('in', 'Larger (+)', 'Zoom in', '+'),
    button('fit', 'All of the photo (0)', null, 'Fit'),
  );
}

/**
 * Return what the boxes of several faces mean: a colour for each expression in the photo, dashes for doubt.
 * @param {FaceExpression[]} faces
 */
function legend(faces) {
  const found = Object.keys(faces[0].probabilities).filter(name => faces.some(face => face.expression === name));
  return el(
    'p',
    { class: 'rmn-legend' },
    ...found.map(name => el('span', { style: colorsOf(name) }, name)),
    faces.some(face => face.uncertain) && el('span', { class: 'rmn-doubtful' }, '“?” uncertain'),
  );
}

/**
 * @param {FaceExpression} face
 * @param {Result} result
 * @param {() => void} choose
 */
function faceButton(face, { width, height, faces }, choose) {
  const [x0, y0, x1] = face.box;
  const several = faces.length > 1;
  const kinds = ['rmn-face'];
  if (face.uncertain) kinds.push('rmn-doubtful');
  if (y0 < 0.08 * height) kinds.push('rmn-below');
  if ((x0 + x1) / 2 > 0.6 * width) kinds.push('rmn-rightwards');
  const narrow = several && (x1 - x0) / width < NARROW;
  return el(
    'button',
    {
      type: 'button', class: kinds.join(' '), 'data-face': face.index, 'aria-label': `Face ${face.index}: ${longLabelOf(face)}`,
      style: { ...placed(face.box, width, height), ...colorsOf(face.expression) }, click: choose,
    },
    el(
      'span',
      { class: 'rmn-tag' },
      several && el('b', {}, `${face.index}${face.uncertain ? '?' : ''}`),
      !narrow && el('span', {}, longLabelOf(face)),
    ),
  );
}

/**
 * @param {FaceExpression} face
 * @param {() => void} choose
 */
function pill(face, choose) {
  return el(
    'button',
    { type: 'button', class: `rmn-pill${face.uncertain ? ' rmn-doubtful' : ''}`, 'data-face': face.index, style: colorsOf(face.expression), click: choose },
    el('b', {}, String(face.index)),
    ` ${longLabelOf(face)}`,
  );
}

/**
 * @param {Result} result
 * @param {Photo} photo
 */
function downloads(result, photo) {
  const stem = photo.name.replace(/\.[^.]*$/, '') || 'photo';
  const save = (name, make) => async () => {
    const url = URL.createObjectURL(await make());
    el('a', { href: url, download: `${stem}-expressions.${name}` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  };
  return el(
    'div',
    { class: 'rmn-downloads' },
    el('span', { class: 'rmn-muted' }, 'Save'),
    el('button', { type: 'button', class: 'rmn-button', click: save('jpg', () => annotated(result, photo.url)) }, 'Annotated image'),
    el('button', { type: 'button', class: 'rmn-button', click: save('json', async () => json(result, photo.name)) }, 'JSON'),
  );
}
