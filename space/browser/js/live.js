/** The live tab: the browser's own player shows the camera, the worker returns boxes and bars. */

import { colored, place } from './attention.js';
import { area } from './boxes.js';
import { cameraProblem, openCamera, otherCamera, stopCamera } from './camera.js';
import { Chart } from './chart.js';
import { byId, el, message, say } from './dom.js';
import { colorsOf, labelOf } from './labels.js';
import { still } from './photo.js';
import { placed } from './result.js';
import settings from './settings.js';

/**
 * @typedef {import('./recognizer.js').FaceExpression} FaceExpression
 * @typedef {import('./recognizer.js').Result} Result
 */

const GLOW = 48;
// Milliseconds from one sentence for screen readers to the next.
const PAUSE = 3000;

/** The tab, its camera and the faces in view. */
export class LiveTab {
  /**
   * @param {import('./engine.js').Engine} engine
   * @param {(blob: Blob, name: string) => void} keep called with a frame to look at as a photo
   */
  constructor(engine, keep) {
    this.engine = engine;
    this.video = byId('camera');
    /** @type {MediaTrackConstraints} */
    this.camera = { facingMode: 'user' };
    /** @type {MediaDeviceInfo[]} */
    this.cameras = [];
    this.mirrored = false;
    /** The run of the camera; frames of an earlier one are void. */
    this.run = 0;
    this.running = false;
    /** @type {number[]} */
    this.times = [];
    /** @type {number | undefined} */
    this.chosen = undefined;
    /** @type {Map<number, HTMLElement>} */
    this.boxes = new Map();
    this.said = { at: 0, label: '' };
    this.chart = new Chart();
    this.status = el('p', { class: 'rmn-status' });
    this.card = el(
      'div',
      { class: 'rmn-card rmn-live-chart' },
      this.chart.heading,
      this.chart.table,
      el('p', { class: 'rmn-muted rmn-small-text' }, 'Bars are smoothed over about half a second; the thin marks are the last frame alone.'),
    );
    this.#panel(message('Your camera is off', 'Press Start camera and allow it. Boxes and bars follow your face, and nothing is kept.'));
    byId('switch').addEventListener('click', () => (this.running ? this.stop() : this.start()));
    byId('flip').addEventListener('click', () => this.start(otherCamera(this.video, this.cameras)));
    // Also while it runs: a phone is turned.
    for (const event of ['loadedmetadata', 'resize']) {
      this.video.addEventListener(event, () => {
        byId('stage').style.aspectRatio = `${this.video.videoWidth} / ${this.video.videoHeight}`;
      });
    }
    byId('keep').addEventListener('click', async () => keep(await still(this.video), 'camera.jpg'));
    if (!settings.stages) byId('live-attention').closest('label').hidden = true;
  }

  /**
   * Open a camera and follow the faces.
   * @param {MediaTrackConstraints} [camera] the one of the last time when not given
   */
  async start(camera = this.camera) {
    const run = ++this.run;
    const failed = (error, title) => run === this.run && this.#fail(error, title);
    let opened = false;
    for (const id of ['switch', 'flip', 'keep']) byId(id).disabled = true;
    this.#clear();
    try {
      const mirrored = await openCamera(this.video, camera, { width: 640, height: 480 }, () => run === this.run, failed);
      if (run !== this.run) return;
      opened = true;
      this.camera = camera;
      this.mirrored = mirrored;
      this.running = true;
      this.#controls();
      this.#panel(message('One moment', 'The network looks for faces.'));
      await this.engine.forget();
      const devices = await navigator.mediaDevices.enumerateDevices();
      this.cameras = devices.filter(device => device.kind === 'videoinput');
      byId('flip').hidden = this.cameras.length < 2;
      while (run === this.run) await this.#next(run);
    } catch (error) {
      failed(error, opened ? 'This did not work' : undefined);
    } finally {
      byId('switch').disabled = false;
    }
  }

  /** Close the camera. */
  stop() {
    this.run++;
    if (!this.running && !this.video.srcObject) return;
    this.running = false;
    stopCamera(this.video);
    this.#controls();
    this.#clear();
    this.#panel(message('Your camera is off', 'Press Start camera to go on.'));
    say('Your camera is off');
  }

  /**
   * @param {any} error
   * @param {string} [title]
   */
  #fail(error, title = 'No camera') {
    this.stop();
    say('');
    this.#panel(message(title, cameraProblem(error), { kind: 'error' }));
  }

  /** @param {number} run */
  async #next(run) {
    await newFrame(this.video);
    if (run !== this.run) return;
    const started = performance.now();
    const image = await createImageBitmap(this.video);
    const options = { now: started / 1000, attention: byId('live-attention').checked, minConfidence: byId('min-confidence').value / 100 };
    const result = await this.engine.frame(image, options);
    if (run !== this.run) return;
    const now = performance.now();
    this.times = [...this.times, now].slice(-20);
    this.#layer(result);
    this.#beside(result, now - started);
  }

  /** @param {Result} result */
  #layer({ width, height, faces }) {
    for (const [id, box] of this.boxes) {
      if (faces.some(face => face.track_id === id)) continue;
      box.remove();
      this.boxes.delete(id);
    }
    const heats = [];
    for (const face of faces) {
      const id = /** @type {number} */ (face.track_id);
      let box = this.boxes.get(id);
      if (!box) {
        box = /** @type {HTMLElement} */ (el('div', {}, el('span', { class: 'rmn-tag' })));
        this.boxes.set(id, box);
        byId('layer').append(box);
      }
      box.className = `rmn-live-face${face.box[1] < 0.1 * height ? ' rmn-below' : ''}${face.uncertain ? ' rmn-doubtful' : ''}`;
      const style = { ...placed(this.#seen(face.box, width), width, height), ...colorsOf(face.expression) };
      for (const [name, value] of Object.entries(style)) box.style.setProperty(name, value);
      /** @type {Element} */ (box.firstElementChild).textContent = labelOf(face);
      if (face.attention) heats.push(this.#heat(face, width, height));
    }
    for (const old of byId('layer').querySelectorAll('.rmn-live-heat')) old.remove();
    byId('layer').prepend(...heats);
    byId('layer').dataset.frames = String(Number(byId('layer').dataset.frames ?? 0) + 1);
    byId('layer').dataset.faces = String(faces.length);
  }

  /**
   * Return the mean of the stages' maps over the place of the crop.
   * @param {FaceExpression} face
   * @param {number} width
   * @param {number} height
   */
  #heat(face, width, height) {
    const maps = /** @type {import('./recognizer.js').Attention} */ (face.attention).maps.map(grid => place(grid, GLOW));
    const mean = maps[0].map((_, pixel) => maps.reduce((sum, values) => sum + values[pixel], 0) / maps.length);
    const [x0, y0, x1, y1] = this.#seen(face.box, width);
    const half = ((1 + settings.margin) * Math.max(x1 - x0, y1 - y0)) / 2;
    const [left, top] = [(x0 + x1) / 2 - half, (y0 + y1) / 2 - half];
    const turned = (this.mirrored ? 1 : -1) * (face.attention?.turned ?? 0);
    const canvas = el('canvas', {
      class: `rmn-live-heat${this.mirrored ? ' web-mirrored' : ''}`, width: GLOW, height: GLOW,
      style: { left: `${(100 * left) / width}%`, top: `${(100 * top) / height}%`, width: `${(200 * half) / width}%`, height: `${(200 * half) / height}%`, rotate: `${turned}deg` },
    });
    canvas.getContext('2d').putImageData(colored(mean, GLOW, true), 0, 0);
    return canvas;
  }

  /**
   * Return a box where the visitor sees it.
   * @param {number[]} box
   * @param {number} width
   */
  #seen([x0, y0, x1, y1], width) {
    return this.mirrored ? [width - x1, y0, width - x0, y1] : [x0, y0, x1, y1];
  }

  /**
   * @param {Result} result
   * @param {number} milliseconds
   */
  #beside({ faces }, milliseconds) {
    const [first, last] = [this.times[0], this.times[this.times.length - 1]];
    const rate = last > first ? (1000 * (this.times.length - 1)) / (last - first) : 0;
    const count = faces.length === 1 ? '1 face' : faces.length ? `${faces.length} faces` : 'no face';
    this.status.replaceChildren(
      el('span', {}, el('b', {}, rate.toFixed(0)), ' frames/s'),
      el('span', {}, el('b', {}, milliseconds.toFixed(0)), ' ms a frame'),
      el('span', {}, count),
    );
    if (!faces.length) {
      this.chosen = undefined;
      this.#tell('', 'No face in view');
      if (!byId('live-panel').querySelector('.web-no-face')) {
        const none = message('No face in view', 'Look into the camera, a little closer perhaps.');
        none.classList.add('web-no-face');
        this.#panel(none, this.status);
      }
      return;
    }
    // The chart stays with one face as long as it is there; it starts with the largest.
    const largest = faces.reduce((a, b) => (area(b.box) > area(a.box) ? b : a));
    const face = faces.find(each => each.track_id === this.chosen) ?? largest;
    this.chosen = face.track_id;
    this.chart.show(face, faces.length === 1 ? 'The face' : 'One of the faces');
    this.#tell(face.expression, labelOf(face));
    if (!this.card.isConnected) this.#panel(this.card, this.status);
  }

  /**
   * Have a change of the expression read out, but not every frame.
   * @param {string} label
   * @param {string} sentence
   */
  #tell(label, sentence) {
    const now = performance.now();
    if (label === this.said.label || now - this.said.at < PAUSE) return;
    this.said = { at: now, label };
    say(sentence);
  }

  #controls() {
    byId('switch').textContent = this.running ? 'Stop camera' : 'Start camera';
    byId('switch').disabled = false;
    for (const id of ['flip', 'keep']) byId(id).disabled = !this.running;
  }

  #clear() {
    this.boxes.clear();
    byId('layer').replaceChildren();
    this.times = [];
    this.chosen = undefined;
  }

  /** @param {...Node} nodes */
  #panel(...nodes) {
    byId('live-panel').replaceChildren(...nodes);
  }
}

/**
 * Wait for the next frame of a video.
 * @param {HTMLVideoElement} video
 */
function newFrame(video) {
  return new Promise(resolve => {
    if ('requestVideoFrameCallback' in video) video.requestVideoFrameCallback(() => resolve(undefined));
    else requestAnimationFrame(() => resolve(undefined));
  });
}
