/** The page's side of the worker. */

/** Sends images to the worker and returns its results. */
export class Engine {
  /** @param {(bytes: number, total: number) => void} report called while files arrive */
  constructor(report) {
    this.report = report;
    /** @type {Map<number, {resolve: (value: any) => void, reject: (error: Error) => void}>} */
    this.waiting = new Map();
    this.nextId = 1;
    /** @type {Worker | undefined} */
    this.worker = this.#started();
  }

  #started() {
    const worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
    worker.addEventListener('message', ({ data }) => {
      if (data.progress) this.report(data.progress.bytes, data.progress.total);
      const call = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if (data.error !== undefined) call?.reject(new Error(data.error));
      else call?.resolve(data.value);
    });
    worker.addEventListener('error', event => {
      // It replies no more: the next call starts another one.
      worker.terminate();
      this.worker = undefined;
      for (const call of this.waiting.values()) call.reject(new Error(event.message || 'The worker could not be started'));
      this.waiting.clear();
    });
    return worker;
  }

  /**
   * @param {ImageBitmap} image is handed over
   * @param {{minFace?: number, minConfidence: number}} options
   * @returns {Promise<import('./recognizer.js').Result>}
   */
  photo(image, options) {
    return this.#call('photo', { image, ...options }, [image]);
  }

  /**
   * @param {ImageBitmap} image is handed over
   * @param {{now: number, minConfidence: number, attention: boolean}} options
   * @returns {Promise<import('./recognizer.js').Result>}
   */
  frame(image, options) {
    return this.#call('frame', { image, ...options }, [image]);
  }

  /**
   * Move the network to the graphics card, where that is faster.
   * @returns {Promise<{engine: 'webgpu' | 'wasm', reason?: string}>}
   */
  accelerate() {
    return this.#call('accelerate', {});
  }

  /** Forget the faces of the camera. */
  forget() {
    return this.#call('forget', {});
  }

  /**
   * @param {string} kind
   * @param {object} request
   * @param {Transferable[]} [handedOver]
   * @returns {Promise<any>}
   */
  #call(kind, request, handedOver = []) {
    return new Promise((resolve, reject) => {
      const id = this.nextId++;
      this.waiting.set(id, { resolve, reject });
      this.worker ??= this.#started();
      this.worker.postMessage({ id, kind, ...request }, handedOver);
    });
  }
}
