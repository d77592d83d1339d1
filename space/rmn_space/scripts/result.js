// Which face and which map are shown is kept in the page; every new result begins anew.
let face = 1, stage = 1, mix = 60;

const apply = () => {
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
  [face, stage, mix] = [1, 1, 60];
  apply();
  // On a narrow page the result lies below.
  if (window.innerWidth < 768) {
    element.querySelector('section')?.scrollIntoView({behavior: 'smooth', block: 'start'});
  }
});
apply();
