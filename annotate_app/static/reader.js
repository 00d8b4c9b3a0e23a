// The scoring page: which set is shown, and what the server answers. What the rater does is in rating.js, pixels and
// states in sets.js, sending in outbox.js, the frame in frame.js, drawing in viewer.js and cells.js, other pages in pages.js.

import { Cell } from './cells.js';
import * as dialogs from './dialogs.js';
import { h, postJson } from './dom.js';
import { steps } from './history.js';
import { bindKeys } from './keys.js';
import { Outbox } from './outbox.js';
import { Pace } from './pace.js';
import { PAGES, TITLES } from './pages.js';
import { Rating } from './rating.js';
import { LETTERS, missing, rows, Sets } from './sets.js';
import { Ties } from './ties.js';
import { measure, painted } from './timing.js';
import { feedbackSummary } from './training.js';

const PATIENCE_MS = 500;

export class Reader extends Rating {
  constructor(root) {
    super();
    this.base = new URL('../', document.baseURI);
    this.root = root;
    this.focused = { letter: 'A', criterion: 'text' };
    this.lastLetter = 'B';
    this.linked = this.outline = true;
    this.opacity = 0.9;
    this.total = this.nDone = 0;
    this.done = new Set(); // finished since the order was last asked for
    this.trail = []; // finished in this window, in order
    this.ticket = 0;
    this.pace = new Pace();
    this.ties = new Ties(this);
    this.attached = new Promise((resolve) => { this.attach = resolve; });
    this.outbox = new Outbox(this.base, {
      status: (text, kind) => this.status(text, kind),
      stale: () => this.banner('This set was changed in another window. Reload to see what is stored.'),
      login: () => this.relogin(),
      refused: (message, token) => this.refused(message, token),
      acknowledged: (token, answer) => this.acknowledged(token, answer),
    });
    this.sets = new Sets(this.base, this.outbox);
    this.cells = Object.fromEntries(LETTERS.map((letter) => [letter, new Cell(letter, {
      score: (...rest) => this.score(...rest),
      focus: (...rest) => this.focus(...rest),
      flag: (...rest) => this.flag(...rest),
      view: (from) => this.viewChanged(from),
      large: (which) => this.large(which),
    })]));
    this.build();
    bindKeys(this);
    window.addEventListener('beforeunload', (event) => {
      if (this.outbox.size && !this.leaving) event.preventDefault();
    });
  }

  reload() {
    this.leaving = true;
    location.reload();
  }

  // ---- opening sets

  async open() {
    const found = await this.whileReachable(() => this.sets.next()).catch((error) => this.banner(`The page cannot be opened: ${error.message}`));
    if (!found) return undefined;
    if (!this.outbox.prefix) {
      this.room = found.room;
      this.outbox.open(found.room);
      if (this.outbox.size) {
        await this.sent();
        return this.open();
      }
    } else if (found.room !== this.room) {
      this.reload();
      return undefined;
    }
    const before = this.stage;
    this.stage = found.stage || (found.set ? 'rating' : 'done');
    Object.assign(this, { total: found.total, nDone: found.n_done, last: found.last, gate: found.gate, opensAt: found.opens_at, breakMinutes: found.break_minutes || 0 });
    if (!this.outbox.size) this.status('Saved', 'saved');
    if (!found.set) return this.turn(this.stage);
    this.sets.forget(found.set.token);
    if (before && ['training', 'gate'].includes(before) && this.stage === 'rating') {
      this.sets.load(found.set.token, found.set).catch(() => {});
      return this.turn('begin', { begin: () => this.show(found.set.token) });
    }
    return this.show(found.set.token, found.set);
  }

  // Repeat a request until the server answers; a 401 asks for the login.
  async whileReachable(request) {
    for (let wait = 500; ; wait = Math.min(wait * 2, 8000)) {
      try {
        return await request();
      } catch (error) {
        if (error.status === 401) await this.relogin();
        else if (error.status && error.status < 500) throw error;
        else {
          this.status(`Offline (${this.outbox.size})`, 'offline');
          await new Promise((resolve) => { setTimeout(resolve, wait); });
        }
      }
    }
  }

  // Wait until every entry has reached the server.
  async sent() {
    this.outbox.drain();
    await this.patiently(this.outbox.emptied());
  }

  // What takes longer than a moment says so in place of the old images.
  async patiently(promise) {
    const timer = setTimeout(() => this.turn('pending', {}, { waiting: this.outbox.size }), PATIENCE_MS);
    return promise.finally(() => clearTimeout(timer));
  }

  async show(token, given) {
    this.busy = true;
    this.ticket += 1;
    const { ticket } = this;
    let set;
    try {
      set = await this.patiently(this.whileReachable(() => this.sets.load(token, given)));
    } catch (error) {
      this.turn('broken', { open: () => this.open(), skip: () => this.skipBroken(token, error.state) }, { message: error.message });
      return;
    }
    if (ticket !== this.ticket) return; // another one was asked for meanwhile
    this.busy = false;
    const { state } = set;
    if (state.state === 'open' && !this.trail.includes(token)) state.number = Math.min(this.total, this.nDone + 1);
    this.leaveView();
    this.set = set;
    this.reading = Boolean(state.feedback);
    this.history = steps(state.log);
    this.pace.shown();
    this.main.replaceChildren(this.grid);
    this.root.dataset.mode = state.mode;
    this.paintCondition();
    this.notice(state.training && !this.reading ? 'Training: these scores are not analysed. After Submit you see what was expected, and why.' : null);
    LETTERS.forEach((letter, index) => this.cells[letter].show(state, set.pixels[index], set.outlines, this.linked ? this.cells.A.panel.view : null));
    this.paintOutlines();
    const first = missing(state)[0] || rows(state)[0];
    this.lastLetter = first.letter === 'A' ? 'B' : 'A';
    this.focus(first.letter, first.criterion);
    this.paintPlace();
    this.announce();
    if (this.reading) this.teach();
    this.follow(token, state);
  }

  // After a set has been put on the page: take the time, then fetch ahead.
  async follow(token, state) {
    await this.attached;
    painted((at) => {
      if (!this.pace.first) this.pace.shown(at);
      if (this.entered && this.set) measure('next-set', this.entered, at);
      else if (!this.warm) measure('cold', 0, at);
      this.entered = 0;
      this.warm = true;
      this.sets.slim([token, state.next]);
      this.fetchAhead(state.next);
    });
  }

  // What could not be fetched ahead is tried again while the same set is shown.
  fetchAhead(next, wait = 1000) {
    const { ticket } = this;
    this.sets.ahead(next).catch(() => setTimeout(() => {
      if (ticket === this.ticket) this.fetchAhead(next, Math.min(2 * wait, 10000));
    }, wait));
  }

  leaveView() {
    if (this.ties.active) this.ties.cancel();
    if (this.set) this.stopFlicker();
    delete this.root.dataset.large;
    clearTimeout(this.opening);
  }

  // Show a page without images; Enter presses its main button.
  turn(name, actions = {}, more = {}) {
    this.leaveView();
    this.set = null;
    this.reading = false;
    this.busy = name === 'pending';
    this.root.dataset.mode = 'end';
    this.condition.replaceChildren(h('span', { class: 'text' }, TITLES[name]));
    this.notice(null);
    const { total, nDone, last, gate, opensAt } = this;
    const on = { open: () => this.open(), previous: () => this.previous(), again: () => this.again(), ...actions };
    const element = (PAGES[name] || PAGES.done)({ total, nDone, last, gate, opensAt, ...more }, on);
    this.main.replaceChildren(element);
    element.querySelector('button.main')?.focus();
    this.paintPlace();
    this.updateTools();
    if (name === 'waiting' && opensAt) this.opening = setTimeout(() => this.open(), Math.min(3600000, Math.max(5000, new Date(opensAt) - Date.now() + 1000)));
    if (name !== 'pending') this.follow('', {});
  }

  async again() {
    await this.whileReachable(() => postJson(new URL('api/training/again', this.base), {})).catch((error) => this.say(error.message));
    this.sets.known.clear();
    this.trail = [];
    await this.open();
  }

  // ---- from set to set

  // Training: the answer to the submit says what was expected.
  async learn(before) {
    const { set } = this;
    this.busy = true;
    this.count(set, before);
    this.entered = 0;
    const timer = setTimeout(() => this.notice('Waiting for the server: the expected scores come with its answer.'), PATIENCE_MS);
    const answer = await new Promise((resolve) => { this.awaited = { token: set.state.token, resolve }; });
    clearTimeout(timer);
    this.busy = false;
    if (!answer || this.set !== set) return;
    if (!answer.feedback) {
      await this.goOn(true);
      return;
    }
    set.state.feedback = answer.feedback;
    this.share = answer.share;
    this.reading = true;
    this.teach();
  }

  teach() {
    const { state } = this.set;
    for (const letter of LETTERS) this.cells[letter].teach(state.feedback[letter] || {}, state);
    this.notice(`${feedbackSummary(state.feedback, this.share)} Enter goes on.`, 'feedback');
    this.updateTools();
    this.submitButton.focus();
  }

  count(set, before) {
    const { token } = set.state;
    this.done.add(token);
    if (!this.trail.includes(token)) this.trail.push(token);
    if (!before) {
      this.nDone = Math.min(this.total, this.nDone + 1);
      this.pace.finished();
    }
    this.paintPlace();
  }

  async goOn(before) {
    const { set } = this;
    const { next } = set.state;
    this.busy = true;
    this.count(set, before);
    if (this.pace.due(this.breakMinutes)) {
      await dialogs.pause(this.pace.sets, this.pace.work, this.nDone, this.total);
      this.pace.rested();
      this.entered = performance.now();
    }
    if (next && !this.done.has(next)) {
      await this.show(next);
      return;
    }
    await this.sent();
    if (this.blocked) return;
    this.sets.known.clear();
    this.done.clear();
    await this.open();
  }

  async previous() {
    if (this.blocked || this.busy || this.ties.active) return;
    const index = this.set ? this.trail.indexOf(this.set.state.token) : -1;
    const own = index < 0 ? this.trail[this.trail.length - 1] : this.trail[index - 1];
    const token = own || (this.set ? this.set.state.previous : this.last);
    if (!token) {
      this.say('This is the first set');
      return;
    }
    this.entered = performance.now();
    this.done.delete(token);
    await this.show(token);
  }

  leave(event) {
    const stays = this.outbox.size && !window.confirm(`${this.outbox.size} entries are not sent yet. They stay in this browser. Log out?`);
    if (stays) event.preventDefault();
    else this.leaving = true;
  }

  async skipBroken(token, state) {
    if (!state) {
      await this.open();
      return;
    }
    this.outbox.add(token, state.version, { kind: 'skip', comment: dialogs.REASONS[0], client: {} });
    await this.sent();
    this.sets.forget(token);
    await this.open();
  }

  // ---- answers of the server

  acknowledged(token, answer) {
    const known = this.sets.known.get(token);
    if (known) known.then((set) => { set.state.version = answer.version; }).catch(() => {});
    // an answer that is older than what was finished since says nothing new
    if (answer.n_done !== undefined && !this.outbox.items.some(({ body }) => ['submit', 'skip'].includes(body.kind))) this.nDone = answer.n_done;
    this.paintPlace();
    if (this.awaited && this.awaited.token === token && answer.n_done !== undefined) this.resolveAwaited(answer);
  }

  resolveAwaited(answer) {
    this.awaited.resolve(answer);
    this.awaited = null;
  }

  async refused(message, token) {
    this.say(`Not stored: ${message}`, 12000);
    this.sets.forget(token);
    this.trail = this.trail.filter((other) => other !== token);
    const here = this.set && this.set.state.token === token;
    if (this.awaited && this.awaited.token === token) this.resolveAwaited(null);
    const found = await this.sets.next().catch(() => null);
    if (found && found.stage === 'closed') await this.open();
    else if (here && !this.blocked) await this.show(token);
  }

  relogin() {
    this.loggingIn ??= dialogs.login(this.base, this.outbox.size).then(async () => {
      this.loggingIn = null;
      const found = await this.sets.next().catch((error) => ({ room: error.status === 403 ? '' : this.room }));
      if (this.room && found.room !== this.room) this.reload(); // somebody else
      else {
        this.outbox.drain();
        this.refocus();
      }
    });
    return this.loggingIn;
  }
}

// The script runs from the page's head, so that the first set is fetched while Gradio is still loading; its component
// then calls start() with the element that the page goes into.
const early = document.querySelector('script[data-early]') ? begin() : null;

function begin() {
  const reader = new Reader(h('div', { class: 'radpref-root', 'data-page': 'reader' }));
  reader.open();
  return reader;
}

export function start(element) {
  const reader = early || begin();
  (element.querySelector('.radpref-root') || element).replaceWith(reader.root);
  reader.pace.shown();
  reader.attach();
  reader.refocus();
  return reader;
}
