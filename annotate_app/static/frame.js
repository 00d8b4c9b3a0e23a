// The frame around the four images: condition, progress, save state, tools, notices.

import { h } from './dom.js';
import { LETTERS, missing } from './sets.js';
import { STRUCTURE_STYLES } from './viewer.js';
import { Views } from './views.js';

const MODE_WORDS = { T2I: 'Text', M2I: 'Mask', TM2I: 'Text and mask' };

function swatch(style) {
  const picture = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const line = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  for (const [key, value] of Object.entries({ viewBox: '0 0 28 6', class: 'swatch', 'aria-hidden': 'true' })) picture.setAttribute(key, value);
  for (const [key, value] of Object.entries({ d: 'M0 3H28', stroke: style.colour, 'stroke-width': '3', 'stroke-dasharray': style.dash.join(' ') })) line.setAttribute(key, value);
  picture.append(line);
  return picture;
}

export class Frame extends Views {
  build() {
    this.condition = h('div', { class: 'condition', 'data-testid': 'condition', role: 'heading', 'aria-level': '1' });
    this.badge = h('span', { class: 'badge', 'data-testid': 'training', hidden: true }, 'Training');
    this.place = h('span', { class: 'place', 'data-testid': 'place' });
    this.bar = h('span', { class: 'bar', 'aria-hidden': 'true' }, h('span'));
    this.state = h('span', { class: 'saved', role: 'status', 'aria-live': 'polite', 'data-testid': 'save-state' }, 'Opening');
    this.spoken = h('span', { class: 'spoken', 'aria-live': 'polite', 'data-testid': 'spoken' });
    this.toast = h('div', { class: 'toast', role: 'alert' });
    this.note = h('div', { class: 'notice', role: 'note', 'data-testid': 'notice', hidden: true });
    this.grid = h('div', { class: 'grid' }, ...LETTERS.map((letter) => this.cells[letter].element));
    this.readout = h('span', { class: 'readout', 'data-testid': 'readout', title: 'Zoom, window width, window level' });
    this.tools = h('div', { class: 'tools', role: 'toolbar', 'aria-label': 'Viewer and set', onkeydown: (event) => this.walkTools(event) });
    this.main = h('main', {}, this.grid);
    this.bottom = h('footer', { class: 'bottom' },
      h('span', { class: 'convention' }, h('b', {}, 'Research use, not for diagnosis'), h('span', {}, "Patient's right is at image left")),
      this.tools);
    this.root.replaceChildren(
      h('header', { class: 'top' }, this.condition, h('div', { class: 'where' }, this.badge, this.place, this.bar, this.state)),
      this.note, this.main, this.bottom, this.toast, this.spoken,
    );
    this.buildTools();
  }

  buildTools() {
    const tool = (name, key, action, id) =>
      h('button', { type: 'button', tabindex: '-1', title: `${name} (${key})`, 'data-testid': id || `tool-${name.toLowerCase().split(' ')[0]}`,
        onclick: () => { action(); if (!document.querySelector('dialog[open]')) this.refocus(); } }, name);
    this.buttons = {
      invert: tool('Invert', 'I', () => this.invert()), reset: tool('Reset', 'R', () => this.reset()),
      link: tool('Linked', 'L', () => this.link()), large: tool('Large', 'F', () => this.large()),
      compare: tool('Compare', 'C', () => this.compare()), outline: tool('Outline', 'O', () => this.toggleOutline()),
    };
    this.slider = h('input', { type: 'range', min: '10', max: '100', step: '10', tabindex: '-1', 'aria-label': 'Opacity of the outline', title: 'Opacity of the outline ([ and ])',
      'data-testid': 'opacity', oninput: () => this.setOpacity(Number(this.slider.value) / 100), onchange: () => this.refocus() });
    this.submitButton = tool('Submit', 'Enter', () => this.submit(), 'submit');
    this.submitButton.classList.add('main');
    this.tools.replaceChildren(this.readout, ...Object.values(this.buttons), this.slider, h('i'),
      tool('Undo', 'Z', () => this.undo()), tool('Comment', 'N', () => this.comment()), tool('Skip', 'K', () => this.skip()), tool('Help', '?', () => this.help()),
      h('form', { method: 'post', action: new URL('logout', this.base), onsubmit: (event) => this.leave(event) }, h('button', { tabindex: '-1' }, 'Log out')),
      h('i'), tool('Previous', 'Backspace', () => this.previous()), this.submitButton);
    this.submitButton.tabIndex = 0; // the toolbar is one stop of the Tab key; arrows walk inside
    this.updateTools();
  }

  walkTools(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const all = [...this.tools.querySelectorAll('button')].filter((one) => one.offsetParent !== null);
    all[(all.indexOf(document.activeElement) + step + all.length) % all.length].focus();
    event.preventDefault();
  }

  updateTools() {
    const view = this.set ? this.cells[this.focused.letter].panel.view : null;
    const on = { link: this.linked, outline: this.outline, large: this.root.dataset.large !== undefined, compare: Boolean(this.flicker), invert: Boolean(view && view.invert) };
    for (const [name, pressed] of Object.entries(on)) this.buttons[name].setAttribute('aria-pressed', String(pressed));
    this.buttons.outline.hidden = this.slider.hidden = !(this.set && this.set.state.mask);
    this.slider.value = String(Math.round(this.opacity * 100));
    if (view) this.readout.textContent = `${Math.round(view.zoom * 100)} %  W ${Math.round(view.width * 100)}  L ${Math.round(view.centre * 100)}`;
    this.root.toggleAttribute('data-reading', Boolean(this.reading));
    this.submitButton.textContent = this.reading ? 'Next' : 'Submit';
    if (this.set) this.submitButton.setAttribute('aria-disabled', String(!this.reading && missing(this.set.state).length > 0));
  }

  status(text, kind) {
    if (text.startsWith('Offline') && this.state.dataset.kind !== 'offline') this.say('No connection. Scores are kept in this browser and sent later: go on.');
    if (this.state.textContent !== text) this.state.textContent = text;
    this.state.dataset.kind = kind;
  }

  say(text, ms = 4000) {
    this.toast.textContent = text;
    this.toast.classList.add('shown');
    clearTimeout(this.toastTimer);
    this.toastTimer = setTimeout(() => this.toast.classList.remove('shown'), ms);
  }

  // A line between header and images; null takes it away.
  notice(text, kind = '') {
    this.note.hidden = text === null;
    this.note.dataset.kind = kind;
    this.note.textContent = text ?? '';
  }

  banner(text) {
    const button = h('button', { type: 'button', class: 'main', onclick: () => this.reload() }, 'Reload');
    this.root.append(h('div', { class: 'banner', role: 'alert', 'data-testid': 'banner' }, text, button));
    this.blocked = true;
  }

  // The tie-break's question takes the place of the tools.
  tieBar(element) {
    const { activeElement } = document;
    this.bottom.querySelector('.tie')?.remove();
    this.tools.hidden = element !== null;
    if (element) this.bottom.append(element);
    if (!activeElement || !activeElement.isConnected || activeElement === document.body) this.refocus();
  }

  paintCondition() {
    const { text, mask, mode, state, comment, training } = this.set.state;
    const parts = [h('span', { class: 'mode' }, MODE_WORDS[mode])];
    if (text !== null) parts.push(h('span', { class: 'text', title: text }, text));
    if (mask) {
      const names = mask.structures.map((name, index) => h('span', { class: 'structure' }, swatch(STRUCTURE_STYLES[index % STRUCTURE_STYLES.length]), name));
      parts.push(h('span', { class: 'mask' }, mode === 'M2I' ? null : h('span', { class: 'word' }, 'Mask:'), ...names));
    }
    if (state === 'skipped') parts.push(h('span', { class: 'badge' }, 'skipped'));
    if (comment) parts.push(h('span', { class: 'badge' }, 'comment'));
    this.condition.replaceChildren(...parts);
    this.badge.hidden = !training;
  }

  // The same for those who listen.
  announce() {
    const { text, mask, mode, training } = this.set.state;
    const parts = [training && 'Training', this.place.textContent, MODE_WORDS[mode], text, mask && `Mask of ${mask.structures.join(', ')}`];
    this.spoken.textContent = `${parts.filter(Boolean).join('. ')}.`;
  }

  paintPlace() {
    const { set } = this;
    if (!set) this.badge.hidden = true;
    this.place.textContent = set ? `Set ${set.state.number} / ${this.total}` : '';
    this.place.title = `${this.nDone} of ${this.total} done`;
    this.bar.firstChild.style.width = `${this.total ? (100 * this.nDone) / this.total : 0}%`;
  }
}
