// Zoom on the annotated photo: buttons, the keys + - 0, a double click, two fingers, the wheel with Ctrl (which is how
// a touchpad's pinch arrives). The photo grows inside a box that scrolls, so the browser itself moves it by arrow keys,
// wheel, finger and Tab, and the labels keep their size.
const MOST = 8, STEP = 1.5, DOUBLE_CLICK = 2.5;
const box = () => element.querySelector('.rmn-zoom');
const level = () => Number(box()?.dataset.zoom ?? 1);

// Make the photo `wanted` times as large as its box; the point (x, y) of the window stays where it is.
const zoom = (wanted, x, y) => {
  const place = box();
  if (!place) return;
  const before = level(), after = Math.min(MOST, Math.max(1, wanted));
  const frame = place.getBoundingClientRect();
  const [right, down] = x === undefined ? [frame.width / 2, frame.height / 2] : [x - frame.left, y - frame.top];
  const [left, top] = [place.scrollLeft + right, place.scrollTop + down];
  place.dataset.zoom = after;
  place.style.setProperty('--zoom', after);
  place.classList.toggle('rmn-zoomed', after > 1);
  place.tabIndex = after > 1 ? 0 : -1;
  place.scrollTo({left: left * after / before - right, top: top * after / before - down, behavior: 'instant'});
  for (const button of element.querySelectorAll('[data-zoom-by]')) {
    const more = button.dataset.zoomBy === 'in';
    button.setAttribute('aria-disabled', more ? after >= MOST : after <= 1);
  }
};
// Bring a face into the middle of the box, as far as the photo's edge allows.
const middle = item => {
  const {left, top, width, height} = item.getBoundingClientRect();
  return [left + width / 2, top + height / 2];
};
const center = face => {
  const [[x, y], [right, down]] = [middle(face), middle(box())];
  box().scrollBy({left: x - right, top: y - down, behavior: 'instant'});
};
// Buttons and keys follow the chosen face while it is in view.
const resize = factor => {
  const face = box()?.querySelector('[aria-pressed=true]');
  const frame = box()?.getBoundingClientRect();
  const [x, y] = face ? middle(face) : [];
  zoom(level() * factor);
  if (face && x > frame.left && x < frame.right && y > frame.top && y < frame.bottom) center(face);
};
const changes = {in: () => resize(STEP), out: () => resize(1 / STEP), fit: () => zoom(1)};
const keys = {'+': 'in', '=': 'in', '-': 'out', '0': 'fit'};

element.addEventListener('click', event => {
  const button = event.target.closest('[data-zoom-by]');
  if (button) changes[button.dataset.zoomBy]();
  // A face that is chosen by its name is brought into view.
  const name = event.target.closest('.rmn-pill');
  if (name && level() > 1) center(box().querySelector(`[data-face="${name.dataset.face}"]`));
});
element.addEventListener('keydown', event => {
  if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  if (!event.target.closest('.rmn-zoom, .rmn-zoom-buttons')) return;
  changes[keys[event.key]]();
  event.preventDefault();
});
element.addEventListener('dblclick', event => {
  if (!event.target.closest('.rmn-zoom')) return;
  zoom(level() > 1 ? 1 : DOUBLE_CLICK, event.clientX, event.clientY);
});
element.addEventListener('wheel', event => {
  if (!event.ctrlKey || !event.target.closest('.rmn-zoom')) return;
  zoom(level() * Math.exp(-event.deltaY / 200), event.clientX, event.clientY);
  event.preventDefault();
}, {passive: false});

// Two fingers.
let pinch = null;
const fingers = ({touches: [a, b]}) => ({
  apart: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY),
  x: (a.clientX + b.clientX) / 2,
  y: (a.clientY + b.clientY) / 2,
});
element.addEventListener('touchstart', event => {
  pinch = event.touches.length === 2 && event.target.closest('.rmn-zoom') ? {...fingers(event), level: level()} : null;
  if (pinch) event.preventDefault();
}, {passive: false});
element.addEventListener('touchmove', event => {
  if (!pinch || event.touches.length !== 2) return;
  const now = fingers(event);
  zoom(pinch.level * now.apart / pinch.apart, now.x, now.y);
  box().scrollBy(pinch.x - now.x, pinch.y - now.y);
  [pinch.x, pinch.y] = [now.x, now.y];
  event.preventDefault();
}, {passive: false});
for (const end of ['touchend', 'touchcancel']) element.addEventListener(end, () => { pinch = null; });

// A mouse drags a photo that is larger than its box. The click at the end of a drag chooses no face.
let drag = null, dragged = false;
element.addEventListener('pointerdown', event => {
  dragged = false;
  if (event.pointerType !== 'mouse' || event.button !== 0 || level() <= 1 || !event.target.closest('.rmn-photo')) return;
  drag = {x: event.clientX, y: event.clientY};
});
document.addEventListener('pointermove', event => {
  if (!drag || !box()) return;
  const [right, down] = [event.clientX - drag.x, event.clientY - drag.y];
  if (!dragged && Math.hypot(right, down) < 4) return;
  dragged = true;
  box().scrollBy({left: -right, top: -down, behavior: 'instant'});
  drag = {x: event.clientX, y: event.clientY};
});
for (const end of ['pointerup', 'pointercancel']) document.addEventListener(end, () => { drag = null; });
element.addEventListener('click', event => {
  if (dragged && event.target.closest('.rmn-photo')) event.stopImmediatePropagation();
  dragged = false;
}, true);
