// Which face and which map are shown is kept in the page. Every new photo begins anew; other settings leave the choice as
// it is, where the face is still there: its number may be another one.
let face = 1, stage = 1, mix = 60, place = null, photo = null;

const places = () => [...element.querySelectorAll('.rmn-face')].map(({dataset, style}) => {
  const [left, top, width, height] = ['left', 'top', 'width', 'height'].map(side => parseFloat(style[side]));
  return {face: Number(dataset.face), x: left + width / 2, y: top + height / 2, width, height};
});
const photoOf = () => element.querySelector('.rmn-photo > img, .rmn-message > img')?.src;

const apply = () => {
  place = places().find(each => each.face === face) ?? place;
  const show = (name, value, attribute) => element.querySelectorAll(`[data-${name}]`).forEach(item => {
    const chosen = Number(item.dataset[name]) === value;
    if (attribute === 'hidden') item.hidden = !chosen; else item.setAttribute(attribute, chosen);
  });
  show('face', face, 'aria-pressed');
  show('panel', face, 'hidden');
  show('stage', stage, 'aria-pressed');
  show('steps', stage, 'hidden');
  const section = element.querySelector('.rmn-result');
  if (section) section.style.setProperty('--mix', mix / 100);
  const slider = element.querySelector('[data-mix]');
  if (slider) slider.value = mix;
};

element.addEventListener('click', event => {
  const tab = event.target.closest('[data-tab]');
  if (tab) {
    [...document.querySelectorAll('[role=tab]')].find(item => item.textContent.trim() === tab.dataset.tab)?.click();
    window.scrollTo({top: 0});
  }
  const chosen = event.target.closest('[data-face], [data-stage]');
  if (!chosen) return;
  if (chosen.dataset.face !== undefined) face = Number(chosen.dataset.face);
  if (chosen.dataset.stage !== undefined) stage = Number(chosen.dataset.stage);
  apply();
});

element.addEventListener('input', event => {
  if (event.target.matches('[data-mix]')) { mix = Number(event.target.value); apply(); }
});

watch('value', () => {
  const same = photoOf() !== undefined && photoOf() === photo;
  photo = photoOf();
  if (!same) [stage, mix, place] = [1, 60, null];
  const isThere = each => Math.abs(each.x - place.x) < each.width / 2 && Math.abs(each.y - place.y) < each.height / 2;
  face = (place && places().find(isThere)?.face) ?? 1;
  apply();
  // On a narrow page the result lies below.
  if (window.innerWidth < 768 && !same) {
    element.querySelector('section')?.scrollIntoView({behavior: 'smooth', block: 'start'});
  }
});
photo = photoOf();
apply();
