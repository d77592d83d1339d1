// What a visitor chooses or drops, before it is sent. A photo that is larger than the page takes is made smaller here:
// phones make photos of 48 megapixels and more than 10 MB. Any other file goes on as it is, byte for byte.
const input = () => document.querySelector('#photo input[type=file]');
// The largest photos of phones have 200 megapixels; the browser is not asked to open what has many more.
const MOST_PIXELS = 250e6;
const ready = new WeakSet();
const sentences = new Map();
let latest = 0;

// Return a photo with at most REDUCED_PIXELS pixels, upright as its EXIF data has it, or the file itself where it is
// small enough or the browser cannot open it.
const reduced = async file => {
  const image = new Image(), address = URL.createObjectURL(file);
  try {
    const loaded = new Promise((done, fail) => Object.assign(image, {onload: done, onerror: fail}));
    image.src = address;
    await loaded;
    const pixels = image.naturalWidth * image.naturalHeight;
    if ((file.size <= MAX_BYTES && pixels <= MAX_PIXELS) || pixels > MOST_PIXELS) return file;
    element.classList.add('rmn-preparing');
    // The sentence is painted before the work begins.
    await new Promise(done => setTimeout(done, 50));
    for (const share of [1, 0.5, 0.25]) {
      const scale = Math.min(1, Math.sqrt(share * REDUCED_PIXELS / pixels));
      const canvas = document.createElement('canvas');
      canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
      canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
      const context = canvas.getContext('2d');
      context.imageSmoothingQuality = 'high';
      context.fillStyle = '#fff';
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.drawImage(image, 0, 0, canvas.width, canvas.height);
      const blob = await new Promise(done => canvas.toBlob(done, 'image/jpeg', 0.92));
      if (!blob || blob.size > MAX_BYTES) continue;
      const size = `${canvas.width}x${canvas.height}`;
      const name = `${file.name.replace(/[.][^.]*$/, '')}-${size}.jpg`;
      sentences.set(name, `Made smaller in your browser, from ${image.naturalWidth} × ${image.naturalHeight} to ` +
        `${canvas.width} × ${canvas.height} pixels: boxes count these.`);
      return new File([blob], name, {type: 'image/jpeg'});
    }
  } catch {
    // The server has a sentence for what is not an image.
  } finally {
    URL.revokeObjectURL(address);
  }
  return file;
};

const send = async files => {
  const field = input();
  if (!field || !files.length) return;
  // On a narrow page the result lies below: its visitor sees at once that something happens.
  if (window.innerWidth < 768) element.scrollIntoView({behavior: 'smooth', block: 'start'});
  const turn = ++latest;
  const file = await reduced(files[0]);
  if (turn !== latest) return;
  element.classList.remove('rmn-preparing');
  // Gradio would report it in its own words, and only after it has begun to send the file.
  if (file.size > MAX_BYTES) {
    field.value = '';
    trigger('input');
    return;
  }
  const list = new DataTransfer();
  list.items.add(file);
  field.files = list.files;
  const event = new Event('change', {bubbles: true});
  ready.add(event);
  field.dispatchEvent(event);
};

document.addEventListener('change', event => {
  if (ready.has(event) || !event.target.matches?.('#photo input[type=file]')) return;
  event.stopImmediatePropagation();
  send([...event.target.files]);
}, true);
// A photo may be dropped on the large one, too.
element.addEventListener('dragover', event => event.preventDefault());
document.addEventListener('drop', event => {
  if (!event.target.closest?.('#photo, #result') || !event.dataTransfer?.files.length) return;
  event.stopImmediatePropagation();
  event.preventDefault();
  send([...event.dataTransfer.files]);
}, true);

watch('value', () => {
  const section = element.querySelector('[data-source]');
  const sentence = sentences.get(section?.dataset.source);
  if (!sentence) return;
  const note = document.createElement('p');
  note.className = 'rmn-note';
  note.textContent = sentence;
  // Below a photo with faces, or beside one without.
  section.querySelector('.rmn-lines, :scope > div:has(> h2)').append(note);
});
