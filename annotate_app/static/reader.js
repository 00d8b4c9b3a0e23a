// The scoring page. State lives here; pixels in sets.js, sending in outbox.js, drawing in viewer.js and cells.js.

import { Cell } from './cells.js';
import * as dialogs from './dialogs.js';
import { h } from './dom.js';
import { bindKeys } from './keys.js';
import { Outbox } from './outbox.js';
import { apply, LETTERS, missing, rows, Sets } from './sets.js';
import { STRUCTURE_STYLES } from './viewer.js';
import { Views } from './views.js';

const IDLE_MS = 30000;
const MODE_WORDS = { T2I: 'Text', M2I: 'Mask', TM2I: 'Text and mask' };

export class Reader extends Views {
  constructor(root) {
    super();
    this.base = new URL('../', document.baseURI);
    this.root = root;
    this.focused = { letter: 'A', criterion: 'text' };
    this.lastLetter = 'B';
    this.linked = true;
    this.opacity = 0.9;
    this.outline = true;
    this.total = 0;
    this.nDone = 0;
    this.done = new Set();
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
  }

  // ---- the page

  build() {
    this.condition = h('div', { class: 'condition', 'data-testid': 'condition' });
    this.place = h('span', { class: 'place', 'data-testid': 'place' });
    this.bar = h('span', { class: 'bar' }, h('span'));
    this.state = h('span', { class: 'saved', role: 'status', 'aria-live': 'polite', 'data-testid': 'save-state' }, 'Opening');
    this.toast = h('div', { class: 'toast', role: 'alert' });
    this.grid = h('div', { class: 'grid' }, ...LETTERS.map((letter) => this.cells[letter].element));
    this.readout = h('span', { class: 'readout' });
    this.tools = h('div', { class: 'tools', role: 'toolbar', 'aria-label': 'Viewer' });
    this.main = h('main', {}, this.grid);
    this.root.replaceChildren(
      h('header', { class: 'top' }, this.condition, h('div', { class: 'where' }, this.place, this.bar, this.state)),
      this.main,
      h('footer', { class: 'bottom' },
        h('span', { class: 'convention' }, h('b', {}, 'Research use, not for diagnosis'), h('span', {}, "Patient's right is at image left")),
        this.tools),
      this.toast,
    );
    this.buildTools();
  }

  buildTools() {
    const tool = (name, key, action, id) =>
      h('button', { type: 'button', tabindex: '-1', title: `${name} (${key})`, 'data-testid': id || `tool-${name.toLowerCase().split(' ')[0]}`,
        onclick: () => { action(); this.refocus(); } }, name);
    this.buttons = {
      invert: tool('Invert', 'I', () => this.invert()), reset: tool('Reset', 'R', () => this.reset()),
      link: tool('Linked', 'L', () => this.link()), large: tool('Large', 'F', () => this.large()),
      compare: tool('Compare', 'C', () => this.compare()), outline: tool('Outline', 'O', () => this.toggleOutline()),
    };
    const submit = tool('Submit', 'Enter', () => this.submit(), 'submit');
    submit.classList.add('main');
    this.submitButton = submit;
    this.tools.replaceChildren(this.readout, ...Object.values(this.buttons), h('i'),
      tool('Undo', 'Z', () => this.undo()), tool('Comment', 'N', () => this.comment()), tool('Skip', 'K', () => this.skip()), tool('Help', '?', () => this.help()),
      h('form', { method: 'post', action: new URL('logout', this.base), onsubmit: (event) => this.leave(event) }, h('button', { tabindex: '-1' }, 'Log out')),
      h('i'), tool('Previous', 'Backspace', () => this.previous()), submit);
    this.updateTools();
  }

  updateTools() {
    const view = this.set ? this.cells[this.focused.letter].panel.view : null;
    const on = { link: this.linked, outline: this.outline, large: this.root.dataset.large !== undefined, compare: Boolean(this.flicker), invert: Boolean(view && view.invert) };
    for (const [name, pressed] of Object.entries(on)) this.buttons[name].setAttribute('aria-pressed', String(pressed));
    this.buttons.outline.hidden = !(this.set && this.set.state.mask);
    if (view) this.readout.textContent = `${Math.round(view.zoom * 100)} %  W ${Math.round(view.width * 100)}  L ${Math.round(view.centre * 100)}`;
    if (this.set) this.submitButton.setAttribute('aria-disabled', String(missing(this.set.state).length > 0));
  }

  status(text, kind) {
    this.state.textContent = text;
    this.state.dataset.kind = kind;
  }

  say(text) {
    this.toast.textContent = text;
    this.toast.classList.add('shown');
    clearTimeout(this.toastTimer);
    this.toastTimer = setTimeout(() => this.toast.classList.remove('shown'), 4000);
  }

  banner(text) {
    const button = h('button', { type: 'button', class: 'main', onclick: () => location.reload() }, 'Reload');
    this.root.append(h('div', { class: 'banner', role: 'alert', 'data-testid': 'banner' }, text, button));
    this.blocked = true;
  }

  // ---- opening sets

  async open() {
    const found = await this.whileReachable(() => this.sets.next());
    if (!this.outbox.prefix) {
      this.room = found.room;
      this.outbox.open(found.room);
      if (this.outbox.size) {
        await this.outbox.drain();
        return this.open();
      }
    } else if (found.room !== this.room) {
      location.reload();
      return undefined;
    }
    this.total = found.total;
    this.nDone = found.n_done;
    this.last = found.last;
    if (!this.outbox.size) this.status('Saved', 'saved');
    if (!found.set) return this.end();
    this.sets.forget(found.set.token);
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

  async show(token, given) {
    const set = await this.whileReachable(() => this.sets.load(token, given)).catch((error) => {
      this.say(`This set cannot be shown: ${error.message}`);
      return null;
    });
    if (!set) return;
    this.set = set;
    this.history = [];
    this.times = { shown: performance.now(), first: 0, active: 0, last: performance.now() };
    this.stopFlicker();
    delete this.root.dataset.large;
    this.main.replaceChildren(this.grid);
    this.root.dataset.mode = set.state.mode;
    this.paintCondition();
    LETTERS.forEach((letter, index) => {
      const cell = this.cells[letter];
      cell.build(set.state);
      cell.note.textContent = '';
      cell.panel.outlines = set.outlines;
      if (this.linked) cell.panel.view = this.cells.A.panel.view;
      cell.panel.view.reset();
      cell.panel.show(set.pixels[index]);
    });
    this.paintOutlines();
    const first = missing(set.state)[0] || rows(set.state)[0];
    this.lastLetter = first.letter === 'A' ? 'B' : 'A';
    this.focus(first.letter, first.criterion);
    this.paintPlace();
    this.sets.ahead(set.state.next).catch(() => {});
  }

  paintCondition() {
    const { text, mask, mode, state, comment } = this.set.state;
    const parts = [h('span', { class: 'mode' }, MODE_WORDS[mode])];
    if (text !== null) parts.push(h('span', { class: 'text' }, text));
    if (mask) {
      parts.push(h('span', { class: 'mask' }, mode === 'M2I' ? null : h('span', { class: 'word' }, 'Mask:'), ...mask.structures.map((name, index) => {
        const style = STRUCTURE_STYLES[index % STRUCTURE_STYLES.length];
        const swatch = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
        swatch.setAttribute('viewBox', '0 0 28 6');
        swatch.setAttribute('class', 'swatch');
        const line = document.createElementNS('http://www.w3.org/2000/svg', 'path');
        for (const [key, value] of Object.entries({ d: 'M0 3H28', stroke: style.colour, 'stroke-width': '3', 'stroke-dasharray': style.dash.join(' ') })) line.setAttribute(key, value);
        swatch.append(line);
        return h('span', { class: 'structure' }, swatch, name);
      })));
    }
    if (state === 'skipped') parts.push(h('span', { class: 'badge' }, 'skipped'));
    if (comment) parts.push(h('span', { class: 'badge' }, 'comment'));
    this.condition.replaceChildren(...parts);
  }

  paintPlace() {
    this.place.textContent = this.set ? `Set ${this.set.state.number} / ${this.total}` : '';
    this.place.title = `${this.nDone} of ${this.total} done`;
    this.bar.firstChild.style.width = `${this.total ? (100 * this.nDone) / this.total : 0}%`;
  }

  end() {
    this.set = null;
    this.root.dataset.mode = 'end';
    this.condition.replaceChildren(h('span', { class: 'text' }, this.total ? 'All done' : 'Nothing to score'));
    const review = h('button', { type: 'button', class: 'main', onclick: () => this.previous() }, 'Look at the last set again');
    this.main.replaceChildren(h('div', { class: 'end', 'data-testid': 'end' },
      h('h1', {}, this.total ? `All ${this.total} sets are done. Thank you.` : 'There are no sets to score yet.'),
      h('p', {}, this.total ? 'Every score is stored. You can log out, or go back and change a score.' : 'The study office adds them; then reload this page.'),
      this.total ? review : null));
    this.paintPlace();
  }

  // ---- what the rater does

  send(event) {
    if (!this.set || this.blocked) return;
    const { state } = this.set;
    apply(state, event);
    const at = this.touch();
    this.outbox.add(state.token, state.version, { ...event, client: {
      shown_ms: Math.round(at - this.times.shown), first_ms: Math.round(this.times.first - this.times.shown), active_ms: Math.round(this.times.active) } });
    if (event.letter) this.cells[event.letter].update(state);
    this.updateTools();
  }

  touch() {
    const at = performance.now();
    const { times } = this;
    if (!times) return at;
    if (!times.first) times.first = at;
    times.active += Math.min(at - times.last, IDLE_MS);
    times.last = at;
    return at;
  }

  score(letter, criterion, value) {
    if (!this.set || this.blocked) return;
    const { state } = this.set;
    if (!state.criteria.includes(criterion)) return;
    this.history.push({ kind: 'score', letter, criterion, value: state.scores[letter][criterion] ?? null });
    this.send({ kind: 'score', letter, criterion, value });
    this.advance(letter, criterion);
  }

  advance(letter, criterion) {
    const order = rows(this.set.state);
    const index = order.findIndex((row) => row.letter === letter && row.criterion === criterion);
    const next = order[index + 1] || missing(this.set.state)[0];
    if (next) this.focus(next.letter, next.criterion);
  }

  flag(letter, name) {
    if (!this.set || this.blocked) return;
    const before = this.set.state.flags[letter][name] === true;
    this.history.push({ kind: 'flag', letter, criterion: name, value: before ? 1 : 0 });
    this.send({ kind: 'flag', letter, criterion: name, value: before ? 0 : 1 });
    this.refocus();
  }

  undo() {
    const event = this.history && this.history.pop();
    if (!event) {
      this.say('Nothing to undo in this set');
      return;
    }
    this.send(event);
    if (event.kind === 'score') this.focus(event.letter, event.criterion);
  }

  async comment() {
    if (!this.set || this.blocked) return;
    const text = await dialogs.comment(this.set.state.comment);
    if (text !== null && text !== this.set.state.comment) {
      this.history.push({ kind: 'comment', comment: this.set.state.comment });
      this.send({ kind: 'comment', comment: text });
      this.paintCondition();
    }
    this.refocus();
  }

  async skip() {
    if (!this.set || this.blocked) return;
    const reason = await dialogs.skip();
    if (reason === null) {
      this.refocus();
      return;
    }
    this.send({ kind: 'skip', comment: reason });
    await this.goOn();
  }

  async submit() {
    if (!this.set || this.blocked) return;
    const [first, ...others] = missing(this.set.state);
    if (first) {
      this.say(others.length ? `${others.length + 1} scores are missing` : '1 score is missing');
      this.focus(first.letter, first.criterion);
      return;
    }
    this.send({ kind: 'submit' });
    await this.goOn();
  }

  async goOn() {
    const { token, next } = this.set.state;
    this.done.add(token);
    if (next && !this.done.has(next)) {
      this.nDone = Math.min(this.total, this.nDone + 1);
      await this.show(next);
      return;
    }
    while (this.outbox.size && !this.blocked) {
      await this.outbox.drain();
      if (this.outbox.size) await new Promise((resolve) => { setTimeout(resolve, 300); });
    }
    this.sets.known.clear();
    this.done.clear();
    if (!this.blocked) await this.open();
  }

  async previous() {
    const token = this.set ? this.set.state.previous : this.last;
    if (!token || this.blocked) {
      this.say('This is the first set');
      return;
    }
    this.done.delete(token);
    await this.show(token);
  }

  async leave(event) {
    if (this.outbox.size && !window.confirm(`${this.outbox.size} entries are not sent yet. They stay in this browser. Log out?`)) event.preventDefault();
  }

  async help() {
    await dialogs.help(this.set && this.set.state);
    this.refocus();
  }

  // ---- answers of the server

  acknowledged(token, answer) {
    const known = this.sets.known.get(token);
    if (known) known.then((set) => { set.state.version = answer.version; }).catch(() => {});
    if (answer.n_done !== undefined) this.nDone = answer.n_done;
    this.paintPlace();
  }

  refused(message, token) {
    this.say(`Not stored: ${message}`);
    this.sets.forget(token);
    if (this.set && this.set.state.token === token) this.show(token);
  }

  relogin() {
    this.loggingIn ??= dialogs.login(this.base, this.outbox.size).then(async () => {
      this.loggingIn = null;
      if (this.room && (await this.sets.next()).room !== this.room) location.reload();
      else {
        this.outbox.drain();
        this.refocus();
      }
    });
    return this.loggingIn;
  }
}

export function start(element) {
  const root = element.querySelector('.radpref-root') || element;
  const reader = new Reader(root);
  reader.open().catch((error) => reader.banner(`The page cannot be opened: ${error.message}`));
  return reader;
}
