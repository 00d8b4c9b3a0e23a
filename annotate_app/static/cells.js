// One cell per letter: canvas, letter, score strips with anchors, flags. Mouse on the canvas: zoom, pan, window, one-up.

import { h } from './dom.js';
import { verdict } from './training.js';
import { Panel } from './viewer.js';

const NAMES = { text: 'Text', mask: 'Mask' };
export const FLAGS = { artifact: { name: 'Artifact', key: 'X' }, unrealistic: { name: 'Unrealistic', key: 'U' } };

export class Cell {
  // on: { score(letter, criterion, value), focus(letter, criterion), flag(letter, name), view(letter), large(letter) }
  constructor(letter, on) {
    this.letter = letter;
    this.on = on;
    this.strips = {};
    this.canvas = h('canvas', { class: 'pixels', role: 'img', 'aria-label': `Image ${letter}`, 'data-testid': `image-${letter}` });
    this.tag = h('span', { class: 'letter', 'aria-hidden': 'true' }, letter);
    this.note = h('span', { class: 'note' });
    this.rows = h('div', { class: 'rows' });
    this.element = h(
      'section',
      { class: 'cell', 'aria-label': `Image ${letter}`, 'data-letter': letter },
      h('div', { class: 'view' }, this.canvas, this.tag, this.note),
      this.rows,
    );
    this.panel = new Panel(this.canvas);
    this.listen();
  }

  listen() {
    const { canvas, panel, letter, on } = this;
    let drag = null;
    canvas.addEventListener('contextmenu', (event) => event.preventDefault());
    canvas.addEventListener('wheel', (event) => {
      event.preventDefault();
      panel.zoomAt(Math.exp(-event.deltaY * 0.0015), event.clientX, event.clientY);
      on.view(letter);
    }, { passive: false });
    canvas.addEventListener('pointerdown', (event) => {
      drag = { button: event.button, x: event.clientX, y: event.clientY };
      canvas.setPointerCapture(event.pointerId);
      on.focus(letter);
      event.preventDefault();
    });
    canvas.addEventListener('pointermove', (event) => {
      if (!drag || !panel.pixels) return;
      const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
      Object.assign(drag, { x: event.clientX, y: event.clientY });
      if (drag.button === 2) panel.window(dx, dy);
      else panel.pan(dx, dy);
      on.view(letter);
    });
    for (const name of ['pointerup', 'pointercancel']) canvas.addEventListener(name, () => { drag = null; });
    canvas.addEventListener('dblclick', () => on.large(letter));
  }

  // Show a set: strips for its criteria and anchors, its pixels, the given view (or its own), reset.
  show(state, pixels, outlines, view) {
    this.build(state);
    this.note.textContent = '';
    this.tag.textContent = this.letter;
    this.panel.outlines = outlines;
    if (view) this.panel.view = view;
    this.panel.view.reset();
    this.panel.show(pixels);
  }

  build(state) {
    this.strips = {};
    this.element.classList.remove('taught');
    const lines = state.criteria.map((criterion, index) => this.row(criterion, state.anchors[criterion], index === 0));
    this.rows.replaceChildren(...lines);
    this.update(state);
  }

  row(criterion, anchors, withFlags) {
    const radios = anchors.map((anchor, value) =>
      h('input', {
        type: 'radio', name: `${this.letter}-${criterion}`, value: String(value), 'aria-label': `${value}: ${anchor}`,
        'data-testid': `${this.letter}-${criterion}-${value}`,
        onchange: (event) => this.on.score(this.letter, criterion, value, event.timeStamp),
        onfocus: () => this.on.focus(this.letter, criterion),
      }));
    const labels = radios.map((radio, value) =>
      h('label', { class: 'score', title: `${value}: ${anchors[value]}`,
        onmouseenter: () => this.say(criterion, value), onmouseleave: () => this.say(criterion) }, radio, h('span', {}, String(value))));
    const anchor = h('span', { class: 'anchor', 'aria-hidden': 'true' });
    const name = NAMES[criterion];
    const group = h('div', { class: 'strip', role: 'radiogroup', 'aria-label': `Image ${this.letter}: ${name}`, 'data-testid': `${this.letter}-${criterion}` },
      h('span', { class: 'name', 'aria-hidden': 'true' }, name), h('span', { class: 'scores' }, ...labels), anchor);
    this.strips[criterion] = { group, radios, anchor, anchors, value: null };
    return h('div', { class: 'line' }, group, withFlags ? this.flagButtons() : null);
  }

  flagButtons() {
    this.flags = Object.fromEntries(Object.entries(FLAGS).map(([flag, { name, key }]) => [
      flag,
      h('button', { type: 'button', class: 'flag', tabindex: '-1', 'aria-pressed': 'false', title: `${name} (${key})`,
        'data-testid': `${this.letter}-${flag}`, onclick: () => this.on.flag(this.letter, flag) }, name),
    ]));
    return h('span', { class: 'flags' }, ...Object.values(this.flags));
  }

  // Training: expected scores and reasons; nothing can be changed any more.
  teach(feedback, state) {
    this.element.classList.add('taught');
    for (const [criterion, strip] of Object.entries(this.strips)) {
      const found = feedback[criterion];
      strip.radios.forEach((radio, value) => {
        radio.disabled = true;
        radio.parentElement.classList.toggle('expected', Boolean(found) && value >= found.low && value <= found.high);
      });
      if (found) strip.group.parentElement.after(verdict(found, state.scores[this.letter][criterion], `${this.letter}-${criterion}-verdict`));
    }
  }

  say(criterion, value) {
    const strip = this.strips[criterion];
    const shown = value ?? strip.value;
    strip.anchor.textContent = shown === null || shown === undefined ? 'not scored' : strip.anchors[shown];
    strip.anchor.classList.toggle('empty', shown === null || shown === undefined);
  }

  update(state) {
    for (const [criterion, strip] of Object.entries(this.strips)) {
      strip.value = state.scores[this.letter][criterion] ?? null;
      strip.radios.forEach((radio, value) => { radio.checked = value === strip.value; });
      this.say(criterion);
    }
    for (const [flag, button] of Object.entries(this.flags || {})) {
      const on = state.flags[this.letter][flag] === true;
      button.setAttribute('aria-pressed', String(on));
      button.textContent = on ? `✓ ${FLAGS[flag].name}` : FLAGS[flag].name;
    }
  }

  // Put the keyboard on a strip; `criterion` null takes the mark away.
  mark(criterion) {
    this.element.classList.toggle('focused', criterion !== null);
    for (const [name, strip] of Object.entries(this.strips)) strip.group.classList.toggle('focused', name === criterion);
    if (criterion === null || !this.strips[criterion]) return;
    const { radios, value } = this.strips[criterion];
    if (!radios.includes(document.activeElement)) radios[value ?? 0].focus({ preventScroll: true });
  }
}
