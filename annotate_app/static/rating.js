// What the rater does to the set on the page: scores, flags, comments, skips, undo, submit.

import * as dialogs from './dialogs.js';
import { Frame } from './frame.js';
import { steps } from './history.js';
import { apply, finished, missing, rows } from './sets.js';
import { openTies } from './ties.js';
import { measure, painted } from './timing.js';

export class Rating extends Frame {
  // A set is on the page and takes scores.
  get editable() {
    return Boolean(this.set) && !this.blocked && !this.busy && !this.reading;
  }

  send(event) {
    if (!this.set || this.blocked) return;
    const { state } = this.set;
    apply(state, event);
    this.outbox.add(state.token, state.version, { ...event, client: this.pace.times() });
    this.history = steps(state.log);
    if (event.letter) this.cells[event.letter].update(state);
    this.updateTools();
  }

  touch() {
    this.pace.touch();
  }

  score(letter, criterion, value, pressed) {
    if (this.reading && this.set) this.say('This training set is done; Enter goes on');
    if (!this.editable || !this.set.state.criteria.includes(criterion)) return;
    const { state } = this.set;
    if (state.scores[letter][criterion] !== value) {
      this.send({ kind: 'score', letter, criterion, value });
      this.unrank(letter, criterion);
    }
    this.advance(letter, criterion);
    if (pressed) painted((at) => measure('echo', pressed, at));
  }

  // A rank among equals ends with the score that made them equal.
  unrank(letter, criterion) {
    if ((this.set.state.ranks[letter][criterion] ?? null) !== null) this.send({ kind: 'rank', letter, criterion, value: null });
  }

  advance(letter, criterion) {
    const order = rows(this.set.state);
    const index = order.findIndex((row) => row.letter === letter && row.criterion === criterion);
    const next = order[index + 1] || missing(this.set.state)[0];
    if (next) this.focus(next.letter, next.criterion);
  }

  flag(letter, name) {
    if (!this.editable) return;
    this.send({ kind: 'flag', letter, criterion: name, value: this.set.state.flags[letter][name] === true ? 0 : 1 });
    this.refocus();
  }

  undo() {
    if (!this.editable) return;
    const step = this.history[this.history.length - 1];
    if (!step) {
      this.say('Nothing to undo in this set');
      return;
    }
    const [first] = step;
    for (const event of [...step].reverse()) this.send(event);
    if (first.kind === 'comment') this.paintCondition();
    else if (first.kind !== 'flag') this.focus(first.letter, first.criterion);
  }

  async comment() {
    if (!this.editable) return;
    const { set } = this;
    const text = await dialogs.comment(set.state.comment);
    if (text !== null && text !== set.state.comment && this.editable && this.set === set) {
      this.send({ kind: 'comment', comment: text });
      this.paintCondition();
    }
    this.refocus();
  }

  async skip() {
    if (!this.editable) return;
    const { set } = this;
    const reason = await dialogs.skip();
    if (reason === null || !this.editable || this.set !== set) {
      this.refocus();
      return;
    }
    const before = finished(set.state);
    this.entered = performance.now();
    this.send({ kind: 'skip', comment: reason });
    await this.goOn(before);
  }

  async submit(pressed = performance.now()) {
    if (this.reading && this.set && !this.busy) {
      this.entered = pressed;
      await this.goOn(true);
      return;
    }
    if (!this.editable) return;
    const [first, ...others] = missing(this.set.state);
    if (first) {
      this.say(others.length ? `${others.length + 1} scores are missing` : '1 score is missing');
      this.focus(first.letter, first.criterion);
      return;
    }
    const ties = this.set.state.tie_break ? openTies(this.set.state) : [];
    if (ties.length) this.ties.ask(ties);
    else await this.finish(pressed);
  }

  async finish(pressed = performance.now()) {
    const before = finished(this.set.state);
    this.entered = pressed;
    this.send({ kind: 'submit' });
    if (this.set.state.training) await this.learn(before);
    else await this.goOn(before);
  }

  async help() {
    await dialogs.help(this.set && this.set.state);
    this.refocus();
  }
}
