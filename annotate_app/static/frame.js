// The frame around the four images: condition, progress, save state, tools, notices.

import { h, s } from './dom.js';
import { missing } from './sets.js';
import { STRUCTURE_STYLES } from './viewer.js';

/** @import { ScoringPage } from './scoring.js' */
/** @import { SetState } from './types' */

const MODE_WORDS = { T2I: 'Text', M2I: 'Mask', TM2I: 'Text and mask' };

/** @param {{colour: string, dash: number[]}} style */
const swatch = ({ colour, dash }) => s('svg', { viewBox: '0 0 28 6', class: 'swatch', 'aria-hidden': 'true' },
  s('path', { d: 'M0 3H28', stroke: colour, 'stroke-width': '3', 'stroke-dasharray': dash.join(' ') }));

export class Frame {
  condition = h('div', { class: 'condition', 'data-testid': 'condition', role: 'heading', 'aria-level': '1' });
  badge = h('span', { class: 'badge', 'data-testid': 'training', hidden: true }, 'Training');
  place = h('span', { class: 'place', 'data-testid': 'place' });
  bar = h('span');
  state = h('span', { class: 'saved', role: 'status', 'aria-live': 'polite', 'data-testid': 'save-state' }, 'Opening');
  spoken = h('span', { class: 'spoken', 'aria-live': 'polite', 'data-testid': 'spoken' });
  toast = h('div', { class: 'toast', role: 'alert' });
  note = h('div', { class: 'notice', role: 'note', 'data-testid': 'notice', hidden: true });
  readout = h('span', { class: 'readout', 'data-testid': 'readout', title: 'Zoom, window width, window level' });
  tools = h('div', { class: 'tools', role: 'toolbar', 'aria-label': 'Viewer and set', onkeydown: (event) => this.walkTools(event) });
  main = h('main');
  toastTimer = 0;

  /** @param {ScoringPage} page what the tools act on */
  constructor(page) {
    this.page = page;
    const { grid, rating } = page;
    this.buttons = {
      invert: this.tool('Invert', 'I', () => grid.invert()), reset: this.tool('Reset', 'R', () => grid.reset()),
      link: this.tool('Linked', 'L', () => grid.link()), large: this.tool('Large', 'F', () => grid.toggleLarge()),
      compare: this.tool('Compare', 'C', () => grid.compare()), outline: this.tool('Outline', 'O', () => grid.toggleOutline()),
    };
    /** @type {HTMLInputElement} */
    this.slider = h('input', { type: 'range', min: '10', max: '100', step: '10', tabindex: '-1', 'aria-label': 'Opacity of the outline', title: 'Opacity of the outline ([ and ])',
      'data-testid': 'opacity', oninput: () => grid.setOpacity(Number(this.slider.value) / 100), onchange: () => grid.refocus() });
    this.submitButton = this.tool('Submit', 'Enter', () => rating.submit(), 'submit');
    this.submitButton.classList.add('main');
    this.submitButton.tabIndex = 0; // the toolbar is one stop of the Tab key; arrows walk inside
    this.tools.append(this.readout, ...Object.values(this.buttons), this.slider, h('i'),
      this.tool('Undo', 'Z', () => rating.undo()), this.tool('Comment', 'N', () => rating.comment()), this.tool('Skip', 'K', () => rating.skip()), this.tool('Help', '?', () => page.help()),
      h('form', { method: 'post', action: new URL('logout', page.base), onsubmit: (event) => page.leave(event) }, h('button', { tabindex: '-1' }, 'Log out')),
      h('i'), this.tool('Previous', 'Backspace', () => page.previous()), this.submitButton);
    this.bottom = h('footer', { class: 'bottom' },
      h('span', { class: 'convention' }, h('b', {}, 'Research use, not for diagnosis'), h('span', {}, "Patient's right is at image left")), this.tools);
    this.root = h('div', { class: 'radpref-root', 'data-page': 'scoring' },
      h('header', { class: 'top' }, this.condition, h('div', { class: 'where' }, this.badge, this.place, h('span', { class: 'bar', 'aria-hidden': 'true' }, this.bar), this.state)),
      this.note, this.main, this.bottom, this.toast, this.spoken);
  }

  /** @param {string} name @param {string} key @param {() => unknown} action @param {string} [id] */
  tool(name, key, action, id = `tool-${name.toLowerCase()}`) {
    return h('button', { type: 'button', tabindex: '-1', title: `${name} (${key})`, 'data-testid': id, onclick: () => {
      action();
      if (!document.querySelector('dialog[open]')) this.page.grid.refocus();
    } }, name);
  }

  /** @param {KeyboardEvent} event */
  walkTools(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const all = [...this.tools.querySelectorAll('button')].filter((one) => one.offsetParent !== null);
    const at = all.findIndex((one) => one === document.activeElement);
    all[(at + step + all.length) % all.length].focus();
    event.preventDefault();
  }

  /** Press the main button of a page without images. */
  pressMain() {
    this.main.querySelector(/** @type {'button'} */ ('button.main'))?.click();
  }

  updateTools() {
    const { grid, rating } = this.page;
    const view = grid.set && grid.panel.view;
    const { link, outline, large, compare, invert } = this.buttons;
    /** @type {[HTMLButtonElement, boolean][]} */
    const toggles = [[link, grid.linked], [outline, grid.outline], [large, grid.large !== null], [compare, grid.flicker !== null], [invert, view?.invert === true]];
    for (const [button, pressed] of toggles) button.setAttribute('aria-pressed', String(pressed));
    this.buttons.outline.hidden = this.slider.hidden = !grid.set?.state.mask;
    this.slider.value = String(Math.round(grid.opacity * 100));
    if (view) this.readout.textContent = `${Math.round(view.zoom * 100)} %  W ${Math.round(view.width * 100)}  L ${Math.round(view.centre * 100)}`;
    this.root.toggleAttribute('data-taught', rating.taught);
    this.submitButton.textContent = rating.taught ? 'Next' : 'Submit';
    if (grid.set) this.submitButton.setAttribute('aria-disabled', String(!rating.taught && missing(grid.set.state).length > 0));
  }

  /** What the outbox is doing. @param {string} text @param {'saved' | 'saving' | 'offline'} kind */
  status(text, kind) {
    if (text.startsWith('Offline') && this.state.dataset.kind !== 'offline') this.say('No connection. Scores are kept in this browser and sent later: you can go on.');
    if (this.state.textContent !== text) this.state.textContent = text;
    this.state.dataset.kind = kind;
  }

  /** A line over the images for a moment. @param {string} text @param {number} [ms] */
  say(text, ms = 4000) {
    this.toast.textContent = text;
    this.toast.classList.add('shown');
    clearTimeout(this.toastTimer);
    this.toastTimer = window.setTimeout(() => this.toast.classList.remove('shown'), ms);
  }

  /** A line between header and images. @param {string | null} text null takes it away */
  notice(text, kind = '') {
    this.note.hidden = text === null;
    this.note.dataset.kind = kind;
    this.note.textContent = text ?? '';
  }

  /** Why the page cannot go on, with a button that reloads it. @param {string} text */
  banner(text) {
    const button = h('button', { type: 'button', class: 'main', onclick: () => this.page.reload() }, 'Reload');
    this.root.append(h('div', { class: 'banner', role: 'alert', 'data-testid': 'banner' }, text, button));
  }

  /** Show the tie-break's question in place of the tools. @param {HTMLElement | null} element null brings the tools back */
  question(element) {
    const { activeElement } = document;
    this.bottom.querySelector('.tie')?.remove();
    this.tools.hidden = element !== null;
    if (element) this.bottom.append(element);
    if (!activeElement?.isConnected || activeElement === document.body) this.page.grid.refocus();
  }

  /** @param {SetState} state */
  paintCondition({ text, mask, mode, state, comment, training }) {
    const structure = (/** @type {string} */ name, /** @type {number} */ index) => h('span', { class: 'structure' }, swatch(STRUCTURE_STYLES[index % STRUCTURE_STYLES.length]), name);
    this.condition.replaceChildren(
      h('span', { class: 'mode' }, MODE_WORDS[mode]),
      ...(text === null ? [] : [h('span', { class: 'text', title: text }, text)]),
      ...(mask ? [h('span', { class: 'mask' }, mode === 'M2I' ? null : h('span', { class: 'word' }, 'Mask:'), ...mask.structures.map(structure))] : []),
      ...[state === 'skipped' && 'skipped', comment && 'comment'].filter(Boolean).map((word) => h('span', { class: 'badge' }, word || null)));
    this.badge.hidden = !training;
  }

  /** The same for those who listen. @param {SetState} state */
  announce({ text, mask, mode, training }) {
    const parts = [training && 'Training', this.place.textContent, MODE_WORDS[mode], text, mask && `Mask of ${mask.structures.join(', ')}`];
    this.spoken.textContent = `${parts.filter(Boolean).join('. ')}.`;
  }

  paintPlace() {
    const { set } = this.page.grid;
    const { total, nDone } = this.page;
    if (!set) this.badge.hidden = true;
    this.place.textContent = set ? `Set ${set.state.number} / ${total}` : '';
    this.place.title = `${nDone} of ${total} done`;
    this.bar.style.width = `${total ? (100 * nDone) / total : 0}%`;
  }
}
