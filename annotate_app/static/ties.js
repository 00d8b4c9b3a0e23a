// The tie-break: which of equally scored images is better? Asked at Enter where the study wants it; never compulsory.

import { h } from './dom.js';
import { LETTERS } from './sets.js';

const KEYS = { A: 'Q', B: 'W', C: 'A', D: 'S' };
const NAMES = { text: 'Text', mask: 'Mask' };

// Groups of images that share a score within a criterion and are not all ranked yet.
export function openTies(state) {
  return state.criteria.flatMap((criterion) => [5, 4, 3, 2, 1, 0].map((score) => {
    const letters = LETTERS.filter((letter) => state.scores[letter][criterion] === score);
    return { criterion, score, letters };
  })).filter(({ criterion, letters }) => letters.length > 1 && letters.some((letter) => (state.ranks[letter][criterion] ?? null) === null));
}

const listed = (letters) => `${letters.slice(0, -1).join(', ')} and ${letters[letters.length - 1]}`;

export class Ties {
  // page: set, cells, send(event), finish(), tieBar(element or null), say(text)
  constructor(page) {
    this.page = page;
    this.group = null;
  }

  get active() {
    return this.group !== null;
  }

  // Ask about the groups in turn, then finish the set.
  ask(groups) {
    this.rest = groups.slice(1);
    [this.group] = groups;
    this.left = this.group.letters;
    this.ranked = [];
    this.paint();
  }

  paint() {
    const { criterion, score } = this.group;
    const best = this.left.length > 2 ? 'Which is the best?' : 'Which is better?';
    const same = this.ranked.length ? `between ${listed(this.left)}` : `${listed(this.left)} ${this.left.length > 2 ? 'all' : 'both'} have ${score}`;
    const button = (id, name, key, action, kind = '') =>
      h('button', { type: 'button', class: kind, 'data-testid': `tie-${id}`, onclick: action }, name, ' ', h('kbd', {}, key));
    this.page.tieBar(h('div', { class: 'tie', role: 'group', 'aria-label': 'Tie-break', 'data-testid': 'tie' },
      h('span', { class: 'question', role: 'alert' }, h('b', {}, NAMES[criterion]), `: ${same}. ${best}`),
      h('span', { class: 'answers' },
        ...this.left.map((letter) => button(letter, letter, KEYS[letter], () => this.choose(letter), 'pick')),
        button('equal', 'Equal', 'E', () => this.equal()), h('i'),
        button('back', 'Back', 'Esc', () => this.cancel()),
        button('skip', 'No answer', 'Enter', () => this.skip()))));
    for (const letter of LETTERS) this.page.cells[letter].element.classList.toggle('aside', !this.left.includes(letter));
    for (const letter of [this.left[1], this.left[0]]) this.page.focus(letter, criterion); // C compares these two
  }

  choose(letter) {
    if (!this.left.includes(letter)) {
      this.page.say(`${letter} is not one of them`);
      return;
    }
    this.ranked.push([letter]);
    this.left = this.left.filter((other) => other !== letter);
    if (this.left.length > 1) this.paint();
    else this.settle();
  }

  equal() {
    this.settle();
  }

  // Images that are left share the last place. Nothing is sent before a group is answered.
  settle() {
    const { criterion } = this.group;
    const places = [...this.ranked, this.left].flatMap((letters, index) => letters.map((letter) => ({ letter, value: index + 1 })));
    for (const { letter, value } of places) this.page.send({ kind: 'rank', letter, criterion, value });
    if (this.rest.length) this.ask(this.rest);
    else this.skip();
  }

  skip() {
    this.cancel();
    this.page.finish();
  }

  cancel() {
    this.group = null;
    for (const letter of LETTERS) this.page.cells[letter].element.classList.remove('aside');
    this.page.tieBar(null);
  }
}
