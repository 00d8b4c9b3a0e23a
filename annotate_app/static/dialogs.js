// Dialogs: help, break, comment, skip with a reason, log in again. All are native <dialog>; Escape closes them.

import { getJson, h, HttpError, plural } from './dom.js';

/** @import { Child } from './dom.js' */
/** @import { SetState } from './types' */

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

/** Show a dialog whose forms close it. @param {HTMLDialogElement} dialog @returns {Promise<string>} the pressed button's value, '' for Escape */
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

/** @param {string} title @param {Child[]} content the fields and buttons of its form */
const shell = (title, ...content) =>
  h('dialog', { class: 'radpref-dialog', 'aria-label': title }, h('form', { method: 'dialog' }, h('h2', {}, title), ...content));

/** @param {string} label */
const buttons = (label) =>
  h('p', { class: 'buttons' }, h('button', { value: '', formnovalidate: true, class: 'plain', type: 'submit' }, 'Cancel'), h('button', { value: 'ok', class: 'main' }, label));

/** @param {string} label */
const oneButton = (label) => h('p', { class: 'buttons' }, h('button', { value: 'ok', class: 'main', autofocus: true }, label));

/** @param {SetState | null} state whose scales are explained */
export function help(state) {
  const keys = h('dl', { class: 'keys' }, ...KEYS.map(([key, action]) => h('div', {}, h('dt', {}, key), h('dd', {}, action))));
  const scales = Object.entries(state ? state.anchors : {}).map(([criterion, anchors]) =>
    h('div', {}, h('h3', {}, criterion === 'text' ? 'Text: does the image show what the text says?' : 'Mask: does the image follow the outline?'),
      h('ol', { start: '0', class: 'scale' }, ...anchors.map((anchor) => h('li', {}, anchor)))));
  return ask(shell('Help', keys, h('div', { class: 'scales' }, ...scales),
    h('p', { class: 'fine' }, "Scores are saved as you give them. Patient's right is at image left. Research use, not for diagnosis."), oneButton('Close')));
}

/** A soft break, between two sets only. @param {number} sets since the last one @param {number} work milliseconds @param {number} done @param {number} total */
export function pause(sets, work, done, total) {
  const minutes = Math.round(work / 60000);
  const time = minutes < 1 ? 'less than a minute' : minutes === 1 ? 'one minute' : `${minutes} minutes`;
  const dialog = shell('Time for a break?', h('p', { class: 'large' }, `${plural(sets)} in ${time} of scoring. Done: ${done} of ${total}.`),
    h('p', {}, "A few minutes' rest keeps the scores consistent. Everything is saved. Press Enter to go on."), oneButton('Go on'));
  dialog.classList.add('between');
  return ask(dialog);
}

/** @param {string} text the comment so far @returns {Promise<string | null>} null for Cancel */
export async function comment(text) {
  const area = h('textarea', { rows: '5', maxlength: '2000', 'aria-label': 'Comment', autofocus: true });
  area.value = text;
  const dialog = shell('Comment on this set', area, h('p', { class: 'fine' }, 'Ctrl+Enter saves, Escape cancels.'), buttons('Save'));
  area.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) dialog.close('ok');
  });
  return (await ask(dialog)) === 'ok' ? area.value : null;
}

/** @returns {Promise<string | null>} the reason; null for Cancel */
export async function skip() {
  const radios = REASONS.map((reason, index) => h('input', { type: 'radio', name: 'reason', value: reason, checked: index === 0, autofocus: index === 0 }));
  const list = REASONS.map((reason, index) => h('label', { class: 'choice' }, radios[index], h('kbd', {}, String(index + 1)), reason));
  const other = h('input', { type: 'text', maxlength: '500', placeholder: 'Details (optional)', 'aria-label': 'Details' });
  const dialog = shell('Skip this set: why?', ...list, other, buttons('Skip'));
  dialog.addEventListener('keydown', (event) => {
    const radio = radios[Number(event.key) - 1];
    if (radio && event.target !== other) radio.checked = true;
    if (event.key === 'Enter') {
      event.preventDefault();
      dialog.close('ok');
    }
  });
  if ((await ask(dialog)) !== 'ok') return null;
  const reason = REASONS[radios.findIndex((radio) => radio.checked)];
  return other.value.trim() ? `${reason}: ${other.value.trim()}` : reason;
}

/** Log in again without leaving the page: nothing that was scored is lost. @param {URL} base @param {number} waiting unsent entries */
export async function login(base, waiting) {
  const name = h('input', { type: 'text', name: 'username', autocomplete: 'username', required: true, 'aria-label': 'Name', placeholder: 'Name', autofocus: true });
  const password = h('input', { type: 'password', autocomplete: 'current-password', required: true, 'aria-label': 'Password', placeholder: 'Password' });
  const problem = h('p', { class: 'error', role: 'alert' });
  const dialog = shell('Your session has ended', h('p', {}, waiting ? `Entries not sent yet: ${waiting}. They are kept in this browser and sent after you log in again.` : 'Log in again to go on.'),
    name, password, problem, h('p', { class: 'buttons' }, h('button', { class: 'main', value: 'ok' }, 'Log in')));
  dialog.addEventListener('cancel', (event) => event.preventDefault());
  dialog.addEventListener('submit', async (event) => {
    event.preventDefault();
    try {
      await getJson(new URL('login', base), { username: name.value, password: password.value });
      dialog.close('ok');
    } catch (error) {
      problem.textContent = error instanceof HttpError ? error.message : 'The server cannot be reached.';
    }
  });
  return ask(dialog);
}
