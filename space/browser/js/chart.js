/** The bars of a face's probabilities. Elements stay as values change, so that bars move instead of jumping. */

import { el } from './dom.js';
import { headingOf, nearExpressions, percentages } from './labels.js';
import settings from './settings.js';

/** @typedef {import('./recognizer.js').FaceExpression} FaceExpression */

/** A heading and bars in a fixed order, with their percentages. */
export class Chart {
  constructor() {
    this.rows = Object.fromEntries(
      settings.classes.map(name => {
        const bar = el('span', { style: { 'background-color': settings.colors[name] } });
        const mark = el('i', { hidden: true });
        const share = el('td');
        const row = el('tr', { class: 'rmn-row' }, el('th', { scope: 'row' }, name), el('td', { class: 'rmn-bar', 'aria-hidden': 'true' }, bar, mark), share);
        return [name, { bar, mark, share, row }];
      }),
    );
    const rows = Object.values(this.rows).map(({ row }) => row);
    // Names of other checkpoints may be longer than ours, and those of more than 14 letters are broken.
    const longest = Math.min(14, Math.max(...settings.classes.map(name => name.length)));
    this.table = el(
      'table',
      { class: 'rmn-chart', style: longest > 8 ? { '--names': `${(0.64 * longest).toFixed(1)}em` } : {} },
      el('caption', { class: 'rmn-hidden' }, 'Probability of each expression'),
      el('colgroup', {}, el('col'), el('col'), el('col')),
      el('tbody', {}, ...rows),
    );
    this.small = el('small');
    this.words = el('b', { class: 'web-plain' });
    this.shares = el('span');
    this.heading = el('h2', {}, this.small, this.words, ' ', this.shares);
  }

  /**
   * Show a face.
   * @param {FaceExpression} face
   * @param {string} who what the heading begins with
   */
  show(face, who) {
    const { words, shares } = headingOf(face);
    this.small.textContent = `${who} shows`;
    this.words.textContent = words;
    this.shares.textContent = shares;
    this.table.classList.toggle('rmn-unsure', face.uncertain);
    const best = face.uncertain ? nearExpressions(face) : [face.expression];
    for (const [name, share] of Object.entries(percentages(face.probabilities))) {
      const { bar, mark, row, share: cell } = this.rows[name];
      row.classList.toggle('rmn-best', best.includes(name));
      bar.style.width = `${Math.max(share, 0.4)}%`;
      mark.hidden = !face.raw;
      if (face.raw) mark.style.left = `${(100 * face.raw[name]).toFixed(1)}%`;
      cell.textContent = `${share.toFixed(1)}%`;
    }
  }
}
