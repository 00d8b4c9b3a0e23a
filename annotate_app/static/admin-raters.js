// Raters: the table with its buttons, invitations and confirmations. A one-time link is shown once and kept nowhere.

import { h } from './dom.js';
import { fixed, numbers } from './plots.js';

const ASK = {
  reset: (name) => [`Reset ${name}?`, 'The password stops working at once and open logins end. You get a one-time link for a new one. Scores and order stay.', 'Reset password'],
  retire: (name) => [`Retire ${name}?`, 'They can no longer log in. Scores and order stay and are still analysed; this can be taken back.', 'Retire'],
  reinstate: (name) => [`Reinstate ${name}?`, 'They can log in again and go on where they stopped.', 'Reinstate'],
  admit: (name) => [`Let ${name} in?`, 'They go on to scoring although the training gate was not reached. This is written to the audit log.', 'Let in'],
};

export function since(text) {
  if (!text) return '–';
  const minutes = Math.max(0, Math.round((Date.now() - Date.parse(text)) / 60000));
  if (minutes < 60) return `${minutes} min ago`;
  return minutes < 2880 ? `${Math.round(minutes / 60)} h ago` : `${Math.round(minutes / 1440)} days ago`;
}

async function send(base, body) {
  const response = await fetch(new URL('api/admin/raters', base), { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `the server answered ${response.status}`);
  return answer;
}

function dialog(root, title, content, actions) {
  const box = h('dialog', { 'aria-label': title }, h('h3', {}, title), ...content, h('div', { class: 'buttons' }, ...actions));
  box.addEventListener('close', () => box.remove());
  root.append(box);
  box.showModal();
  return box;
}

function showLink(context, name, answer) {
  const link = new URL(answer.link, context.base).href;
  const field = h('input', { type: 'text', readonly: true, value: link, 'aria-label': 'One-time link', onfocus: (event) => event.target.select() });
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
  const box = dialog(context.root, `Link for ${name}`, [h('p', {}, 'Shown once, here only. It works once and expires; hand it to this person and nobody else.'), field, state],
    [copy, h('button', { type: 'button', onclick: () => box.close() }, 'Done')]);
  field.select();
}

function ask(context, action, name) {
  const [title, text, word] = ASK[action](name);
  const problem = h('p', { role: 'alert' });
  const go = h('button', { type: 'button', class: 'main', onclick: async () => {
    go.disabled = true;
    try {
      const answer = await send(context.base, { action, name });
      box.close();
      if (answer.link) showLink(context, name, answer);
      await context.refresh();
    } catch (error) {
      problem.textContent = error.message;
      go.disabled = false;
    }
  } }, word);
  const box = dialog(context.root, title, [h('p', {}, text), problem], [go, h('button', { type: 'button', onclick: () => box.close() }, 'Cancel')]);
}

function invite(context) {
  const name = h('input', { type: 'text', maxlength: 64, required: true, autocomplete: 'off', spellcheck: 'false', id: 'invite-name' });
  const role = h('select', { id: 'invite-role' }, h('option', { value: 'rater' }, 'rater'), h('option', { value: 'admin' }, 'study office (admin)'));
  const problem = h('p', { role: 'alert' });
  const form = h('form', { onsubmit: async (event) => {
    event.preventDefault();
    try {
      const answer = await send(context.base, { action: 'invite', name: name.value.trim(), role: role.value });
      box.close();
      showLink(context, answer.name || name.value.trim(), answer);
      await context.refresh();
    } catch (error) {
      problem.textContent = error.message;
    }
  } }, h('label', { for: 'invite-name' }, 'Name (letters, digits, . _ -)'), name, h('label', { for: 'invite-role' }, 'Role'), role, problem,
  h('div', { class: 'buttons' }, h('button', { type: 'submit', class: 'main' }, 'Make the link'), h('button', { type: 'button', onclick: () => box.close() }, 'Cancel')));
  const box = dialog(context.root, 'Invite somebody', [h('p', {}, "Nobody else's order or sets change.")], []);
  box.append(form);
  name.focus();
}

const mayBeLetIn = (rater, line, gate) => gate > 0 && !rater.admitted && Boolean(line) && line.progress.training.n_sets > 0;

function stateOf(rater, line, gate) {
  if (rater.kind === 'simulated') return 'program';
  if (!rater.active) return 'retired';
  if (!rater.has_password) return 'invited, no password yet';
  if (mayBeLetIn(rater, line, gate)) return 'in training';
  return rater.n_sets && rater.n_done + rater.n_skipped >= rater.n_sets ? 'finished' : 'active';
}

function buttons(context, rater, line, gate) {
  if (rater.kind !== 'human') return '–';
  const button = (action, word, run) => h('button', { type: 'button', class: 'small', 'data-focus': `${action}-${rater.username}`, 'aria-label': `${word} ${rater.username}`, onclick: run || (() => ask(context, action, rater.username)) }, word);
  if (!rater.active) return h('span', { class: 'actions' }, button('reinstate', 'Reinstate'));
  const again = async () => {
    try {
      showLink(context, rater.username, await send(context.base, { action: 'invite', name: rater.username }));
    } catch (error) {
      context.say(error.message);
    }
  };
  return h('span', { class: 'actions' }, !rater.has_password ? button('invite', 'New link', again) : button('reset', 'Reset'), button('retire', 'Retire'),
    mayBeLetIn(rater, line, gate) ? button('admit', 'Let in') : null);
}

// The table of everybody, both kinds, each with its kind written out.
export function raters(context, overview, quality) {
  const gate = quality ? quality.gate : 0;
  const lines = Object.fromEntries(Object.values(quality ? quality.by_kind : {}).flatMap((part) => part.raters).map((line) => [line.username, line]));
  const flagged = Object.values(quality ? quality.by_kind : {}).flatMap((part) => part.flags);
  const heads = ['Rater', 'Kind', 'State', 'Done', 'Skipped', 'Scores', 'Mean', 'Image flags', 'Comments', 'Quality flags', 'Last entry', ''];
  const rows = overview.raters.map((rater) => {
    const line = lines[rater.username];
    const progress = line ? line.progress : null;
    return [h('strong', {}, rater.username), h('span', { class: `kind ${rater.kind}` }, rater.kind), stateOf(rater, line, gate),
      progress && progress.n_sets ? `${progress.n_done} / ${progress.n_sets}` : `${rater.n_done} / ${rater.n_sets}`, String(progress ? progress.n_skipped : rater.n_skipped), String(rater.n_scores),
      fixed(rater.mean_score), String(progress ? progress.artifact + progress.unrealistic : rater.n_flags), String(rater.n_comments),
      String(flagged.filter((flag) => flag.username === rater.username).length), since(rater.last_event), buttons(context, rater, line, gate)];
  });
  const table = numbers(heads, rows);
  table.classList.add('raters');
  return [h('p', { class: 'bar' }, h('button', { type: 'button', 'data-focus': 'invite', onclick: () => invite(context) }, 'Invite somebody'),
    h('span', {}, `Study office: ${overview.admins.join(', ') || 'nobody'}`)),
  rows.length ? table : h('p', {}, 'No raters yet. Invite one here, or with: radpref annotate rater invite NAME')];
}
