// The scoring page: which set is shown, and what the server answers. What the rater does is in rating.js, the images in
// grid.js, the frame around them in frame.js, pixels and states in sets.js, sending in outbox.js, other pages in pages.js.

import { Connection } from './connection.js';
import * as dialogs from './dialogs.js';
import { getJson, h } from './dom.js';
import { Frame } from './frame.js';
import { ImageGrid } from './grid.js';
import { bindKeys } from './keys.js';
import { Outbox } from './outbox.js';
import { Pace } from './pace.js';
import { PAGES, TITLES } from './pages.js';
import { Rating } from './rating.js';
import { LETTERS, Sets } from './sets.js';
import { Ties } from './ties.js';
import { measure, painted } from './timing.js';

/** @import { PageActions } from './pages.js' */
/** @import { Acknowledgement, Feedback, LoadedSet, Next, PageFacts, PageName, SetState } from './types' */

const PATIENCE_MS = 500;

/** "3 of 4 answers are in the expected range. Training so far: 75 %." @param {Feedback} feedback @param {number} [share] of all training so far */
function feedbackSummary(feedback, share) {
  const all = LETTERS.flatMap((letter) => Object.values(feedback[letter] || {}));
  const right = all.filter(({ ok }) => ok).length;
  const far = share === undefined ? '' : ` Training so far: ${Math.round(100 * share)} %.`;
  return `${right} of ${all.length} answers ${right === 1 ? 'is' : 'are'} in the expected range.${far}`;
}

export class ScoringPage {
  base = new URL('../', document.baseURI);
  pace = new Pace();
  rating = new Rating(this);
  total = 0;
  nDone = 0;
  entered = 0; // when the rater left the set before, for the timing
  room = ''; // names rater and study; empty before the first answer of the server
  leaving = false;
  warm = false; // a set has been on the screen
  /** @type {Next | null} the server's last word on where the rater goes on */
  next = null;
  /** @type {Set<string>} finished since the server last said what comes next */
  done = new Set();
  /** @type {string[]} finished in this window, in order */
  trail = [];
  ticket = 0; // counts the sets that were opened, so that a late answer is known
  opening = 0; // timer of the next look for a set
  /** @type {{token: string, resolve: (answer: Acknowledgement | null) => void} | null} */
  awaited = null;
  /** @type {number | undefined} good answers among all of the training so far */
  share = undefined;
  attach = () => {};

  constructor() {
    this.grid = new ImageGrid(this);
    this.outbox = new Outbox(this);
    this.connection = new Connection(this);
    this.sets = new Sets(this.base, this.outbox);
    this.ties = new Ties(this);
    this.frame = new Frame(this);
    this.frame.main.append(this.grid.element);
    this.frame.updateTools();
    /** @type {Promise<void>} */
    this.attached = new Promise((resolve) => { this.attach = resolve; });
    bindKeys(this);
    window.addEventListener('beforeunload', (event) => {
      if (this.outbox.size && !this.leaving) event.preventDefault();
    });
  }

  reload() {
    this.leaving = true;
    location.reload();
  }

  /** Nothing more can be scored until the page is reloaded. @param {string} text why */
  stop(text) {
    this.frame.banner(text);
    this.rating.blocked = true;
  }

  async help() {
    await dialogs.help(this.grid.set && this.grid.set.state);
    this.grid.refocus();
  }

  // ---- opening sets

  /** Go to the set that the server names next, or to the page that says why there is none. @returns {Promise<void>} */
  async open() {
    const next = await this.connection.whenReachable(() => this.sets.next()).catch((error) => this.stop(`The page cannot be opened: ${error.message}`));
    if (!next) return undefined;
    if (!this.room) {
      this.room = next.room;
      this.outbox.open(next.room);
      if (this.outbox.size) {
        await this.sent();
        return this.open();
      }
    } else if (next.room !== this.room) return this.reload();
    const wasTraining = ['training', 'gate'].includes(this.next?.stage ?? '');
    this.next = next;
    Object.assign(this, { total: next.total, nDone: next.n_done });
    if (!this.outbox.size) this.frame.status('Saved', 'saved');
    const { set } = next;
    if (!set) return this.turn(next.stage in PAGES ? /** @type {PageName} */ (next.stage) : 'done');
    this.sets.loaded.delete(set.token);
    if (!wasTraining || next.stage !== 'rating') return this.show(set.token, set);
    this.sets.load(set.token, set).catch(() => {});
    return this.turn('begin', { begin: () => this.show(set.token) });
  }

  /** Wait until every entry has reached the server. */
  async sent() {
    this.outbox.drain();
    await this.patiently(this.outbox.emptied());
  }

  /** What takes longer than a moment says so in place of the old images. @template T @param {Promise<T>} promise */
  async patiently(promise) {
    const timer = setTimeout(() => this.turn('pending', {}, { waiting: this.outbox.size }), PATIENCE_MS);
    return promise.finally(() => clearTimeout(timer));
  }

  /** @param {string} token @param {SetState} [given] its state, where the server has just sent it */
  async show(token, given) {
    this.rating.busy = true;
    this.ticket += 1;
    const { ticket } = this;
    let set;
    try {
      set = await this.patiently(this.connection.whenReachable(() => this.sets.load(token, given)));
    } catch (error) {
      const { message, state } = /** @type {Error & {state?: SetState}} */ (error);
      this.turn('broken', { skip: () => this.skipBroken(token, state) }, { message });
      return;
    }
    if (ticket !== this.ticket) return; // another set was opened meanwhile
    const { state } = set;
    if (state.state === 'open' && !this.trail.includes(token)) state.number = Math.min(this.total, this.nDone + 1);
    this.leaveView();
    Object.assign(this.rating, { busy: false, taught: Boolean(state.feedback) });
    this.pace.shown();
    this.frame.main.replaceChildren(this.grid.element);
    this.frame.root.dataset.mode = state.mode;
    this.frame.paintCondition(state);
    this.frame.notice(state.training && !state.feedback ? 'Training: these scores are not analysed. After Submit you see what was expected, and why.' : null);
    this.grid.show(set);
    this.frame.paintPlace();
    this.frame.announce(state);
    if (state.feedback) this.teach(set);
    this.afterPaint(token, state.next);
  }

  /** Once what was put on the page is on the screen: take the time, then fetch ahead. @param {string} token @param {string | null} next */
  async afterPaint(token, next) {
    await this.attached;
    painted((at) => {
      if (!this.pace.first) this.pace.shown(at);
      if (this.entered && this.grid.set) measure('next-set', this.entered, at);
      else if (!this.warm) measure('cold', 0, at);
      this.entered = 0;
      this.warm = true;
      this.sets.slim([token, next]);
      this.fetchAhead(next);
    });
  }

  /** What could not be fetched ahead is tried again while the same set is shown. @param {string | null} next @param {number} [wait] */
  fetchAhead(next, wait = 1000) {
    const { ticket } = this;
    this.sets.ahead(next).catch(() => setTimeout(() => {
      if (ticket === this.ticket) this.fetchAhead(next, Math.min(2 * wait, 10000));
    }, wait));
  }

  leaveView() {
    if (this.ties.active) this.ties.cancel();
    this.grid.clear();
    clearTimeout(this.opening);
  }

  /** Show a page without images. @param {PageName} name @param {Partial<PageActions>} [actions] @param {Partial<PageFacts>} [more] */
  turn(name, actions = {}, more = {}) {
    this.leaveView();
    Object.assign(this.rating, { busy: name === 'pending', taught: false });
    this.frame.root.dataset.mode = 'end';
    this.frame.condition.replaceChildren(h('span', { class: 'text' }, TITLES[name]));
    this.frame.notice(null);
    const { last = null, gate = null, opens_at: opensAt = null } = this.next ?? {};
    const on = { open: () => this.open(), previous: () => this.previous(), again: () => this.again(), begin: () => {}, skip: () => {}, ...actions };
    const element = PAGES[name]({ total: this.total, nDone: this.nDone, last, gate, opensAt, message: '', waiting: 0, ...more }, on);
    this.frame.main.replaceChildren(element);
    element.querySelector(/** @type {'button'} */ ('button.main'))?.focus();
    this.frame.paintPlace();
    this.frame.updateTools();
    const due = opensAt ? new Date(opensAt).getTime() - Date.now() + 1000 : 0;
    if (name === 'waiting' && opensAt) this.opening = window.setTimeout(() => this.open(), Math.min(3600000, Math.max(5000, due)));
    if (name !== 'pending') this.afterPaint('', null);
  }

  /** Do the training again. */
  async again() {
    await this.connection.whenReachable(() => getJson(new URL('api/training/again', this.base), {})).catch((error) => this.frame.say(error.message));
    this.sets.loaded.clear();
    this.trail = [];
    await this.open();
  }

  // ---- from set to set

  /** Training: the answer to the submit says what was expected. @param {LoadedSet} set @param {boolean} before whether it was finished already */
  async learn(set, before) {
    const { rating, frame } = this;
    const { state } = set;
    rating.busy = true;
    this.count(state.token, before);
    this.entered = 0;
    const timer = setTimeout(() => frame.notice('Waiting for the server: the expected scores come with its answer.'), PATIENCE_MS);
    /** @type {Acknowledgement | null} */
    const answer = await new Promise((resolve) => { this.awaited = { token: state.token, resolve }; });
    clearTimeout(timer);
    rating.busy = false;
    if (!answer || this.grid.set !== set) return;
    if (!answer.feedback) {
      await this.goOn(set, true);
      return;
    }
    state.feedback = answer.feedback;
    rating.taught = true;
    this.share = answer.share;
    this.teach(set);
  }

  /** Show what was expected. @param {LoadedSet} set */
  teach({ state }) {
    const feedback = state.feedback ?? {};
    for (const letter of LETTERS) this.grid.cells[letter].teach(feedback[letter] ?? {}, state);
    this.frame.notice(`${feedbackSummary(feedback, this.share)} Press Enter to go on.`, 'feedback');
    this.frame.updateTools();
    this.frame.submitButton.focus();
  }

  /** @param {string} token @param {boolean} before whether it was finished already */
  count(token, before) {
    this.done.add(token);
    if (!this.trail.includes(token)) this.trail.push(token);
    if (!before) {
      this.nDone = Math.min(this.total, this.nDone + 1);
      this.pace.finished();
    }
    this.frame.paintPlace();
  }

  /** From a finished set to the next one. @param {LoadedSet} set @param {boolean} before whether it was finished already */
  async goOn({ state: { token, next } }, before) {
    const { pace } = this;
    this.rating.busy = true;
    this.count(token, before);
    if (pace.due(this.next?.break_minutes ?? 0)) {
      await dialogs.pause(pace.sets, pace.work, this.nDone, this.total);
      pace.rested();
      this.entered = performance.now();
    }
    if (next && !this.done.has(next)) {
      await this.show(next);
      return;
    }
    await this.sent();
    if (this.rating.blocked) return;
    this.sets.loaded.clear();
    this.done.clear();
    await this.open();
  }

  /** Back to the set that was finished before. */
  async previous() {
    if (this.rating.blocked || this.rating.busy || this.ties.active) return;
    const shown = this.grid.set?.state;
    const index = shown ? this.trail.indexOf(shown.token) : -1;
    const own = index < 0 ? this.trail.at(-1) : this.trail[index - 1];
    const token = own || (shown ? shown.previous : this.next?.last);
    if (!token) {
      this.frame.say('This is the first set');
      return;
    }
    this.entered = performance.now();
    this.done.delete(token);
    await this.show(token);
  }

  /** @param {Event} event the submit of the logout */
  leave(event) {
    const stays = this.outbox.size && !window.confirm(`Entries not sent yet: ${this.outbox.size}. They stay in this browser. Log out?`);
    if (stays) event.preventDefault();
    else this.leaving = true;
  }

  /** @param {string} token @param {SetState} [state] */
  async skipBroken(token, state) {
    if (state) {
      this.outbox.add(token, state.version, { kind: 'skip', comment: dialogs.REASONS[0], client: {} });
      await this.sent();
      this.sets.loaded.delete(token);
    }
    await this.open();
  }

  // ---- answers of the server

  /** @param {string} token @param {Acknowledgement} answer */
  acknowledged(token, answer) {
    this.sets.loaded.get(token)?.then((set) => { set.state.version = answer.version; }).catch(() => {});
    if (answer.n_done === undefined) return;
    // an answer that is older than what was finished since says nothing new
    if (!this.outbox.items.some(({ body }) => ['submit', 'skip'].includes(body.kind))) this.nDone = answer.n_done;
    this.frame.paintPlace();
    this.resolveAwaited(token, answer);
  }

  /** @param {string} token @param {Acknowledgement | null} answer */
  resolveAwaited(token, answer) {
    if (this.awaited?.token !== token) return;
    this.awaited.resolve(answer);
    this.awaited = null;
  }

  /** @param {string} message @param {string} token */
  async refused(message, token) {
    this.frame.say(`Not stored: ${message}`, 12000);
    this.sets.loaded.delete(token);
    this.trail = this.trail.filter((other) => other !== token);
    const here = this.grid.set?.state.token === token;
    this.resolveAwaited(token, null);
    const next = await this.sets.next().catch(() => null);
    if (next?.stage === 'closed') await this.open();
    else if (here && !this.rating.blocked) await this.show(token);
  }

  /** Go on where the login ended, unless somebody else has logged in. */
  async loggedIn() {
    const room = await this.sets.next().then((next) => next.room, (error) => (error.status === 403 ? '' : this.room));
    if (this.room && room !== this.room) this.reload();
    else {
      this.outbox.drain();
      this.grid.refocus();
    }
  }
}

// The script runs from the page's head, so that the first set is fetched while Gradio is still loading; its component
// then calls start() with the element that the page goes into.
const early = document.querySelector('script[data-early]') ? begin() : null;

function begin() {
  const page = new ScoringPage();
  page.open();
  return page;
}

/** @param {Element} element of Gradio's component */
export function start(element) {
  const page = early || begin();
  (element.querySelector('.radpref-root') || element).replaceWith(page.frame.root);
  page.pace.shown();
  page.attach();
  page.grid.refocus();
}
