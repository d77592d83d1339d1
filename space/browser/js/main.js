/** The page: its tabs, its worker, and what it keeps for the next visit. */

import { byId, el, message, say } from './dom.js';
import { Engine } from './engine.js';
import { inWords } from './labels.js';
import { LiveTab } from './live.js';
import { PhotoTab } from './photo.js';
import settings from './settings.js';

const TABS = ['photo', 'live', 'about'];

// The page is about the network that it carries.
for (const part of document.querySelectorAll('[data-masks]')) part.hidden = (part.dataset.masks === 'none') === settings.stages > 0;
for (const part of document.querySelectorAll('[data-count]')) part.textContent = inWords(settings.classes.length);
if (!settings.stages) document.title = 'Expressions of faces';

const engine = new Engine(progress);
const photo = new PhotoTab(engine, () => {
  open('photo');
  byId('tab-photo').focus();
});
const live = new LiveTab(engine, (blob, name) => photo.receive(blob, name));

/**
 * Show one tab; the camera of the other one stops.
 * @param {string} name
 */
function open(name) {
  for (const each of TABS) {
    const tab = byId(`tab-${each}`);
    tab.setAttribute('aria-selected', String(each === name));
    tab.tabIndex = each === name ? 0 : -1;
    byId(each).hidden = each !== name;
  }
  if (name !== 'live') live.stop();
}

for (const name of TABS) {
  byId(`tab-${name}`).addEventListener('click', () => open(name));
  // Arrow keys go from tab to tab, as WAI-ARIA has it.
  byId(`tab-${name}`).addEventListener('keydown', event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = TABS[(TABS.indexOf(name) + step + TABS.length) % TABS.length];
    open(next);
    byId(`tab-${next}`).focus();
    event.preventDefault();
  });
}

/**
 * Show how much of the files has arrived, while there is nothing else to see.
 * @param {number} bytes
 * @param {number} total
 */
function progress(bytes, total) {
  const bar = byId('result').querySelector('progress');
  const [some, all] = [bytes, total].map(value => (value / 1e6).toFixed(1));
  const sentence = `${some} of ${all} MB. They stay here for the next visit.`;
  if (bar) {
    bar.value = bytes / total;
    bar.parentElement.querySelector('p').textContent = sentence;
  } else if (!byId('result').querySelector('.rmn-result, .rmn-error')) {
    byId('result').replaceChildren(message('Loading the network', sentence, { progress: bytes / total }));
    say('Loading the network'); // once, and not with every chunk
  }
}

/**
 * Keep the page for visits without a connection, and use the graphics card. After the first result: until then, the line
 * belongs to that.
 */
async function afterwards() {
  tellEngine({ engine: 'wasm' });
  // A page within another page, or a private window, may not have one.
  await navigator.serviceWorker?.register('sw.js', { updateViaCache: 'none' }).catch(() => undefined);
  tellEngine(await engine.accelerate().catch(error => ({ engine: 'wasm', reason: error.message })));
}

/**
 * Show in About where the network runs, and what it took to load.
 * @param {{engine: 'webgpu' | 'wasm', reason?: string}} choice
 */
function tellEngine({ engine: name, reason }) {
  const threads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  const where = name === 'webgpu' ? 'on the graphics card (WebGPU)' : `in WebAssembly, in ${threads === 1 ? 'one thread' : `${threads} threads`}`;
  byId('speed').dataset.engine = name;
  if (reason) byId('speed').dataset.reason = reason;
  byId('speed').replaceChildren(
    `The first visit loads ${settings.megabytes} MB, the network’s weights in ${settings.weights}. Here it runs ${where}. `,
    el('small', {}, `Version ${settings.version.slice(0, 8)}.`),
  );
}

if (typeof OffscreenCanvas === 'undefined' || typeof DecompressionStream === 'undefined') {
  byId('result').replaceChildren(
    message('This browser is too old', 'The network needs OffscreenCanvas and DecompressionStream: please update the browser.', { kind: 'error' }),
  );
} else {
  photo.start().then(afterwards);
}
