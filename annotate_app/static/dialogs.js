// Dialogs: help, comment, skip with a reason, log in again. All are native <dialog>; Escape closes them.

import { h } from './dom.js';

const KEYS = [
  ['0 – 5', 'score the focused row and go on'], ['Tab, arrows', 'move between rows and images'],
  ['Q W A S', 'image A, B, C, D'], ['T / M', 'text row / mask row'],
  ['X / U', 'flag: artifact / unrealistic'], ['Z', 'undo'],
  ['N', 'comment'], ['K', 'skip this set'],
  ['Enter', 'submit when complete'], ['Backspace', 'previous set'],
  ['F, double click', 'one image large'], ['C', 'flicker-compare with the last image'],
  ['Wheel, + −', 'zoom'], ['Drag', 'pan; keys: Home End Page ↑ Page ↓'],
  ['Right drag', 'window sideways, level up and down'], ['Shift+arrows', 'the same by keyboard'],
  ['I / R', 'invert / reset view'], ['L', 'link the four views'],
  ['O, [ ]', 'mask outline, its opacity'], ['?', 'this help'],
];
export const REASONS = ['Images are missing or broken', 'The condition is unclear', 'Outside my expertise', 'Other'];

// A dialog whose forms close it; resolves with the pressed button's value, or '' on Escape.
function ask(dialog) {
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
}

const shell = (title, ...content) =>
  h('dialog', { class: 'radpref-dialog', 'aria-label': title }, h('form', { method: 'dialog' }, h('h2', {}, title), ...content));

const buttons = (label) =>
  h('p', { class: 'buttons' }, h('button', { value: '', formnovalidate: true, class: 'plain', type: 'submit' }, 'Cancel'), h('button', { value: 'ok', class: 'main' }, label));

export function help(state) {
  const keys = h('dl', { class: 'keys' }, ...KEYS.map(([key, action]) => h('div', {}, h('dt', {}, key), h('dd', {}, action))));
  const scales = Object.entries(state ? state.anchors : {}).map(([criterion, anchors]) =>
    h('div', {}, h('h3', {}, criterion === 'text' ? 'Text: does the image show what the text says?' : 'Mask: does the image follow the outline?'),
      h('ol', { start: '0', class: 'scale' }, ...anchors.map((anchor) => h('li', {}, anchor)))));
  return ask(shell('Help', keys, h('div', { class: 'scales' }, ...scales),
    h('p', { class: 'fine' }, "Scores are saved as you give them. Patient's right is at image left. Research use, not for diagnosis."),
    h('p', { class: 'buttons' }, h('button', { value: 'ok', class: 'main', autofocus: true }, 'Close'))));
}

// A soft break, between two sets only.
export function pause(sets, work, done, total) {
  const minutes = Math.round(work / 60000);
  const time = minutes < 1 ? 'less than a minute' : minutes === 1 ? 'one minute' : `${minutes} minutes`;
  const dialog = shell('Time for a break?', h('p', { class: 'large' }, `${sets === 1 ? '1 set' : `${sets} sets`} in ${time} of scoring. Done: ${done} of ${total}.`),
    h('p', {}, 'A few minutes away keep the scores steady. Everything is saved. Enter goes on.'),
    h('p', { class: 'buttons' }, h('button', { value: 'ok', class: 'main', autofocus: true }, 'Go on')));
  dialog.classList.add('between');
  return ask(dialog);
}

export async function comment(text) {
  const area = h('textarea', { rows: '5', maxlength: '2000', 'aria-label': 'Comment', autofocus: true });
  area.value = text;
  const dialog = shell('Comment on this set', area, h('p', { class: 'fine' }, 'Ctrl+Enter saves, Escape cancels.'), buttons('Save'));
  area.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) dialog.close('ok');
  });
  return (await ask(dialog)) === 'ok' ? area.value : null;
}

export async function skip() {
  const radios = REASONS.map((reason, index) => h('input', { type: 'radio', name: 'reason', value: reason, checked: index === 0, autofocus: index === 0 }));
  const list = REASONS.map((reason, index) => h('label', { class: 'choice' }, radios[index], h('kbd', {}, String(index + 1)), reason));
  const other = h('input', { type: 'text', maxlength: '500', placeholder: 'Details (optional)', 'aria-label': 'Details' });
  const dialog = shell('Skip this set: why?', ...list, other, buttons('Skip'));
  dialog.addEventListener('keydown', (event) => {
    const index = Number(event.key) - 1;
    if (event.target !== other && radios[index]) radios[index].checked = true;
    if (event.key === 'Enter') {
      event.preventDefault();
      dialog.close('ok');
    }
  });
  if ((await ask(dialog)) !== 'ok') return null;
  const reason = radios.find((radio) => radio.checked).value;
  return other.value.trim() ? `${reason}: ${other.value.trim()}` : reason;
}

// Log in again without leaving the page: nothing that was scored is lost.
export async function login(base, waiting) {
  const name = h('input', { type: 'text', name: 'username', autocomplete: 'username', required: true, 'aria-label': 'Name', placeholder: 'Name', autofocus: true });
  const password = h('input', { type: 'password', autocomplete: 'current-password', required: true, 'aria-label': 'Password', placeholder: 'Password' });
  const error = h('p', { class: 'error', role: 'alert' });
  const dialog = shell('Your login has ended', h('p', {}, waiting ? `${waiting} entries wait in this browser and will be sent after you log in again.` : 'Log in again to go on.'),
    name, password, error, h('p', { class: 'buttons' }, h('button', { class: 'main', value: 'ok' }, 'Log in')));
  dialog.addEventListener('cancel', (event) => event.preventDefault());
  dialog.querySelector('form').addEventListener('submit', async (event) => {
    event.preventDefault();
    try {
      const response = await fetch(new URL('login', base), {
        method: 'POST', headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ username: name.value, password: password.value }),
      });
      if (response.ok) dialog.close('ok');
      else error.textContent = (await response.json()).error;
    } catch {
      error.textContent = 'The server cannot be reached.';
    }
  });
  return ask(dialog);
}
