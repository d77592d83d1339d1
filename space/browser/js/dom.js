/** Elements, without HTML in strings: names of files and expressions are text, and the policy allows no inline style. */

/**
 * Return a new element.
 * @param {string} tag
 * @param {Record<string, any>} [attributes] `style` is an object of properties, functions are listeners; what is false,
 *   null or undefined is left out
 * @param {...(Node | string | null | false | undefined)} children
 * @returns {any}
 */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'style') for (const [property, one] of Object.entries(value)) node.style.setProperty(property, one);
    else if (typeof value === 'function') node.addEventListener(name, value);
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(.../** @type {(Node | string)[]} */ (children.filter(child => child)));
  return node;
}

/**
 * Return the element of an id, which the page has.
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * Have a sentence read out by screen readers.
 * @param {string} sentence
 */
export function say(sentence) {
  byId('spoken').textContent = sentence;
}

const PATHS = {
  info: ['M17 30h14', [24, 24, 17], [18, 21, 1.5], [30, 21, 1.5]],
  error: ['M24 8 43 40H5Z', 'M24 20v9', [24, 34, 1]],
};

/**
 * Return a state of the page without a result; `data-say` has what screen readers are to read, for `say`: an element that
 * comes with its text may not be read, and errors are alerts.
 * @param {string} title
 * @param {string} sentence
 * @param {{kind?: 'info' | 'error', image?: string, note?: string, progress?: number, action?: Node}} [more] `progress` in
 *   0..1
 */
export function message(title, sentence, { kind = 'info', image, note, progress, action } = {}) {
  return el(
    'section',
    { class: `rmn-card rmn-message rmn-${kind}`, ...(kind === 'error' ? { role: 'alert' } : { 'data-say': `${title}. ${sentence}` }) },
    image ? el('img', { src: image, alt: 'The photo' }) : el('span', { class: 'rmn-icon' }, icon(kind)),
    el(
      'div',
      {},
      el('h2', {}, title),
      el('p', {}, sentence),
      note && el('p', { class: 'rmn-note' }, note),
      progress !== undefined && el('progress', { max: 1, value: progress, 'aria-label': title }),
      action,
    ),
  );
}

/** @param {'info' | 'error'} kind */
function icon(kind) {
  const drawn = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  drawn.setAttribute('viewBox', '0 0 48 48');
  drawn.setAttribute('aria-hidden', 'true');
  for (const part of PATHS[kind]) {
    const shape = document.createElementNS(drawn.namespaceURI, typeof part === 'string' ? 'path' : 'circle');
    if (typeof part === 'string') shape.setAttribute('d', part);
    else ['cx', 'cy', 'r'].forEach((name, place) => shape.setAttribute(name, String(part[place])));
    drawn.append(shape);
  }
  return drawn;
}
