// The keyboard: every action of the page has a key; texts and dialogs keep theirs.

/** @import { ScoringPage } from './scoring.js' */
/** @import { Ties } from './ties.js' */
/** @import { Letter } from './types' */

/** @type {Record<string, Letter>} */
export const IMAGE_KEYS = { q: 'A', w: 'B', a: 'C', s: 'D' };
// Shift and arrows: window narrower and wider, level up and down.
/** @type {Record<string, [number, number]>} */
const WINDOW_STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const ONCE = ['enter', 'backspace', 'k', 'n', 'z', 'x', 'u', 'f', 'c', 'i', 'o', 'l', 'e']; // not repeated while held down
const TIE_FIRST = 'Answer the question below first; Esc goes back to the scores';

/** @param {KeyboardEvent} event */
function scoreOf(event) {
  if (/^[0-5]$/.test(event.key)) return Number(event.key);
  const digit = /^Digit([0-5])$/.exec(event.code); // layouts whose digits need Shift
  return digit && event.key.length === 1 && !/[a-z0-9?]/i.test(event.key) && !event.shiftKey ? Number(digit[1]) : null;
}

/** @param {ScoringPage} page @param {KeyboardEvent} event @returns {Record<string, () => unknown>} */
function actions(page, event) {
  const { grid, rating } = page;
  const { letter } = grid.focused;
  const arrow = () => grid.arrow(event.key);
  return {
    i: () => grid.invert(), r: () => grid.reset(), l: () => grid.link(), f: () => grid.toggleLarge(), c: () => grid.compare(),
    o: () => grid.toggleOutline(), '[': () => grid.setOpacity(grid.opacity - 0.1), ']': () => grid.setOpacity(grid.opacity + 0.1),
    '+': () => grid.zoom(1.25), '=': () => grid.zoom(1.25), '-': () => grid.zoom(0.8),
    t: () => grid.focus(letter, 'text'), m: () => grid.focus(letter, 'mask'),
    x: () => rating.flag(letter, 'artifact'), u: () => rating.flag(letter, 'unrealistic'),
    home: () => grid.pan(-0.1, 0), end: () => grid.pan(0.1, 0), pageup: () => grid.pan(0, -0.1), pagedown: () => grid.pan(0, 0.1),
    k: () => rating.skip(), n: () => rating.comment(), z: () => rating.undo(),
    backspace: () => page.previous(), enter: () => rating.submit(event.timeStamp), '?': () => page.help(),
    escape: () => (grid.flicker ? grid.stopFlicker() : grid.large && grid.toggleLarge()),
    arrowleft: arrow, arrowright: arrow, arrowup: arrow, arrowdown: arrow,
    ...Object.fromEntries(Object.entries(IMAGE_KEYS).map(([key, image]) => [key, () => grid.focus(image)])),
  };
}

/** While a tie is open, letters answer it; the viewer's keys go on working. @param {Ties} ties @param {string} key */
function tieAction(ties, key) {
  if (IMAGE_KEYS[key]) return () => ties.choose(IMAGE_KEYS[key]);
  if (key === 'e') return () => ties.equal();
  if (key === 'enter') return () => ties.skip();
  return ['escape', 'backspace', 'z'].includes(key) ? () => ties.cancel() : null;
}

/** @param {ScoringPage} page @param {KeyboardEvent} event @param {string} key */
function actionOf(page, event, key) {
  if (event.shiftKey && WINDOW_STEPS[event.key]) return () => page.grid.window(...WINDOW_STEPS[event.key]);
  if (page.ties.active) {
    const answer = tieAction(page.ties, key);
    if (answer) return answer;
    if (['k', 'n', 'x', 'u', 't', 'm'].includes(key)) return () => page.frame.say(TIE_FIRST);
  }
  return actions(page, event)[key];
}

/** Whether a key belongs to the element that has the focus, or to the browser. @param {KeyboardEvent} event @param {string} key */
function isTaken({ target, ctrlKey, metaKey, altKey, isComposing }, key) {
  if (ctrlKey || metaKey || altKey || isComposing || document.querySelector('dialog[open]')) return true;
  if (target instanceof HTMLButtonElement) {
    return ['enter', ' '].includes(key) || (['arrowleft', 'arrowright'].includes(key) && target.closest('[role=toolbar]') !== null);
  }
  return target instanceof HTMLTextAreaElement || (target instanceof HTMLInputElement && target.type !== 'radio');
}

/** @param {ScoringPage} page */
export function bindKeys(page) {
  window.addEventListener('keydown', (event) => {
    const key = event.key.toLowerCase();
    if (isTaken(event, key)) return;
    if (!page.grid.set) {
      if (key === 'backspace') page.previous();
      else if (key === 'enter') page.frame.pressMain();
      else if (key === '?') page.help();
      return;
    }
    if (key === ' ') event.preventDefault(); // the focused strip is a row: a space must not check its first score
    const value = scoreOf(event);
    const { letter, criterion } = page.grid.focused;
    const action = value === null ? actionOf(page, event, key)
      : page.ties.active ? () => page.frame.say(TIE_FIRST) : () => page.rating.score(letter, criterion, value, event.timeStamp);
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat || (value === null && !ONCE.includes(key))) action();
  }, true);
}
