/** The camera: opened, closed, and sentences for what can be wrong with it. */

const PROBLEMS = {
  NotAllowedError: 'The browser does not allow the camera for this page. Allow it beside the address, then try again.',
  NotFoundError: 'This device has no camera that the browser can see. The photo tab works without one.',
  NotReadableError: 'Another program is using the camera. Close it there, then try again.',
  OverconstrainedError: 'This camera is gone, or it has no image of a useful size.',
};
const LOST = 'It was unplugged, or the browser no longer allows it for this page.';

/**
 * Show a camera in a video element; one that faces the user is mirrored.
 * @param {HTMLVideoElement} video
 * @param {MediaTrackConstraints} camera which one
 * @param {{width: number, height: number}} size
 * @param {() => boolean} wanted whether the camera is still asked for, once the visitor has allowed it
 * @param {(error: Error) => void} failed called when the camera is unplugged, or its permission withdrawn
 * @returns {Promise<boolean>} whether the image is mirrored
 */
export async function openCamera(video, camera, { width, height }, wanted, failed) {
  if (!navigator.mediaDevices) throw new Error('The browser offers its camera to pages at localhost or over https only.');
  stopCamera(video); // many phones open one camera at a time
  const constraints = { ...camera, width: { ideal: width }, height: { ideal: height } };
  const stream = await navigator.mediaDevices.getUserMedia({ video: constraints, audio: false });
  if (!wanted()) {
    stop(stream);
    return false;
  }
  const [track] = stream.getVideoTracks();
  track.addEventListener('ended', () => failed(new Error(LOST))); // not after the page itself has stopped it
  video.srcObject = stream;
  const mirrored = (track.getSettings().facingMode || camera.facingMode) !== 'environment';
  video.classList.toggle('web-mirrored', mirrored);
  await video.play();
  return mirrored;
}

/**
 * Return what asks for another camera than the one that a video shows: the one on the other side of a phone, or the next
 * where cameras have no side.
 * @param {HTMLVideoElement} video
 * @param {MediaDeviceInfo[]} cameras all of them
 * @returns {MediaTrackConstraints}
 */
export function otherCamera(video, cameras) {
  const stream = /** @type {MediaStream} */ (video.srcObject);
  const { facingMode, deviceId } = stream.getVideoTracks()[0].getSettings();
  if (facingMode) return { facingMode: facingMode === 'user' ? 'environment' : 'user' };
  const place = cameras.findIndex(each => each.deviceId === deviceId);
  return { deviceId: { exact: cameras[(place + 1) % cameras.length].deviceId } };
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
