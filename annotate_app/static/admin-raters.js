// Raters: the table with its buttons, invitations and confirmations. A one-time link is shown once and stored nowhere.

import { getJson, h } from './dom.js';
import { fixed, numbers } from './plots.js';

/** @import { Dashboard } from './admin.js' */
/** @import { Child } from './dom.js' */
/** @import { Overview, Quality, RaterAnswer, RaterLine, RaterQuality } from './types' */
/** @typedef {keyof typeof QUESTIONS} Action */

/** Title, text and button of the question before an action. */
const QUESTIONS = {
  reset: ['Reset NAME?', 'The password stops working at once and open logins end. You get a one-time link for a new one. Scores and order stay.', 'Reset password'],
  retire: ['Retire NAME?', 'They can no longer log in. Scores and order stay and are still analysed; this can be taken back.', 'Retire'],
  reinstate: ['Reinstate NAME?', 'They can log in again and go on where they stopped.', 'Reinstate'],
  admit: ['Let NAME in?', 'They go on to scoring although the training gate was not reached. This is written to the audit log.', 'Let in'],
};

/** @param {string | null} text time in ISO 8601 */
export function since(text) {
  if (!text) return '–';
  const minutes = Math.max(0, Math.round((Date.now() - Date.parse(text)) / 60000));
  if (minutes < 60) return `${minutes} min ago`;
  return minutes < 2880 ? `${Math.round(minutes / 60)} h ago` : `${Math.round(minutes / 1440)} days ago`;
}

/** @param {Dashboard} office @param {{action: string, name: string, role?: string}} body @returns {Promise<RaterAnswer>} */
const send = (office, body) => getJson(new URL('api/admin/raters', office.base), body);

/** @param {HTMLElement} root @param {string} title @param {Child[]} content */
function open(root, title, ...content) {
  const box = h('dialog', { 'aria-label': title }, h('h3', {}, title), ...content);
  box.addEventListener('close', () => box.remove());
  root.append(box);
  box.showModal();
  return box;
}

/** A button that closes its dialog. @param {string} text */
const closing = (text) => h('button', { type: 'button', onclick: (event) => /** @type {Element} */ (event.target).closest('dialog')?.close() }, text);

/** @param {Dashboard} office @param {string} name @param {string} path of the one-time link */
function showLink(office, name, path) {
  const link = new URL(path, office.base).href;
  /** @type {HTMLInputElement} */
  const field = h('input', { type: 'text', readonly: true, value: link, 'aria-label': 'One-time link', onfocus: () => field.select() });
  const state = h('p', { role: 'status' });
  const copy = h('button', { type: 'button', class: 'main', onclick: async () => {
    field.select();
    try {
      await navigator.clipboard.writeText(link);
      state.textContent = 'Copied.';
    } catch {
      state.textContent = 'Copying is not allowed here: the link is selected, press Ctrl+C.';
    }
  } }, 'Copy link');
  open(office.root, `Link for ${name}`, h('p', {}, 'Shown once, here only. It works once and expires; hand it to this person and nobody else.'), field, state,
    h('div', { class: 'buttons' }, copy, closing('Done')));
  field.select();
}

/**
 * A dialog whose main button sends what `read` says; a refusal is shown in it, a link in another dialog.
 * @param {Dashboard} office
 * @param {string} title
 * @param {string} text
 * @param {string} word on the main button
 * @param {() => {action: string, name: string, role?: string}} read
 * @param {Child[]} fields
 */
function ask(office, title, text, word, read, ...fields) {
  const problem = h('p', { role: 'alert' });
  const go = h('button', { type: 'submit', class: 'main' }, word);
  const form = h('form', { onsubmit: async (event) => {
    event.preventDefault();
    go.disabled = true;
    const body = read();
    try {
      const answer = await send(office, body);
      box.close();
      if (answer.link) showLink(office, answer.name || body.name, answer.link);
      await office.refreshAfter();
    } catch (error) {
      problem.textContent = /** @type {Error} */ (error).message;
      go.disabled = false;
    }
  } }, ...fields, problem, h('div', { class: 'buttons' }, go, closing('Cancel')));
  const box = open(office.root, title, h('p', {}, text), form);
}

/** @param {Dashboard} office */
function invite(office) {
  const name = h('input', { type: 'text', maxlength: 64, required: true, autocomplete: 'off', spellcheck: 'false', id: 'invite-name' });
  const role = h('select', { id: 'invite-role' }, h('option', { value: 'rater' }, 'rater'), h('option', { value: 'admin' }, 'study office (admin)'));
  ask(office, 'Invite somebody', "Nobody else's order or sets change.", 'Make the link', () => ({ action: 'invite', name: name.value.trim(), role: role.value }),
    h('label', { for: 'invite-name' }, 'Name (letters, digits, . _ -)'), name, h('label', { for: 'invite-role' }, 'Role'), role);
  name.focus();
}

/** @param {RaterLine} rater @param {RaterQuality | undefined} line @param {number} gate */
const mayBeLetIn = (rater, line, gate) => gate > 0 && !rater.admitted && line !== undefined && line.progress.training.n_sets > 0;

/** @param {RaterLine} rater @param {RaterQuality | undefined} line @param {number} gate */
function stateOf(rater, line, gate) {
  if (rater.kind === 'simulated') return 'program';
  if (!rater.active) return 'retired';
  if (!rater.has_password) return 'invited, no password yet';
  if (mayBeLetIn(rater, line, gate)) return 'in training';
  return rater.n_sets && rater.n_done + rater.n_skipped >= rater.n_sets ? 'finished' : 'active';
}

/** @param {Dashboard} office @param {RaterLine} rater @param {RaterQuality | undefined} line @param {number} gate */
function buttons(office, rater, line, gate) {
  const { username: name } = rater;
  if (rater.kind !== 'human') return '–';
  const button = (/** @type {string} */ action, /** @type {string} */ word, /** @type {() => unknown} */ run) =>
    h('button', { type: 'button', class: 'small', 'data-focus': `${action}-${name}`, 'aria-label': `${word} ${name}`, onclick: run }, word);
  const asking = (/** @type {Action} */ action, /** @type {string} */ word) => button(action, word, () => {
    const [title, text, label] = QUESTIONS[action];
    ask(office, title.replace('NAME', () => name), text, label, () => ({ action, name }));
  });
  if (!rater.active) return h('span', { class: 'actions' }, asking('reinstate', 'Reinstate'));
  const newLink = () => send(office, { action: 'invite', name }).then(({ link = '' }) => showLink(office, name, link), (error) => office.say(error.message));
  return h('span', { class: 'actions' }, rater.has_password ? asking('reset', 'Reset') : button('invite', 'New link', newLink), asking('retire', 'Retire'),
    mayBeLetIn(rater, line, gate) ? asking('admit', 'Let in') : null);
}

/** The table of everybody, both kinds, each with its kind written out. @param {Dashboard} office @param {Overview} overview @param {Quality | undefined} quality */
export function raters(office, overview, quality) {
  const gate = quality ? quality.gate : 0;
  const parts = Object.values(quality?.by_kind ?? {});
  const lines = new Map(parts.flatMap((part) => part.raters).map((line) => [line.username, line]));
  const flagged = parts.flatMap((part) => part.flags);
  const heads = ['Rater', 'Kind', 'State', 'Done', 'Skipped', 'Scores', 'Mean', 'Image flags', 'Comments', 'Quality flags', 'Last entry', ''];
  const rows = overview.raters.map((rater) => {
    const line = lines.get(rater.username);
    const { n_done: done, n_sets: all } = line?.progress.n_sets ? line.progress : rater;
    const { n_skipped: skipped } = line?.progress ?? rater;
    return [h('strong', {}, rater.username), h('span', { class: `kind ${rater.kind}` }, rater.kind), stateOf(rater, line, gate), `${done} / ${all}`, String(skipped), String(rater.n_scores),
      fixed(rater.mean_score), String(line ? line.progress.artifact + line.progress.unrealistic : rater.n_flags), String(rater.n_comments),
      String(flagged.filter((flag) => flag.username === rater.username).length), since(rater.last_event), buttons(office, rater, line, gate)];
  });
  const table = numbers(heads, rows);
  table.classList.add('raters');
  return [h('p', { class: 'bar' }, h('button', { type: 'button', 'data-focus': 'invite', onclick: () => invite(office) }, 'Invite somebody'),
    h('span', {}, `Study office: ${overview.admins.join(', ') || 'nobody'}`)),
  rows.length ? table : h('p', {}, 'No raters yet. Invite one here, or with: radpref annotate rater invite NAME')];
}
