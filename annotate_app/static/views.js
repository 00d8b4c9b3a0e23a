// Focus and views of the scoring page: which row has the keyboard, and what the four canvases show.

import { LETTERS, rows } from './sets.js';

const FLICKER_MS = 450;

export class Views {
  focus(letter, criterion) {
    if (!this.set) return;
    const { criteria } = this.set.state;
    const wanted = criteria.includes(criterion) ? criterion : this.focused && criteria.includes(this.focused.criterion) ? this.focused.criterion : criteria[0];
    if (this.focused && this.focused.letter !== letter) this.lastLetter = this.focused.letter;
    this.focused = { letter, criterion: wanted };
    if (this.root.dataset.large !== undefined) this.root.dataset.large = letter;
    for (const other of LETTERS) {
      this.cells[other].element.classList.toggle('large', this.root.dataset.large === other);
      if (other !== letter) this.cells[other].mark(null);
    }
    this.cells[letter].mark(wanted);
    this.updateTools();
  }

  refocus() {
    if (this.set) this.focus(this.focused.letter, this.focused.criterion);
  }

  move(step) {
    const order = rows(this.set.state);
    const index = order.findIndex((row) => row.letter === this.focused.letter && row.criterion === this.focused.criterion);
    const next = order[Math.max(0, Math.min(order.length - 1, index + step))];
    this.focus(next.letter, next.criterion);
  }

  // Up and down walk through rows and images of a column, left and right through the columns.
  arrow(key) {
    const { criteria } = this.set.state;
    const column = LETTERS.indexOf(this.focused.letter) % 2;
    const line = Math.floor(LETTERS.indexOf(this.focused.letter) / 2) * criteria.length + criteria.indexOf(this.focused.criterion);
    const target = { ArrowLeft: [0, line], ArrowRight: [1, line], ArrowUp: [column, line - 1], ArrowDown: [column, line + 1] }[key];
    const y = Math.max(0, Math.min(2 * criteria.length - 1, target[1]));
    this.focus(LETTERS[2 * Math.floor(y / criteria.length) + target[0]], criteria[y % criteria.length]);
  }

  panels(letter) {
    return this.linked ? LETTERS.map((name) => this.cells[name].panel) : [this.cells[letter || this.focused.letter].panel];
  }

  viewChanged(letter) {
    this.touch();
    for (const panel of this.panels(letter)) panel.draw();
    this.updateTools();
  }

  invert() {
    const { view } = this.cells[this.focused.letter].panel;
    view.invert = !view.invert;
    this.viewChanged();
  }

  reset() {
    for (const panel of this.panels()) panel.view.reset();
    this.viewChanged();
  }

  link() {
    this.linked = !this.linked;
    const { view } = this.cells[this.focused.letter].panel;
    for (const letter of LETTERS) {
      this.cells[letter].panel.view = this.linked ? view : view.copy();
      this.cells[letter].panel.draw();
    }
    this.updateTools();
  }

  zoom(factor) {
    this.cells[this.focused.letter].panel.zoomAt(factor);
    this.viewChanged();
  }

  // Window width and level in steps of five hundredths; the mouse does the same by dragging with the right button.
  window(wider, brighter) {
    this.cells[this.focused.letter].panel.window(20 * wider, 20 * brighter);
    this.viewChanged();
  }

  pan(x, y) {
    const { panel } = this.cells[this.focused.letter];
    panel.pan(x * panel.canvas.clientWidth, y * panel.canvas.clientHeight);
    this.viewChanged();
  }

  large(letter) {
    if (!this.set) return;
    const open = this.root.dataset.large !== undefined;
    if (open) delete this.root.dataset.large;
    else this.root.dataset.large = letter || this.focused.letter;
    this.focus(letter || this.focused.letter, this.focused.criterion);
  }

  toggleOutline() {
    this.outline = !this.outline;
    this.paintOutlines();
  }

  fade(step) {
    this.setOpacity(this.opacity + step);
  }

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
    this.updateTools();
  }

  // Show the last looked-at image in turn with the focused one, in the focused one's place. Who wants no motion
  // changes them by the key.
  compare() {
    if (!this.set) return;
    if (this.flicker) {
      this.stopFlicker();
      return;
    }
    const [here, there] = [this.focused.letter, this.lastLetter];
    let shown = here;
    const cell = this.cells[here];
    const turn = () => {
      shown = shown === here ? there : here;
      cell.tag.textContent = shown;
      cell.note.textContent = `comparing ${here} and ${there}`;
      cell.panel.show(this.set.pixels[LETTERS.indexOf(shown)]);
    };
    turn();
    const still = window.matchMedia('(prefers-reduced-motion: reduce)').matches;
    this.flicker = { timer: still ? 0 : setInterval(turn, FLICKER_MS), letter: here };
    this.updateTools();
  }

  stopFlicker() {
    if (!this.flicker) return;
    const { timer, letter } = this.flicker;
    clearInterval(timer);
    this.flicker = null;
    this.cells[letter].tag.textContent = letter;
    this.cells[letter].note.textContent = '';
    this.cells[letter].panel.show(this.set.pixels[LETTERS.indexOf(letter)]);
    this.updateTools();
  }
}
