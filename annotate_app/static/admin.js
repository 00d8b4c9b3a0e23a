// The dashboard of the study office. It refreshes by itself; a section is drawn anew only when its figures changed.

import * as plots from './admin-plots.js';
import { raters, since } from './admin-raters.js';
import { getJson, h } from './dom.js';
import { numbers } from './plots.js';

const EVERY_MS = 30000;
const STAGES = [
  ['draft', 'Draft', 'Nobody has scored; everything may change.'],
  ['pilot', 'Pilot', 'People try it out; sets may still be added. These scores leave the analysis at the lock unless it keeps them.'],
  ['locked', 'Locked', 'Sets and rules are fixed; what is scored now counts.'],
  ['frozen', 'Frozen', 'Scoring is closed; now arms may be revealed, and each time is written down.'],
];
const base = new URL('../', document.baseURI);
const api = (name) => getJson(new URL(`api/admin/${name}`, base));
const clock = (date) => date.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });
const when = (text) => (text ? String(text).slice(0, 16).replace('T', ' ') : '–');

function stages(study) {
  const at = STAGES.findIndex(([name]) => name === study.stage);
  const steps = STAGES.map(([, word], k) => h('li', { class: k < at ? 'past' : k === at ? 'now' : 'next', 'aria-current': k === at ? 'step' : null }, k < at ? `✓ ${word}` : word));
  const may = study.may || [];
  return [
    h('ol', { class: 'stages', 'aria-label': 'Stage of the study' }, ...steps),
    h('p', {}, at >= 0 ? STAGES[at][2] : '', study.arms_visible === undefined ? null : h('span', {}, study.arms_visible ? ' Arms may be shown in reports.' : ' Arms are hidden.')),
    may.length ? h('p', { 'data-testid': 'may' }, h('strong', {}, 'Next: '), may.join('  ·  ')) : null,
    study.stage === 'locked' && study.n_open ? h('p', {}, `Still open, all people together: ${study.n_open} sets.`) : null,
    study.stage === 'pilot' && study.pilot ? h('p', {}, `Pilot so far: ${study.pilot.n_scores} scores of ${study.pilot.n_raters} people.`) : null,
    study.unblinded ? h('p', { class: 'warning' }, `Unblinded early: ${when(study.unblinded.at)} by ${study.unblinded.actor} (${study.unblinded.reason || 'no reason kept'}).`) : null,
    (study.changed || []).length ? h('p', { class: 'warning' }, `study.toml was changed after the lock: ${study.changed.join('; ')}. Put it back.`) : null,
  ];
}

class Dashboard {
  constructor(root) {
    this.root = root;
    this.data = {};
    this.kind = null;
    this.drawn = new Map();
    this.busy = null;
    this.status = h('p', { role: 'status', class: 'updated', 'data-testid': 'updated' }, 'Opening …');
    this.problem = h('p', { role: 'alert', class: 'warning', hidden: true });
    this.head = h('div', { class: 'head' });
    this.links = h('nav', { class: 'links', 'aria-label': 'Sections' });
    this.body = h('div', { class: 'body' });
    root.replaceChildren(h('header', {}, this.head, h('nav', {}, this.reportLink = h('a', { class: 'main', href: new URL('report/', base), hidden: true }, 'Latest report'),
      h('button', { type: 'button', onclick: () => this.refresh() }, 'Refresh'), h('form', { method: 'post', action: new URL('logout', base) }, h('button', {}, 'Log out')))),
    this.status, this.problem, this.links, this.body, h('footer', {}, "Research use, not for diagnosis. Radiological convention: the patient's right is at image left."));
    document.addEventListener('visibilitychange', () => this.onVisibility());
    // Drawn anew whenever its text changes, so that the date in it stays true.
    this.timer = setInterval(() => { if (!document.hidden) this.refresh(); }, EVERY_MS);
  }

  say(text) {
    this.problem.textContent = text;
    this.problem.hidden = !text;
  }

  onVisibility() {
    if (document.hidden) this.status.textContent = 'Paused: this window is hidden.';
    else this.refresh();
  }

  refresh() {
    this.busy = this.busy || this.load().finally(() => { this.busy = null; });
    return this.busy;
  }

  // After something was changed here: an answer that is under way may be older than the change.
  async refreshAfter() {
    await this.busy;
    await this.refresh();
  }

  async load() {
    try {
      this.data.overview = await api('overview');
      this.data.study = await api('study').catch((error) => { if (error.status === 401) throw error; return null; });
      this.draw();
      this.data.quality = await api('quality');
      this.draw();
      this.data.agreement = await api('agreement');
      this.draw();
      this.updated = new Date();
      this.status.textContent = `Updated ${clock(this.updated)}; figures of ${clock(new Date(this.data.quality.made_at))}. Refreshes every ${EVERY_MS / 1000} s while this window is shown.`;
      this.say('');
    } catch (error) {
      if (error.status === 401 || error.status === 403) location.reload();
      else this.say(`Not refreshed at ${clock(new Date())}: ${error.message}. Trying again in ${EVERY_MS / 1000} s.${this.updated ? ` What you see is of ${clock(this.updated)}.` : ''}`);
    }
  }

  draw() {
    const { overview, study, quality, agreement } = this.data;
    const top = this.root.scrollTop;
    this.reportLink.hidden = !overview.report;
    const modes = Object.entries(overview.modes).map(([mode, n]) => `${n} ${mode}`).join(', ');
    this.part(this.head, [overview.title, overview.study, overview.n_sets, modes, study], () => [h('h1', {}, overview.title),
      h('p', {}, `Study ${overview.study}: ${overview.n_sets} sets${modes ? ` (${modes})` : ''}`), ...(study ? stages(study) : [])]);
    this.raters(overview, quality);
    if (!quality) return;
    const kinds = Object.keys(quality.by_kind);
    if (!kinds.includes(this.kind)) [this.kind] = kinds;
    this.toggle(kinds);
    const part = quality.by_kind[this.kind];
    if (part) this.figures(part, quality, agreement);
    else this.section('progress', 'Progress', [], () => [h('p', {}, 'No raters yet.')]);
    const remarks = quality.remarks.filter((one) => one.rater_kind === this.kind);
    this.section('remarks', 'Comments and skips', [this.kind, remarks], () => this.remarks(remarks));
    this.section('audit', 'Audit log, newest first', quality.audit, () => [h('div', { class: 'wide' }, numbers(['At (UTC)', 'Who', 'What', 'Detail'], quality.audit.map((line) => [when(line.at), line.actor, line.action, line.detail])))]);
    this.root.scrollTop = top;
  }

  figures(part, quality, agreement) {
    const { kind } = this;
    this.section('progress', 'Progress and pace', [kind, part.raters.map((rater) => [rater.username, rater.progress, rater.pace])], () => plots.progress(part, kind));
    const found = agreement && agreement.by_kind[kind];
    this.section('agreement', 'Agreement', [kind, agreement ? { ...agreement, made_at: '' } : null, part.coverage], () => {
      if (!agreement) return [h('p', {}, 'Computing …')];
      if (!found) return [h('p', {}, 'No scores yet.')];
      return [h('p', { class: 'wide' }, `${found.n_raters} ${found.n_raters === 1 ? 'rater' : 'raters'}, ${found.n_sets} sets, ${found.n_scores} scores of rating sets, repeats left out. Hidden repeats have their own section.`), ...plots.agreement(found, kind, part)];
    });
    const rest = [['leniency', 'Leniency', ['leniency', 'distribution'], plots.leniency], ['position', 'Position effect', ['position'], plots.position], ['repeats', 'Repeats', ['repeats'], plots.repeats],
      ['attention', 'Attention', ['attention', 'training', 'progress'], plots.attention], ['drift', 'Drift', ['drift'], plots.drift]];
    for (const [id, title, keys, make] of rest) {
      this.section(id, title, [kind, part.raters.map((rater) => [rater.username, ...keys.map((key) => rater[key])])], () => make(part, kind));
    }
    this.section('flags', 'Flags', [kind, part.flags, part.raters.map((rater) => [rater.pace, rater.straight_line])], () => plots.flags(part, quality, kind));
  }

  raters(overview, quality) {
    const context = { root: this.root, base, refresh: () => this.refreshAfter(), say: (text) => this.say(text) };
    const lines = overview.raters.map((rater) => [rater, since(rater.last_event)]);
    this.section('raters', 'Raters', [lines, overview.admins, quality && quality.by_kind], () => [h('div', { class: 'wide' }, ...raters(context, overview, quality))]);
  }

  remarks(list) {
    if (!list.length) return [h('p', {}, 'None yet.')];
    const rows = list.map((one) => [when(one.at), one.username, one.kind, one.mode, one.text || '–', one.comment]);
    return [h('div', { class: 'wide texts' }, numbers(['At (UTC)', 'Rater', 'What', 'Mode', 'Asked', 'Words'], rows))];
  }

  // People or simulated raters: one kind at a time, never in one plot.
  toggle(kinds) {
    const words = { human: 'People', simulated: 'Simulated raters' };
    const ids = ['progress', 'agreement', 'leniency', 'position', 'repeats', 'attention', 'drift', 'flags', 'raters', 'remarks', 'audit'];
    const count = (id) => (id === 'flags' && this.data.quality.by_kind[this.kind] ? ` (${this.data.quality.by_kind[this.kind].flags.length})` : '');
    this.part(this.links, [kinds, this.kind, count('flags')], () => [
      ...(kinds.length > 1 ? [h('span', { class: 'toggle', role: 'group', 'aria-label': 'Whose figures' }, ...kinds.map((kind) => h('button', { type: 'button', 'data-focus': `kind-${kind}`, 'aria-pressed': String(kind === this.kind),
        onclick: () => { this.kind = kind; this.draw(); } }, words[kind])))] : []),
      ...ids.map((id) => h('button', { type: 'button', class: 'link', onclick: () => this.root.querySelector(`#section-${id}`).scrollIntoView({ behavior: 'smooth' }) }, `${id[0].toUpperCase()}${id.slice(1)}${count(id)}`)),
      this.kind === 'simulated' ? h('p', { class: 'simulated-note', role: 'note' }, 'Simulated raters: these scores were made by programs, not by people.') : null]);
  }

  section(id, title, data, make) {
    let place = this.root.querySelector(`#section-${id}`);
    if (!place) {
      place = h('section', { id: `section-${id}`, 'data-testid': id, 'aria-label': title }, h('h2', {}, title), h('div', { class: 'plots' }));
      const order = ['progress', 'agreement', 'leniency', 'position', 'repeats', 'attention', 'drift', 'flags', 'raters', 'remarks', 'audit'];
      const next = order.slice(order.indexOf(id) + 1).map((name) => this.root.querySelector(`#section-${name}`)).find((one) => one);
      this.body.insertBefore(place, next || null);
    }
    this.part(place.lastChild, data, make);
  }

  // Draw a part anew if its data changed; tables that are open and the focus stay as they are.
  part(place, data, make) {
    const key = JSON.stringify(data);
    if (this.drawn.get(place) === key) return;
    const open = [...place.querySelectorAll('details[open]')].map((one) => one.dataset.key);
    const focus = place.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    place.replaceChildren(...make().filter((one) => one));
    for (const one of place.querySelectorAll('details')) if (open.includes(one.dataset.key)) one.open = true;
    if (focus) [...place.querySelectorAll('[data-focus]')].find((one) => one.dataset.focus === focus)?.focus();
    this.drawn.set(place, key);
  }
}

export async function start(element) {
  const root = element.querySelector('.radpref-root') || element;
  await new Dashboard(root).refresh();
}
