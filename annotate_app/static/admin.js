// The dashboard of the study office. It refreshes itself; a section is redrawn only when its figures changed.

import * as plots from './admin-plots.js';
import { raters, since } from './admin-raters.js';
import { getJson, h, HttpError } from './dom.js';
import { numbers } from './plots.js';

/** @import { Child } from './dom.js' */
/** @import { Agreement, Kind, KindQuality, Overview, Quality, Stage } from './types' */

const EVERY_MS = 30000;
const STAGES = [
  ['draft', 'Draft', 'Nobody has scored; everything may change.'],
  ['pilot', 'Pilot', 'People try it out; sets may still be added. These scores leave the analysis at the lock unless it keeps them.'],
  ['locked', 'Locked', 'Sets and rules are fixed; what is scored now counts.'],
  ['frozen', 'Frozen', 'Scoring is closed; now arms may be revealed, and each time is recorded.'],
];
/** Sections in the order of the page. */
const SECTIONS = {
  progress: 'Progress and pace', agreement: 'Agreement', leniency: 'Leniency', position: 'Position effect', repeats: 'Repeats', attention: 'Attention',
  drift: 'Drift', flags: 'Flags', raters: 'Raters', remarks: 'Comments and skips', audit: 'Audit log, newest first',
};
/** @typedef {keyof typeof SECTIONS} Section */
const IDS = /** @type {Section[]} */ (Object.keys(SECTIONS));

const base = new URL('../', document.baseURI);
/** @template T @param {string} name @returns {Promise<T>} */
const api = (name) => getJson(new URL(`api/admin/${name}`, base));
const clock = (/** @type {Date} */ date) => date.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });
const when = (/** @type {string} */ text) => text.slice(0, 16).replace('T', ' ');
const paragraph = (/** @type {string} */ text) => [h('p', {}, text)];

/** The stage of the study, what comes next, and what must be known about it. @param {Stage} study */
function stages({ stage, arms_visible: visible, may = [], n_open: open, pilot, unblinded, changed = [] }) {
  const at = STAGES.findIndex(([name]) => name === stage);
  const steps = STAGES.map(([, word], k) => h('li', { class: k < at ? 'past' : k === at ? 'now' : 'next', 'aria-current': k === at ? 'step' : null }, k < at ? `✓ ${word}` : word));
  return [
    h('ol', { class: 'stages', 'aria-label': 'Stage of the study' }, ...steps),
    h('p', {}, at >= 0 ? STAGES[at][2] : '', visible === undefined ? null : h('span', {}, visible ? ' Arms may be shown in reports.' : ' Arms are hidden.')),
    may.length ? h('p', { 'data-testid': 'may' }, h('strong', {}, 'Next: '), may.join('  ·  ')) : null,
    stage === 'locked' && open ? h('p', {}, `Still open: ${open} sets, of all raters together.`) : null,
    stage === 'pilot' && pilot ? h('p', {}, `Pilot so far: ${pilot.n_scores} scores of ${pilot.n_raters} people.`) : null,
    unblinded && h('p', { class: 'warning' }, `Unblinded early: ${when(unblinded.at)} by ${unblinded.actor} (${unblinded.reason || 'no reason given'}).`),
    changed.length ? h('p', { class: 'warning' }, `study.toml was changed after the lock: ${changed.join('; ')}. Restore it.`) : null,
  ];
}

export class Dashboard {
  base = base;
  /** @type {{overview?: Overview, study?: Stage | null, quality?: Quality, agreement?: Agreement}} */
  data = {};
  /** @type {Kind} whose figures are shown */
  kind = 'human';
  /** @type {Map<Element, string>} the figures that each part was drawn from, as JSON */
  drawn = new Map();
  /** @type {Promise<void> | null} */
  busy = null;
  /** @type {Date | undefined} */
  updated = undefined;
  status = h('p', { role: 'status', class: 'updated', 'data-testid': 'updated' }, 'Opening …');
  problem = h('p', { role: 'alert', class: 'warning', hidden: true });
  head = h('div', { class: 'head' });
  links = h('nav', { class: 'links', 'aria-label': 'Sections' });
  reportLink = h('a', { class: 'main', href: new URL('report/', base), hidden: true }, 'Latest report');
  /** @type {Partial<Record<Section, HTMLElement>>} what holds the plots of each section that was drawn */
  sections = {};

  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root;
    this.body = h('div', { class: 'body' });
    root.replaceChildren(h('header', {}, this.head, h('nav', {}, this.reportLink,
      h('button', { type: 'button', onclick: () => this.refresh() }, 'Refresh'), h('form', { method: 'post', action: new URL('logout', base) }, h('button', {}, 'Log out')))),
    this.status, this.problem, this.links, this.body, h('footer', {}, "Research use, not for diagnosis. Radiological convention: the patient's right is at image left."));
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) this.status.textContent = 'Paused: this window is hidden.';
      else this.refresh();
    });
    setInterval(() => { if (!document.hidden) this.refresh(); }, EVERY_MS);
  }

  /** @param {string} text */
  say(text) {
    this.problem.textContent = text;
    this.problem.hidden = !text;
  }

  refresh() {
    this.busy ??= this.load().finally(() => { this.busy = null; });
    return this.busy;
  }

  /** After something was changed here: an answer that is under way may be older than the change. */
  async refreshAfter() {
    await this.busy;
    await this.refresh();
  }

  async load() {
    const { data } = this;
    try {
      data.overview = await api('overview');
      data.study = await api('study').catch((error) => { if (error.status === 401) throw error; return null; });
      this.draw();
      data.quality = await api('quality');
      this.draw();
      data.agreement = await api('agreement');
      this.draw();
      this.updated = new Date();
      const made = data.quality && clock(new Date(data.quality.made_at));
      this.status.textContent = `Updated ${clock(this.updated)}; figures from ${made}. Refreshes every ${EVERY_MS / 1000} s while this window is shown.`;
      this.say('');
    } catch (error) {
      if (error instanceof HttpError && [401, 403].includes(error.status)) location.reload();
      else this.say(`Not refreshed at ${clock(new Date())}: ${/** @type {Error} */ (error).message}. Trying again in ${EVERY_MS / 1000} s.${this.updated ? ` What you see is from ${clock(this.updated)}.` : ''}`);
    }
  }

  draw() {
    const { overview, study, quality } = this.data;
    if (!overview) return;
    const top = this.root.scrollTop;
    this.reportLink.hidden = !overview.report;
    const modes = Object.entries(overview.modes).map(([mode, n]) => `${n} ${mode}`).join(', ');
    this.part(this.head, [overview.title, overview.study, overview.n_sets, modes, study], () => [h('h1', {}, overview.title),
      h('p', {}, `Study ${overview.study}: ${overview.n_sets} sets${modes ? ` (${modes})` : ''}`), ...(study ? stages(study) : [])]);
    this.raters(overview, quality);
    if (!quality) return;
    const kinds = /** @type {Kind[]} */ (Object.keys(quality.by_kind));
    if (!kinds.includes(this.kind)) [this.kind] = kinds.length ? kinds : /** @type {Kind[]} */ (['human']);
    const part = quality.by_kind[this.kind];
    this.navigation(kinds, part);
    if (part) this.figures(part, quality);
    else this.section('progress', [], () => paragraph('No raters yet.'));
    this.remarks(quality);
    this.section('audit', quality.audit, () => [h('div', { class: 'wide' }, numbers(['At (UTC)', 'Who', 'What', 'Detail'], quality.audit.map((line) => [when(line.at), line.actor, line.action, line.detail])))]);
    this.root.scrollTop = top;
  }

  /** @param {KindQuality} part @param {Quality} quality */
  figures(part, quality) {
    const { kind, data: { agreement } } = this;
    const found = agreement?.by_kind[kind];
    this.section('progress', [kind, part.raters.map((rater) => [rater.username, rater.progress, rater.pace])], () => plots.progress(part, kind));
    this.section('agreement', [kind, agreement ? { ...agreement, made_at: '' } : null, part.coverage], () => {
      if (!agreement) return paragraph('Computing …');
      if (!found) return paragraph('No scores yet.');
      return [h('p', { class: 'wide' }, `${found.n_raters} ${found.n_raters === 1 ? 'rater' : 'raters'}, ${found.n_sets} sets, ${found.n_scores} scores of rating sets, repeats left out. Hidden repeats have their own section.`), ...plots.agreement(found, kind, part)];
    });
    const drawings = { leniency: plots.leniency, position: plots.position, repeats: plots.repeats, attention: plots.attention, drift: plots.drift };
    for (const id of /** @type {(keyof typeof drawings)[]} */ (Object.keys(drawings))) {
      this.section(id, [kind, part.raters.map((rater) => [rater.username, rater[id], id === 'leniency' && rater.distribution, id === 'attention' && [rater.training, rater.progress]])], () => drawings[id](part, kind));
    }
    this.section('flags', [kind, part.flags, part.raters.map((rater) => [rater.pace, rater.straight_line])], () => plots.flags(part, quality, kind));
  }

  /** @param {Overview} overview @param {Quality | undefined} quality */
  raters(overview, quality) {
    const lines = overview.raters.map((rater) => [rater, since(rater.last_event)]);
    this.section('raters', [lines, overview.admins, quality?.by_kind], () => [h('div', { class: 'wide' }, ...raters(this, overview, quality))]);
  }

  /** @param {Quality} quality */
  remarks({ remarks }) {
    const rows = remarks.filter((one) => one.rater_kind === this.kind).map((one) => [when(one.at), one.username, one.kind, one.mode, one.text || '–', one.comment]);
    this.section('remarks', rows, () => (rows.length ? [h('div', { class: 'wide texts' }, numbers(['At (UTC)', 'Rater', 'What', 'Mode', 'Condition', 'Comment'], rows))] : paragraph('None yet.')));
  }

  /** Links to the sections; people or simulated raters: one kind at a time, never in one plot. @param {Kind[]} kinds @param {KindQuality | undefined} part */
  navigation(kinds, part) {
    const words = { human: 'People', simulated: 'Simulated raters' };
    const count = (/** @type {Section} */ id) => (id === 'flags' && part ? ` (${part.flags.length})` : '');
    const choice = (/** @type {Kind} */ kind) => h('button', { type: 'button', 'data-focus': `kind-${kind}`, 'aria-pressed': String(kind === this.kind),
      onclick: () => { this.kind = kind; this.draw(); } }, words[kind]);
    this.part(this.links, [kinds, this.kind, count('flags')], () => [
      kinds.length > 1 ? h('span', { class: 'toggle', role: 'group', 'aria-label': 'Whose figures' }, ...kinds.map(choice)) : null,
      ...IDS.map((id) => h('button', { type: 'button', class: 'link', onclick: () => this.root.querySelector(`#section-${id}`)?.scrollIntoView({ behavior: 'smooth' }) }, `${id[0].toUpperCase()}${id.slice(1)}${count(id)}`)),
      this.kind === 'simulated' ? h('p', { class: 'simulated-note', role: 'note' }, 'Simulated raters: these scores were given by programs, not by people.') : null]);
  }

  /** Draw a section, in its place on the page. @param {Section} id @param {unknown} figures @param {() => Child[]} make */
  section(id, figures, make) {
    let place = this.sections[id];
    if (!place) {
      place = h('div', { class: 'plots' });
      this.sections[id] = place;
      const next = IDS.slice(IDS.indexOf(id) + 1).map((name) => this.sections[name]?.parentElement).find((one) => one);
      this.body.insertBefore(h('section', { id: `section-${id}`, 'data-testid': id, 'aria-label': SECTIONS[id] }, h('h2', {}, SECTIONS[id]), place), next ?? null);
    }
    this.part(place, figures, make);
  }

  /** Redraw a part if its figures changed; tables that are open and the focus stay as they are. @param {HTMLElement} place @param {unknown} figures @param {() => Child[]} make */
  part(place, figures, make) {
    const key = JSON.stringify(figures);
    if (this.drawn.get(place) === key) return;
    const open = [...place.querySelectorAll('details')].filter((one) => one.open).map((one) => one.dataset.key);
    const focus = document.activeElement instanceof HTMLElement && place.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
    place.replaceChildren(...make().filter((one) => one != null));
    for (const one of place.querySelectorAll('details')) one.open = open.includes(one.dataset.key);
    if (focus) /** @type {HTMLElement[]} */ ([...place.querySelectorAll('[data-focus]')]).find((one) => one.dataset.focus === focus)?.focus();
    this.drawn.set(place, key);
  }
}

/** @param {HTMLElement} element of Gradio's component */
export async function start(element) {
  await new Dashboard(element.querySelector('.radpref-root') ?? element).refresh();
}
