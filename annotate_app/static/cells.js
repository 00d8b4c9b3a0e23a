// One cell per letter: canvas, letter, score strips with anchors, flags. Mouse on the canvas: zoom, pan, window, large.

import { h } from './dom.js';
import { Panel } from './viewer.js';

/** @import { Criterion, Expected, Flag, Letter, Outline, Pixels, SetState } from './types' */
/** @import { ImageGrid } from './grid.js' */
/** @import { View } from './viewer.js' */
/** @typedef {{group: HTMLElement, radios: HTMLInputElement[], anchor: HTMLElement, anchors: string[], value: number | null}} Strip */

export const CRITERIA = { text: 'Text', mask: 'Mask' };
const FLAGS = { artifact: { name: 'Artifact', key: 'X' }, unrealistic: { name: 'Unrealistic', key: 'U' } };

/** The line under a score strip. @param {Expected} found @param {number | null | undefined} given @param {string} id */
function verdict(found, given, id) {
  const range = found.low === found.high ? `${found.low}` : `${found.low}–${found.high}`;
  return h('p', { class: `verdict ${found.ok ? 'right' : 'wrong'}`, 'data-testid': id },
    h('b', {}, found.ok ? '✓ Right' : '✗ Wrong'),
    h('span', { class: 'range' }, `expected ${range}, you gave ${given ?? 'nothing'}`),
    h('span', { class: 'why', title: found.why }, found.why));
}

export class Cell {
  /** @type {Map<Criterion, Strip>} */
  strips = new Map();
  /** @type {Map<Flag, HTMLButtonElement>} */
  flags = new Map();

  /** @param {Letter} letter @param {ImageGrid} grid the cell is in */
  constructor(letter, grid) {
    this.letter = letter;
    this.grid = grid;
    this.canvas = h('canvas', { class: 'pixels', role: 'img', 'aria-label': `Image ${letter}`, 'data-testid': `image-${letter}` });
    this.tag = h('span', { class: 'letter', 'aria-hidden': 'true' }, letter);
    this.note = h('span', { class: 'note' });
    this.rows = h('div', { class: 'rows' });
    this.element = h('section', { class: 'cell', 'aria-label': `Image ${letter}`, 'data-letter': letter },
      h('div', { class: 'view' }, this.canvas, this.tag, this.note), this.rows);
    this.panel = new Panel(this.canvas);
    this.listen();
  }

  listen() {
    const { canvas, panel, letter, grid } = this;
    /** @type {{button: number, x: number, y: number} | null} */
    let drag = null;
    canvas.addEventListener('contextmenu', (event) => event.preventDefault());
    canvas.addEventListener('wheel', (event) => {
      event.preventDefault();
      panel.zoomAt(Math.exp(-event.deltaY * 0.0015), event);
      grid.viewChanged(letter);
    }, { passive: false });
    canvas.addEventListener('pointerdown', (event) => {
      drag = { button: event.button, x: event.clientX, y: event.clientY };
      canvas.setPointerCapture(event.pointerId);
      grid.focus(letter);
      event.preventDefault();
    });
    canvas.addEventListener('pointermove', (event) => {
      if (!drag) return;
      const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
      Object.assign(drag, { x: event.clientX, y: event.clientY });
      if (drag.button === 2) panel.window(dx, dy);
      else panel.pan(dx, dy);
      grid.viewChanged(letter);
    });
    for (const name of ['pointerup', 'pointercancel']) canvas.addEventListener(name, () => { drag = null; });
    canvas.addEventListener('dblclick', () => grid.toggleLarge(letter));
  }

  /**
   * Show a set: strips for its criteria and anchors, its pixels, the view reset.
   * @param {SetState} state
   * @param {Pixels} pixels
   * @param {Outline[]} outlines
   * @param {View | null} view shared with the other images; null keeps the own one
   */
  show(state, pixels, outlines, view) {
    this.strips.clear();
    this.element.classList.remove('taught');
    const lines = state.criteria.map((criterion, index) => this.row(criterion, state.anchors[criterion] ?? [], index === 0));
    this.rows.replaceChildren(...lines);
    this.update(state);
    this.panel.outlines = outlines;
    if (view) this.panel.view = view;
    this.panel.view.reset();
    this.compare(this.letter, pixels, '');
  }

  /** Show another image's pixels in this one's place. @param {Letter} letter @param {Pixels} pixels @param {string} note */
  compare(letter, pixels, note) {
    this.tag.textContent = letter;
    this.note.textContent = note;
    this.panel.pixels = pixels;
    this.panel.draw();
  }

  /** @param {Criterion} criterion @param {string[]} anchors words of the scores @param {boolean} withFlags */
  row(criterion, anchors, withFlags) {
    const radios = anchors.map((anchor, value) =>
      h('input', {
        type: 'radio', name: `${this.letter}-${criterion}`, value, 'aria-label': `${value}: ${anchor}`,
        'data-testid': `${this.letter}-${criterion}-${value}`,
        onchange: (event) => this.grid.page.rating.score(this.letter, criterion, value, event.timeStamp),
        onfocus: () => this.grid.focus(this.letter, criterion),
      }));
    const labels = radios.map((radio, value) =>
      h('label', { class: 'score', title: `${value}: ${anchors[value]}`,
        onmouseenter: () => this.say(criterion, value), onmouseleave: () => this.say(criterion) }, radio, h('span', {}, String(value))));
    const anchor = h('span', { class: 'anchor', 'aria-hidden': 'true' });
    const name = CRITERIA[criterion];
    const group = h('div', { class: 'strip', role: 'radiogroup', 'aria-label': `Image ${this.letter}: ${name}`, 'data-testid': `${this.letter}-${criterion}` },
      h('span', { class: 'name', 'aria-hidden': 'true' }, name), h('span', { class: 'scores' }, ...labels), anchor);
    this.strips.set(criterion, { group, radios, anchor, anchors, value: null });
    return h('div', { class: 'line' }, group, withFlags ? this.flagButtons() : null);
  }

  flagButtons() {
    for (const flag of /** @type {Flag[]} */ (Object.keys(FLAGS))) {
      const { name, key } = FLAGS[flag];
      this.flags.set(flag, h('button', { type: 'button', class: 'flag', tabindex: '-1', 'aria-pressed': 'false', title: `${name} (${key})`,
        'data-testid': `${this.letter}-${flag}`, onclick: () => this.grid.page.rating.flag(this.letter, flag) }, name));
    }
    return h('span', { class: 'flags' }, ...this.flags.values());
  }

  /** Training: expected scores and reasons; nothing can be changed any more. @param {Partial<Record<Criterion, Expected>>} feedback @param {SetState} state */
  teach(feedback, state) {
    this.element.classList.add('taught');
    for (const [criterion, { group, radios }] of this.strips) {
      const found = feedback[criterion];
      radios.forEach((radio, value) => {
        radio.disabled = true;
        radio.parentElement?.classList.toggle('expected', found !== undefined && value >= found.low && value <= found.high);
      });
      if (found) group.parentElement?.after(verdict(found, state.scores[this.letter][criterion], `${this.letter}-${criterion}-verdict`));
    }
  }

  /** Show the words of a score, the given one by default. @param {Criterion} criterion @param {number} [value] */
  say(criterion, value) {
    const strip = this.strips.get(criterion);
    if (!strip) return;
    const shown = value ?? strip.value;
    strip.anchor.textContent = shown === null ? 'not scored' : strip.anchors[shown];
    strip.anchor.classList.toggle('empty', shown === null);
  }

  /** Show the scores and flags of a set's state. @param {SetState} state */
  update(state) {
    for (const [criterion, strip] of this.strips) {
      strip.value = state.scores[this.letter][criterion] ?? null;
      strip.radios.forEach((radio, value) => { radio.checked = value === strip.value; });
      this.say(criterion);
    }
    for (const [flag, button] of this.flags) {
      const on = state.flags[this.letter][flag] === true;
      button.setAttribute('aria-pressed', String(on));
      button.textContent = on ? `✓ ${FLAGS[flag].name}` : FLAGS[flag].name;
    }
  }

  /** Put the keyboard on a strip. @param {Criterion | null} criterion null takes the mark away */
  mark(criterion) {
    this.element.classList.toggle('focused', criterion !== null);
    for (const [name, { group, radios, value }] of this.strips) {
      group.classList.toggle('focused', name === criterion);
      if (name === criterion && !radios.some((radio) => radio === document.activeElement)) radios[value ?? 0].focus({ preventScroll: true });
    }
  }
}
