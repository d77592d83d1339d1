/**
 * Faces over time, by the rules of `rmn_hub.video`: the whole frame is searched now and then, the neighbourhood of each
 * face in between; boxes and probabilities are smoothed. Motion and looks, by which Python finds a face again that was
 * hidden for a while, are left out: a live face is waited for during 3 frames.
 *
 * @typedef {import('./pixels.js').Pixels} Pixels
 * @typedef {import('./mtcnn.js').Face} Face
 *
 * @typedef {object} Track
 * @property {number} id
 * @property {Face} face with a smoothed box
 * @property {number[]} measured the box as it was found last
 * @property {number} missed frames since it was seen
 */

import { area, centre, overlap } from './boxes.js';
import { shrink } from './pixels.js';

/** Follows the faces of one camera. */
export class Tracker {
  /**
   * @param {import('./mtcnn.js').Detector} detector
   * @param {typeof import('./settings.js').default['live']} numbers
   */
  constructor(detector, numbers) {
    this.detector = detector;
    this.numbers = numbers;
    /** @type {Track[]} */
    this.tracks = [];
    this.nextId = 1;
    this.sinceSearch = 0;
    this.size = '';
  }

  /** End all tracks, as a camera cut does; their ids are not used again. */
  reset() {
    this.tracks = [];
  }

  /**
   * Return the faces of the next frame, those that are held for a moment included.
   * @param {Pixels} frame
   */
  async update(frame) {
    const { detectEvery, hold, patience, maxFaces } = this.numbers;
    const size = `${frame.width} ${frame.height}`;
    if (size !== this.size) this.reset();
    this.size = size;
    this.sinceSearch++;
    const seen = this.tracks.filter(track => track.missed === 0);
    let whole = this.sinceSearch >= detectEvery || seen.length === 0;
    let faces = await (whole ? this.#search(frame) : this.#follow(frame));
    let found = this.#assign(faces);
    if (!whole && seen.some(track => !found.has(track))) {
      whole = true;
      faces = await this.#search(frame);
      found = this.#assign(faces);
    }
    for (const track of this.tracks) this.#advance(track, found.get(track));
    this.tracks = this.tracks.filter(track => track.missed <= patience);
    if (whole) {
      const taken = new Set(found.values());
      for (const face of faces.filter(each => !taken.has(each))) {
        this.tracks.push({ id: this.nextId++, face, measured: face.box, missed: 0 });
      }
    }
    this.tracks.sort((first, second) => area(second.measured) - area(first.measured));
    this.tracks.length = Math.min(this.tracks.length, maxFaces);
    return this.tracks.filter(track => track.missed <= hold);
  }

  /** @param {Pixels} frame */
  async #search(frame) {
    this.sinceSearch = 0;
    return this.#distinct(await this.detector.detect(frame, this.numbers.minFace));
  }

  /**
   * Return the faces in the neighbourhoods of the tracks.
   * @param {Pixels} frame
   */
  async #follow(frame) {
    const { search, lookSize, minFace, lookAfter } = this.numbers;
    const side = Math.round(search * Math.max(lookSize, 1.6 * minFace));
    const faces = [];
    for (const { measured, missed } of this.tracks) {
      if (missed > lookAfter) continue;
      const [x, y] = centre(measured);
      const whole = Math.max(1, Math.round(search * Math.max(measured[2] - measured[0], measured[3] - measured[1])));
      const [left, top] = [Math.round(x - whole / 2), Math.round(y - whole / 2)];
      const scale = whole / side;
      const found = await this.detector.detect(shrink(cut(frame, left, top, whole), side, side), minFace);
      for (const face of found) {
        const box = face.box.map((value, axis) => value * scale + (axis % 2 ? top : left));
        const landmarks = face.landmarks.map(point => [left + point[0] * scale, top + point[1] * scale]);
        const [middle, height] = centre(box);
        if (middle > 0 && middle < frame.width && height > 0 && height < frame.height) {
          faces.push({ box, landmarks, score: face.score });
        }
      }
    }
    return this.#distinct(faces);
  }

  /**
   * Return the faces without those that a better one overlaps: two neighbourhoods may show one face.
   * @param {Face[]} faces
   */
  #distinct(faces) {
    /** @type {Face[]} */
    const kept = [];
    for (const face of [...faces].sort((first, second) => second.score - first.score)) {
      if (kept.every(other => overlap(face.box, other.box) <= this.numbers.sameFace)) kept.push(face);
    }
    return kept;
  }

  /**
   * Return which track has which face, the nearest pairs first.
   * @param {Face[]} faces
   */
  #assign(faces) {
    const { reach, growth } = this.numbers;
    const pairs = this.tracks.flatMap(track =>
      faces.map(face => {
        const [size, last] = [Math.sqrt(area(face.box)), Math.sqrt(area(track.measured))];
        const [[x, y], [lastX, lastY]] = [centre(face.box), centre(track.measured)];
        const alike = Math.max(size, last) <= growth * Math.min(size, last);
        return { track, face, distance: alike ? Math.hypot(x - lastX, y - lastY) / Math.max(size, last) : Infinity };
      }),
    );
    const near = pairs.filter(pair => pair.distance < reach).sort((first, second) => first.distance - second.distance);
    /** @type {Map<Track, Face>} */
    const found = new Map();
    const taken = new Set();
    for (const { track, face } of near) {
      if (found.has(track) || taken.has(face)) continue;
      found.set(track, face);
      taken.add(face);
    }
    return found;
  }

  /**
   * Bring a track up to this frame; a still box keeps a share of its place, because MTCNN's boxes tremble.
   * @param {Track} track
   * @param {Face | undefined} face
   */
  #advance(track, face) {
    if (!face) {
      track.missed++;
      return;
    }
    const old = track.face.box;
    const movement = Math.max(...old.map((value, side) => Math.abs(value - face.box[side]))) / Math.sqrt(Math.max(1, area(face.box)));
    const kept = track.missed ? 0 : this.numbers.steadiness * Math.max(0, 1 - 6 * movement);
    track.face = { ...face, box: face.box.map((value, side) => kept * old[side] + (1 - kept) * value) };
    track.measured = face.box;
    track.missed = 0;
  }
}

/** Smooths probabilities over time, one series for each face. */
export class Smoother {
  /** @param {number} seconds time constant: a sudden change has gone 63% of its way after this long */
  constructor(seconds) {
    this.seconds = seconds;
    /** @type {Map<number, {at: number, values: Record<string, number>}>} */
    this.series = new Map();
  }

  /**
   * Return the smoothed probabilities.
   * @param {number} key
   * @param {Record<string, number>} probabilities
   * @param {number} now seconds
   */
  update(key, probabilities, now) {
    const before = this.series.get(key);
    const kept = before && this.seconds > 0 ? Math.exp(-Math.max(0, now - before.at) / this.seconds) : 0;
    const values = Object.fromEntries(
      Object.entries(probabilities).map(([name, value]) => [name, kept * (before?.values[name] ?? value) + (1 - kept) * value]),
    );
    this.series.set(key, { at: now, values });
    return values;
  }

  /**
   * Forget every series but these.
   * @param {number[]} keys
   */
  keep(keys) {
    for (const key of this.series.keys()) if (!keys.includes(key)) this.series.delete(key);
  }
}

/**
 * Return a square of a frame; outside the frame it is black.
 * @param {Pixels} frame
 * @param {number} left
 * @param {number} top
 * @param {number} side
 * @returns {Pixels}
 */
function cut(frame, left, top, side) {
  const data = new Uint8Array(side * side * 3);
  const [from, to] = [Math.max(0, left), Math.min(frame.width, left + side)];
  for (let row = Math.max(0, top); row < Math.min(frame.height, top + side) && from < to; row++) {
    const line = frame.data.subarray((row * frame.width + from) * 3, (row * frame.width + to) * 3);
    data.set(line, ((row - top) * side + from - left) * 3);
  }
  return { width: side, height: side, channels: 3, data };
}
