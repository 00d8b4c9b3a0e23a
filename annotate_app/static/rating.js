// What the rater does to the set on the page: scores, flags, comments, skips, undo, submit.

import * as dialogs from './dialogs.js';
import { steps } from './history.js';
import { apply, finished, missing, rows } from './sets.js';
import { openTies } from './ties.js';
import { measure, painted } from './timing.js';

/** @import { ScoringPage } from './scoring.js' */
/** @import { Criterion, Flag, Letter, RatingEvent } from './types' */

export class Rating {
  blocked = false; // until the page is reloaded
  busy = false; // for a moment: another set or an answer is on its way
  taught = false; // the set on the page shows the feedback of the training

  /** @param {ScoringPage} page */
  constructor(page) {
    this.page = page;
  }

  /** The set that takes scores now, if one does. */
  get editable() {
    return this.blocked || this.busy || this.taught ? null : this.page.grid.set;
  }

  /** Apply an event to the set on the page and send it. @param {RatingEvent} event */
  send(event) {
    const { grid, outbox, pace, frame } = this.page;
    if (!grid.set || this.blocked) return;
    const { state } = grid.set;
    apply(state, event);
    outbox.add(state.token, state.version, { ...event, client: pace.times() });
    if ('letter' in event) grid.cells[event.letter].update(state);
    frame.updateTools();
  }

  /** @param {Letter} letter @param {Criterion} criterion @param {number} value @param {number} [pressed] time of the key or click */
  score(letter, criterion, value, pressed) {
    if (this.taught) this.page.frame.say('This training set is done; press Enter to go on');
    const set = this.editable;
    if (!set?.state.criteria.includes(criterion)) return;
    const { scores, ranks } = set.state;
    if (scores[letter][criterion] !== value) {
      this.send({ kind: 'score', letter, criterion, value });
      // a rank among equals ends with the score that made them equal
      if (ranks[letter][criterion] != null) this.send({ kind: 'rank', letter, criterion, value: null });
    }
    const order = rows(set.state);
    const index = order.findIndex((row) => row.letter === letter && row.criterion === criterion);
    const next = order[index + 1] || missing(set.state)[0];
    if (next) this.page.grid.focus(next.letter, next.criterion);
    if (pressed) painted((at) => measure('echo', pressed, at));
  }

  /** Set a flag, or take it away. @param {Letter} letter @param {Flag} flag */
  flag(letter, flag) {
    const set = this.editable;
    if (!set) return;
    this.send({ kind: 'flag', letter, criterion: flag, value: set.state.flags[letter][flag] ? 0 : 1 });
    this.page.grid.refocus();
  }

  undo() {
    const set = this.editable;
    if (!set) return;
    const step = steps(set.state.log).at(-1);
    if (!step) {
      this.page.frame.say('Nothing to undo in this set');
      return;
    }
    const [first] = step;
    for (const event of [...step].reverse()) this.send(event);
    if (first.kind === 'comment') this.page.frame.paintCondition(set.state);
    else if (first.kind === 'score' || first.kind === 'rank') this.page.grid.focus(first.letter, first.criterion);
  }

  async comment() {
    const set = this.editable;
    if (!set) return;
    const text = await dialogs.comment(set.state.comment);
    if (text !== null && text !== set.state.comment && this.editable === set) {
      this.send({ kind: 'comment', comment: text });
      this.page.frame.paintCondition(set.state);
    }
    this.page.grid.refocus();
  }

  async skip() {
    const set = this.editable;
    if (!set) return;
    const reason = await dialogs.skip();
    if (reason === null || this.editable !== set) {
      this.page.grid.refocus();
      return;
    }
    const before = finished(set.state);
    this.page.entered = performance.now();
    this.send({ kind: 'skip', comment: reason });
    await this.page.goOn(set, before);
  }

  /** @param {number} [pressed] time of the key or click */
  async submit(pressed = performance.now()) {
    const { grid, frame, ties } = this.page;
    if (this.taught && grid.set && !this.busy) {
      this.page.entered = pressed;
      await this.page.goOn(grid.set, true);
      return;
    }
    const set = this.editable;
    if (!set) return;
    const [first, ...others] = missing(set.state);
    if (first) {
      frame.say(others.length ? `${others.length + 1} scores are missing` : '1 score is missing');
      grid.focus(first.letter, first.criterion);
      return;
    }
    const groups = set.state.tie_break ? openTies(set.state) : [];
    if (groups.length) ties.ask(groups);
    else await this.finish(pressed);
  }

  /** Submit a complete set. @param {number} [pressed] */
  async finish(pressed = performance.now()) {
    const { set } = this.page.grid;
    if (!set) return;
    const before = finished(set.state);
    this.page.entered = pressed;
    this.send({ kind: 'submit' });
    if (set.state.training) await this.page.learn(set, before);
    else await this.page.goOn(set, before);
  }
}
