// The four images of a set: which row has the keyboard, and what the canvases show.

import { Cell } from './cells.js';
import { h } from './dom.js';
import { LETTERS, missing, rows } from './sets.js';

/** @import { ScoringPage } from './scoring.js' */
/** @import { Criterion, Letter, LoadedSet } from './types' */

const FLICKER_MS = 450;

export class ImageGrid {
  /** @type {LoadedSet | null} the set on the page */
  set = null;
  /** @type {{letter: Letter, criterion: Criterion}} the row with the keyboard */
  focused = { letter: 'A', criterion: 'text' };
  /** @type {Letter} the image that was focused before */
  lastLetter = 'B';
  linked = true;
  outline = true;
  opacity = 0.9; // of the outlines, 0.1 to 1
  /** @type {Letter | null} the image that fills the page */
  large = null;
  /** @type {{timer: ReturnType<typeof setInterval> | undefined, letter: Letter} | null} */
  flicker = null;

  /** @param {ScoringPage} page */
  constructor(page) {
    this.page = page;
    this.cells = { A: new Cell('A', this), B: new Cell('B', this), C: new Cell('C', this), D: new Cell('D', this) };
    this.element = h('div', { class: 'grid' }, ...LETTERS.map((letter) => this.cells[letter].element));
  }

  get panel() {
    return this.cells[this.focused.letter].panel;
  }

  /** Put a set on the page, its first row without a score under the keyboard. @param {LoadedSet} set */
  show(set) {
    this.clear();
    this.set = set;
    const view = this.linked ? this.cells.A.panel.view : null;
    LETTERS.forEach((letter, index) => this.cells[letter].show(set.state, set.pixels[index], set.outlines, view));
    this.paintOutlines();
    const first = missing(set.state)[0] || rows(set.state)[0];
    this.lastLetter = first.letter === 'A' ? 'B' : 'A';
    this.focus(first.letter, first.criterion);
  }

  /** Take the set away. */
  clear() {
    this.stopFlicker();
    this.large = null;
    delete this.element.dataset.large;
    this.set = null;
  }

  /** @param {Letter} letter @param {Criterion} [criterion] the present one where it is not given or the set lacks it */
  focus(letter, criterion) {
    if (!this.set) return;
    const { criteria } = this.set.state;
    const wanted = [criterion, this.focused.criterion].find((one) => one && criteria.includes(one)) ?? criteria[0];
    if (this.focused.letter !== letter) this.lastLetter = this.focused.letter;
    this.focused = { letter, criterion: wanted };
    if (this.large) this.large = letter;
    for (const other of LETTERS) {
      this.cells[other].element.classList.toggle('large', this.large === other);
      if (other !== letter) this.cells[other].mark(null);
    }
    this.cells[letter].mark(wanted);
    this.page.frame.updateTools();
  }

  refocus() {
    this.focus(this.focused.letter, this.focused.criterion);
  }

  /** Up and down walk through rows and images of a column, left and right through the columns. @param {string} key */
  arrow(key) {
    if (!this.set) return;
    const { criteria } = this.set.state;
    const place = LETTERS.indexOf(this.focused.letter);
    const column = { ArrowLeft: 0, ArrowRight: 1 }[key] ?? place % 2;
    const line = Math.floor(place / 2) * criteria.length + criteria.indexOf(this.focused.criterion) + ({ ArrowUp: -1, ArrowDown: 1 }[key] ?? 0);
    const y = Math.max(0, Math.min(2 * criteria.length - 1, line));
    this.focus(LETTERS[2 * Math.floor(y / criteria.length) + column], criteria[y % criteria.length]);
  }

  /** @param {Letter} [letter] the image whose view was changed; the focused one by default */
  viewChanged(letter = this.focused.letter) {
    this.page.pace.touch();
    for (const other of LETTERS) if (this.linked || other === letter) this.cells[other].panel.draw();
    this.page.frame.updateTools();
  }

  invert() {
    this.panel.view.invert = !this.panel.view.invert;
    this.viewChanged();
  }

  reset() {
    this.panel.view.reset(); // linked images share one view
    this.viewChanged();
  }

  link() {
    this.linked = !this.linked;
    const { view } = this.panel;
    for (const letter of LETTERS) {
      this.cells[letter].panel.view = this.linked ? view : view.copy();
      this.cells[letter].panel.draw();
    }
    this.page.frame.updateTools();
  }

  /** @param {number} factor */
  zoom(factor) {
    this.panel.zoomAt(factor);
    this.viewChanged();
  }

  /** Window width and level in steps of five hundredths; the mouse does the same by dragging with the right button. @param {number} wider @param {number} brighter */
  window(wider, brighter) {
    this.panel.window(20 * wider, 20 * brighter);
    this.viewChanged();
  }

  /** @param {number} x @param {number} y parts of the canvas */
  pan(x, y) {
    const { panel } = this;
    panel.pan(x * panel.canvas.clientWidth, y * panel.canvas.clientHeight);
    this.viewChanged();
  }

  /** One image large, or all four again. @param {Letter} [letter] */
  toggleLarge(letter = this.focused.letter) {
    if (!this.set) return;
    this.large = this.large ? null : letter;
    this.element.toggleAttribute('data-large', this.large !== null);
    this.focus(letter, this.focused.criterion);
  }

  toggleOutline() {
    this.outline = !this.outline;
    this.paintOutlines();
  }

  /** @param {number} opacity */
  setOpacity(opacity) {
    this.opacity = Math.max(0.1, Math.min(1, opacity));
    this.outline = true;
    this.paintOutlines();
  }

  paintOutlines() {
    for (const letter of LETTERS) {
      this.cells[letter].panel.outlineOpacity = this.outline ? this.opacity : 0;
      this.cells[letter].panel.draw();
    }
    this.page.frame.updateTools();
  }

  /** Mark the images that a question is about; the others step back. @param {Letter[]} letters */
  single(letters) {
    for (const letter of LETTERS) this.cells[letter].element.classList.toggle('aside', !letters.includes(letter));
  }

  /** Show the last focused image in turn with the present one, in its place. With reduced motion the key changes them. */
  compare() {
    const { set, flicker, lastLetter: there, focused: { letter: here } } = this;
    if (!set) return;
    if (flicker) {
      this.stopFlicker();
      return;
    }
    const cell = this.cells[here];
    let shown = here;
    const turn = () => {
      shown = shown === here ? there : here;
      cell.compare(shown, set.pixels[LETTERS.indexOf(shown)], `comparing ${here} and ${there}`);
    };
    turn();
    const still = window.matchMedia('(prefers-reduced-motion: reduce)').matches;
    this.flicker = { timer: still ? undefined : setInterval(turn, FLICKER_MS), letter: here };
    this.page.frame.updateTools();
  }

  stopFlicker() {
    if (!this.flicker || !this.set) return;
    const { timer, letter } = this.flicker;
    clearInterval(timer);
    this.flicker = null;
    this.cells[letter].compare(letter, this.set.pixels[LETTERS.indexOf(letter)], '');
    this.page.frame.updateTools();
  }
}
