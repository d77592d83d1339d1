/** The camera: opened, closed, and sentences for what can be wrong with it. */

const PROBLEMS = {
  NotAllowedError: 'The browser does not allow the camera for this page. Allow it beside the address, then try again.',
  NotFoundError: 'This device has no camera that the browser can see. The photo tab works without one.',
  NotReadableError: 'Another program is using the camera. Close it there, then try again.',
  OverconstrainedError: 'This camera has no image of a useful size.',
};

/**
 * Show the camera in a video element; the one that faces the user is mirrored.
 * @param {HTMLVideoElement} video
 * @param {'user' | 'environment'} facing
 * @param {{width: number, height: number}} size
 * @param {() => boolean} wanted whether the camera is still asked for, once the visitor has allowed it
 * @returns {Promise<boolean>} whether the image is mirrored
 */
export async function openCamera(video, facing, { width, height }, wanted) {
  if (!navigator.mediaDevices) throw new Error('The browser offers its camera to pages at localhost or over https only.');
  const constraints = { width: { ideal: width }, height: { ideal: height }, facingMode: facing };
  const stream = await navigator.mediaDevices.getUserMedia({ video: constraints, audio: false });
  if (!wanted()) {
    stop(stream);
    return false;
  }
  stopCamera(video);
  video.srcObject = stream;
  const mirrored = stream.getVideoTracks()[0].getSettings().facingMode !== 'environment' && facing === 'user';
  video.classList.toggle('web-mirrored', mirrored);
  await video.play();
  return mirrored;
}

/** @param {HTMLVideoElement} video */
export function stopCamera(video) {
  stop(/** @type {MediaStream | null} */ (video.srcObject));
  video.srcObject = null;
}

/** @param {MediaStream | null} stream */
function stop(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

/**
 * Return a sentence about a camera that could not be opened.
 * @param {any} error
 * @returns {string}
 */
export function cameraProblem(error) {
  return PROBLEMS[error?.name] ?? String(error?.message ?? error);
}
