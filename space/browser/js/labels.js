/** The words and colours of results, as `rmn_hub.drawing.palette` has them. */

import settings from './settings.js';

/** @typedef {import('./recognizer.js').FaceExpression} FaceExpression */

/**
 * Return the colour of an expression and that of text on it, as properties of a style.
 * @param {string} expression
 */
export function colorsOf(expression) {
  return { '--c': settings.colors[expression], '--on': settings.inks[expression] };
}

/**
 * Return a probability as a label shows it, but never 0% or 100%, which would claim certainty.
 * @param {number} probability
 */
export function percent(probability) {
  if (probability < 0.01) return '<1%';
  return probability > 0.99 ? '>99%' : `${Math.round(100 * probability)}%`;
}

/**
 * Return the most probable expression, and the second one when it is nearly as probable.
 * @param {FaceExpression} face
 */
export function nearExpressions(face) {
  const [first, second] = Object.entries(face.probabilities).sort((a, b) => b[1] - a[1]);
  return second && second[1] >= settings.near * first[1] ? [first[0], second[0]] : [first[0]];
}

/**
 * Return `happy 93%`, and `happy? 41%` when it is uncertain.
 * @param {FaceExpression} face
 */
export function labelOf(face) {
  return `${face.expression}${face.uncertain ? '?' : ''} ${percent(face.probability)}`;
}

/**
 * Return `labelOf`, but `angry or sad?` for an uncertain face with two near expressions.
 * @param {FaceExpression} face
 */
export function longLabelOf(face) {
  const near = nearExpressions(face);
  return face.uncertain && near.length === 2 ? `${near[0]} or ${near[1]}?` : labelOf(face);
}

/**
 * Return the words and the percentages of a heading: `angry or sad?` and `35%, 31%`.
 * @param {FaceExpression} face
 */
export function headingOf(face) {
  const near = face.uncertain ? nearExpressions(face) : [face.expression];
  const shares = near.map(name => percent(face.probabilities[name])).join(', ');
  return { words: near.join(' or ') + (face.uncertain ? '?' : ''), shares };
}

/**
 * Return the result in words, for those who listen to the page.
 * @param {FaceExpression[]} faces
 */
export function spoken(faces) {
  const count = faces.length === 1 ? 'One face' : `${faces.length} faces`;
  return `${count}: ${faces.map(longLabelOf).join(', ')}`;
}

/**
 * Return percentages with one decimal that sum to exactly 100 (largest remainder), in the same order.
 * @param {Record<string, number>} probabilities
 * @returns {Record<string, number>}
 */
export function percentages(probabilities) {
  const names = Object.keys(probabilities);
  const sum = names.reduce((total, name) => total + probabilities[name], 0);
  const tenths = names.map(name => (1000 * probabilities[name]) / sum);
  const whole = tenths.map(Math.floor);
  const missing = 1000 - whole.reduce((total, value) => total + value, 0);
  const order = names.map((_, place) => place).sort((a, b) => whole[a] - tenths[a] - (whole[b] - tenths[b]));
  for (const place of order.slice(0, missing)) whole[place]++;
  return Object.fromEntries(names.map((name, place) => [name, whole[place] / 10]));
}

/**
 * Return a number as a sentence has it: in words up to ten.
 * @param {number} count
 */
export function inWords(count) {
  const words = ['no', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten'];
  return words[count] ?? String(count);
}
