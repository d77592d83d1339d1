/** The photo tab: a photo from a file, the clipboard, the camera or the examples, and its result. */

import { openCamera, cameraProblem, stopCamera } from './camera.js';
import { byId, el, message, say } from './dom.js';
import { view } from './result.js';
import { turnedSentence } from './save.js';
import settings from './settings.js';
import zoom from './zoom.js';

const { minFace: USUAL_FACE, minSeen: LEAST_FACE, maxSize: SEEN } = settings.detector;
// A canvas of more pixels is refused by phones; the photo is then looked at in a smaller size.
const MOST_PIXELS = 16_000_000;
const LEAST_SIDE = 10;

/** The tab, its photo and its settings. */
export class PhotoTab {
  /**
   * @param {import('./engine.js').Engine} engine
   * @param {() => void} reveal called where a photo comes while another tab is open
   */
  constructor(engine, reveal) {
    this.engine = engine;
    this.reveal = reveal;
    /** @type {{blob: Blob, name: string, url: string, note?: string, choice: import('./result.js').Choice} | undefined} */
    this.photo = undefined;
    /** The photo that was asked for last, and the recognition; what comes late of earlier ones is void. */
    this.given = 0;
    this.asked = 0;
    this.#examples();
    this.#ways();
    this.#settings();
    zoom(byId('result'));
  }

  /** Show the first example. */
  start() {
    return this.#example(settings.examples[0]);
  }

  /**
   * Show a photo that was given to the page, whichever tab is open.
   * @param {Blob} blob
   * @param {string} name
   */
  receive(blob, name) {
    if (byId('photo').hidden) this.reveal();
    return this.open(blob, name);
  }

  /**
   * Show a photo and its faces.
   * @param {Blob} blob
   * @param {string} name
   * @param {string} [note]
   */
  async open(blob, name, note) {
    this.given++;
    if (this.photo) URL.revokeObjectURL(this.photo.url);
    this.photo = { blob, name, note, url: URL.createObjectURL(blob), choice: { stage: 1, mix: 60 } };
    await this.recognize();
    if (window.innerWidth < 768 && !note) byId('result').scrollIntoView({ block: 'start' });
  }

  /** Recognize the faces of the photo with the settings of now; a newer call makes older ones void. */
  async recognize() {
    const { photo } = this;
    if (!photo) return;
    const asked = ++this.asked;
    const [minFace, percent] = [Number(byId('min-face').value), Number(byId('min-confidence').value)];
    if (byId('result').querySelector('.rmn-result')) byId('result').classList.add('web-busy');
    else if (!byId('result').firstChild) show(message('One moment', 'The network looks for faces.'));
    try {
      const { image, scale, width, height } = await decoded(photo.blob, photo.name);
      const reduced = `${image.width} × ${image.height}`; // the image goes to the worker
      // From the usual one on, no smaller faces are looked for in a large photo than the detector itself chooses.
      const usual = Math.max(USUAL_FACE, (Math.max(width, height) * LEAST_FACE) / SEEN);
      const chosen = minFace < USUAL_FACE || minFace > usual ? Math.max(LEAST_FACE, minFace * scale) : undefined;
      const least = Math.round(chosen === undefined ? usual : chosen / scale);
      const options = { minFace: chosen, minConfidence: percent / 100 };
      const result = await this.engine.photo(image, options);
      if (asked !== this.asked) return;
      const faces = result.faces.map(face => ({
        ...face,
        box: face.box.map(value => value / scale),
        landmarks: face.landmarks.map(point => point.map(value => value / scale)),
      }));
      const { turned } = result;
      const smaller = scale < 1 && `Its faces were looked for in ${reduced} pixels: boxes count those of the photo.`;
      const large = least > minFace && (chosen !== undefined || !faces.length);
      const only = large && `Only faces of at least ${least} pixels were looked for: the photo is large.`;
      const note = [photo.note, smaller, turned && turnedSentence(turned), only].filter(Boolean).join(' ');
      if (faces.length) show(view({ width, height, faces, turned }, { ...photo, note }));
      else {
        const remedy = chosen === LEAST_FACE ? '.' : ', and so does a smaller “Smallest face” under Settings.';
        const text = `The detector finds no face in this photo. A larger or less turned face helps${remedy}`;
        show(message('No face found', text, { image: photo.url, note }));
      }
    } catch (error) {
      if (asked !== this.asked) return;
      const again = el('button', { type: 'button', class: 'rmn-button', click: () => this.recognize() }, 'Try again');
      const action = error instanceof Unreadable ? undefined : again;
      show(message('This did not work', sentence(error), { kind: 'error', action }));
    }
  }

  /** @param {{file: string, name: string, source: string}} example */
  async #example({ file, source }) {
    const given = ++this.given;
    try {
      const response = await fetch(file);
      if (!response.ok) throw new Error(`${file} could not be loaded`);
      const blob = await response.blob();
      if (given === this.given) await this.open(blob, file, `Example: ${source}`);
    } catch (error) {
      if (given === this.given) show(message('This did not work', sentence(error), { kind: 'error' }));
    }
  }

  #examples() {
    byId('examples').append(
      ...settings.examples.map(example =>
        el(
          'button',
          { type: 'button', 'data-example': example.file, click: () => this.#example(example) },
          el('img', { src: example.file.replace('.jpg', '-small.jpg'), alt: '' }),
          el('span', {}, example.name),
        ),
      ),
    );
  }

  #ways() {
    const file = byId('file');
    byId('choose').addEventListener('click', () => file.click());
    file.addEventListener('change', () => {
      if (file.files.length) this.open(file.files[0], file.files[0].name);
      file.value = '';
    });
    byId('paste').addEventListener('click', () => this.#paste());
    document.addEventListener('paste', event => {
      const pasted = [...(event.clipboardData?.files ?? [])].find(each => each.type.startsWith('image/'));
      if (pasted) this.receive(pasted, pasted.name);
    });
    const over = on => event => {
      if (!event.dataTransfer?.types.includes('Files')) return;
      event.preventDefault();
      byId('drop').classList.toggle('web-over', on);
    };
    document.addEventListener('dragover', over(true));
    document.addEventListener('dragleave', over(false));
    document.addEventListener('drop', event => {
      over(false)(event);
      const dropped = event.dataTransfer?.files[0];
      if (dropped) this.receive(dropped, dropped.name);
    });
    byId('take').addEventListener('click', () => this.#take());
  }

  async #paste() {
    try {
      for (const item of await navigator.clipboard.read()) {
        const kind = item.types.find(type => type.startsWith('image/'));
        if (kind) return await this.open(await item.getType(kind), 'pasted.png');
      }
      show(message('Nothing to paste', 'The clipboard holds no image. Copy one first, then paste it here.'));
    } catch {
      show(message('Nothing to paste', 'The browser does not allow this page to read the clipboard. Press Ctrl+V or ⌘V instead.'));
    }
  }

  async #take() {
    const [dialog, video, snap] = [byId('snapshot'), byId('snapshot-video'), byId('snap')];
    snap.disabled = true;
    dialog.showModal();
    const done = new AbortController();
    dialog.addEventListener('close', () => {
      done.abort();
      stopCamera(video);
    }, { once: true });
    byId('cancel').addEventListener('click', () => dialog.close(), { signal: done.signal });
    snap.addEventListener('click', async () => {
      const blob = await still(video);
      dialog.close();
      await this.open(blob, 'camera.jpg');
    }, { signal: done.signal });
    const failed = error => {
      if (done.signal.aborted) return;
      dialog.close();
      show(message('No camera', cameraProblem(error), { kind: 'error' }));
    };
    const size = { width: 1280, height: 960 };
    try {
      await openCamera(video, { facingMode: 'user' }, size, () => !done.signal.aborted, failed);
      if (done.signal.aborted) return;
      snap.disabled = false;
      snap.focus();
    } catch (error) {
      failed(error);
    }
  }

  #settings() {
    for (const [id, words] of Object.entries({ 'min-face': ' pixels', 'min-confidence': '%' })) {
      const input = byId(id);
      const output = document.querySelector(`output[for="${id}"]`);
      input.addEventListener('input', () => output && (output.textContent = input.value + words));
      input.addEventListener('change', () => this.recognize());
    }
  }
}

/**
 * Return the frame that a video shows, as a JPEG.
 * @param {HTMLVideoElement} video
 * @returns {Promise<Blob>}
 */
export function still(video) {
  const canvas = el('canvas', { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext('2d').drawImage(video, 0, 0);
  return new Promise(resolve => canvas.toBlob(resolve, 'image/jpeg', 0.95));
}

/** An image that cannot be used; another try would not help. */
class Unreadable extends Error {}

/**
 * Return the pixels of a photo, and its size; a huge one is made smaller.
 * @param {Blob} blob
 * @param {string} name
 */
async function decoded(blob, name) {
  let image;
  try {
    // As they are in the file: the network was trained on pixels without colour management.
    image = await createImageBitmap(blob, { colorSpaceConversion: 'none' });
  } catch {
    throw new Unreadable(`${name} is not an image that this browser can read, or it is damaged. Save it as JPEG or PNG.`);
  }
  const { width, height } = image;
  if (Math.min(width, height) < LEAST_SIDE) {
    throw new Unreadable(`${name} has ${width} × ${height} pixels; it must have at least ${LEAST_SIDE} on each side.`);
  }
  const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
  if (scale < 1) {
    const whole = image;
    const size = { resizeWidth: Math.round(width * scale), resizeHeight: Math.round(height * scale) };
    image = await createImageBitmap(whole, { ...size, resizeQuality: 'high' });
    whole.close();
  }
  return { image, scale, width, height };
}

/**
 * Show what there is to see, and have it read out.
 * @param {HTMLElement} node
 */
function show(node) {
  byId('result').classList.remove('web-busy');
  byId('result').replaceChildren(node);
  say(node.dataset.say ?? '');
}

/** @param {any} error */
function sentence(error) {
  const text = String(error?.message ?? error);
  const reason = /fetch|load|network/i.test(text) ? `${text}. Check the connection` : text;
  return /[.!?]$/.test(reason) ? reason : `${reason}.`;
}
