// The tie-break: which of equally scored images is better? Asked at Enter where the study wants it; never compulsory.

import { CRITERIA } from './cells.js';
import { h } from './dom.js';
import { IMAGE_KEYS } from './keys.js';
import { LETTERS } from './sets.js';

/** @import { ScoringPage } from './scoring.js' */
/** @import { Criterion, Letter, SetState, Tie } from './types' */

/** Groups of images that share a score within a criterion and are not all ranked yet. @param {SetState} state @returns {Tie[]} */
export function openTies(state) {
  return state.criteria.flatMap((criterion) => [5, 4, 3, 2, 1, 0].map((score) => {
    const letters = LETTERS.filter((letter) => state.scores[letter][criterion] === score);
    return { criterion, score, letters };
  })).filter(({ criterion, letters }) => letters.length > 1 && letters.some((letter) => state.ranks[letter][criterion] == null));
}

/** @param {Letter[]} letters */
const listed = (letters) => `${letters.slice(0, -1).join(', ')} and ${letters[letters.length - 1]}`;

export class Ties {
  /** @type {Tie[]} groups still to ask about, the present one first */
  groups = [];
  /** @type {Letter[]} images of the present group, best first */
  ranked = [];

  /** @param {ScoringPage} page */
  constructor(page) {
    this.page = page;
  }

  get active() {
    return this.groups.length > 0;
  }

  /** Images of the present group without a rank. */
  get left() {
    return this.groups[0].letters.filter((letter) => !this.ranked.includes(letter));
  }

  /** Ask about the groups in turn, then finish the set. @param {Tie[]} groups */
  ask(groups) {
    this.groups = groups;
    this.ranked = [];
    this.paint();
  }

  paint() {
    const { left, groups: [{ criterion, score }] } = this;
    const best = left.length > 2 ? 'Which is the best?' : 'Which is better?';
    const same = this.ranked.length ? `between ${listed(left)}` : `${listed(left)} ${left.length > 2 ? 'all' : 'both'} have ${score}`;
    const button = (/** @type {string} */ id, /** @type {string} */ name, /** @type {string} */ key, /** @type {() => void} */ action, kind = '') =>
      h('button', { type: 'button', class: kind, 'data-testid': `tie-${id}`, onclick: action }, name, ' ', h('kbd', {}, key));
    const keyOf = (/** @type {Letter} */ letter) => Object.keys(IMAGE_KEYS).find((key) => IMAGE_KEYS[key] === letter)?.toUpperCase() ?? '';
    this.show(h('div', { class: 'tie', role: 'group', 'aria-label': 'Tie-break', 'data-testid': 'tie' },
      h('span', { class: 'question', role: 'alert' }, h('b', {}, CRITERIA[criterion]), `: ${same}. ${best}`),
      h('span', { class: 'answers' },
        ...left.map((letter) => button(letter, letter, keyOf(letter), () => this.choose(letter), 'pick')),
        button('equal', 'Equal', 'E', () => this.equal()), h('i'),
        button('back', 'Back', 'Esc', () => this.cancel()),
        button('skip', 'No answer', 'Enter', () => this.skip()))), left, criterion);
  }

  /** Show a question and the images it is about; null takes it away. @param {HTMLElement | null} question @param {Letter[]} letters @param {Criterion} [criterion] */
  show(question, letters, criterion) {
    const { frame, grid } = this.page;
    frame.question(question);
    grid.single(letters);
    if (question) for (const letter of [letters[1], letters[0]]) grid.focus(letter, criterion); // C compares these two
  }

  /** The best of those left. @param {Letter} letter */
  choose(letter) {
    if (!this.left.includes(letter)) {
      this.page.frame.say(`${letter} is not one of them`);
      return;
    }
    this.ranked.push(letter);
    if (this.left.length > 1) this.paint();
    else this.equal();
  }

  /** Images that are left share the last place. Nothing is sent before a group is answered. */
  equal() {
    const { left, ranked, groups: [{ criterion }, ...others] } = this;
    for (const [index, letter] of [...ranked, ...left].entries()) {
      this.page.rating.send({ kind: 'rank', letter, criterion, value: Math.min(index, ranked.length) + 1 });
    }
    if (others.length) this.ask(others);
    else this.skip();
  }

  /** Submit without an answer to what is still open. */
  skip() {
    this.cancel();
    this.page.rating.finish();
  }

  /** Back to the scores. */
  cancel() {
    this.groups = [];
    this.show(null, LETTERS);
  }
}
