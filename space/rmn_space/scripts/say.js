// Whoever listens to the page hears each new result.
const spoken = document.createElement('p');
spoken.className = 'rmn-hidden';
spoken.setAttribute('role', 'status');
element.after(spoken);
watch('value', () => { spoken.textContent = element.querySelector('[data-say]')?.dataset.say ?? ''; });
