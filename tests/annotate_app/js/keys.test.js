// The key map: which action a key calls, and when a key is left to the browser.

import './browser.js';

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';

import { bindKeys } from '../../../annotate_app/static/keys.js';

/** @import { ScoringPage } from '../../../annotate_app/static/scoring.js' */

/** @type {string[]} */
let calls;
const facts = { set: true, tie: false, flicker: false, large: false };

/** Whatever is called on it is noted: "grid.focus(B)". @param {string} name @param {object} known */
const recorder = (name, known) => new Proxy(known, {
  get: (target, key) => (key in target ? Reflect.get(target, key) : (/** @type {unknown[]} */ ...given) => { calls.push(`${name}.${String(key)}(${given.join(', ')})`); }),
});
const grid = recorder('grid', {
  focused: { letter: 'B', criterion: 'mask' }, opacity: 0.5,
  get set() { return facts.set ? {} : null; }, get flicker() { return facts.flicker ? {} : null; }, get large() { return facts.large ? 'B' : null; },
});
const ties = recorder('ties', { get active() { return facts.tie; } });
bindKeys(/** @type {ScoringPage} */ (/** @type {unknown} */ (recorder('page', { grid, ties, rating: recorder('rating', {}), frame: recorder('frame', {}) }))));

beforeEach(() => {
  Object.assign(facts, { set: true, tie: false, flicker: false, large: false });
  document.body.replaceChildren();
});

/** Press a key; returns what was called, times left out. @param {string} key @param {KeyboardEventInit} [more] @param {Element} [where] */
function press(key, more = {}, where = document.body) {
  calls = [];
  const event = new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true, ...more });
  where.dispatchEvent(event);
  return { calls: calls.map((call) => call.replace(/(?<=^rating\.(score|submit).*?),? ?[\d.]+\)$/, ')')), prevented: event.defaultPrevented };
}

/** @type {Record<string, string>} */
const MAP = {
  0: 'rating.score(B, mask, 0)', 5: 'rating.score(B, mask, 5)', q: 'grid.focus(A)', w: 'grid.focus(B)', a: 'grid.focus(C)', s: 'grid.focus(D)',
  t: 'grid.focus(B, text)', m: 'grid.focus(B, mask)', x: 'rating.flag(B, artifact)', u: 'rating.flag(B, unrealistic)', z: 'rating.undo()', n: 'rating.comment()',
  k: 'rating.skip()', Enter: 'rating.submit()', Backspace: 'page.previous()', '?': 'page.help()', i: 'grid.invert()', r: 'grid.reset()', l: 'grid.link()',
  f: 'grid.toggleLarge()', c: 'grid.compare()', o: 'grid.toggleOutline()', '[': 'grid.setOpacity(0.4)', ']': 'grid.setOpacity(0.6)', '+': 'grid.zoom(1.25)',
  '=': 'grid.zoom(1.25)', '-': 'grid.zoom(0.8)', Home: 'grid.pan(-0.1, 0)', End: 'grid.pan(0.1, 0)', PageUp: 'grid.pan(0, -0.1)', PageDown: 'grid.pan(0, 0.1)',
  ArrowLeft: 'grid.arrow(ArrowLeft)', ArrowRight: 'grid.arrow(ArrowRight)', ArrowUp: 'grid.arrow(ArrowUp)', ArrowDown: 'grid.arrow(ArrowDown)',
};

for (const [key, call] of Object.entries(MAP)) {
  test(`${key} calls ${call}`, () => {
    assert.deepEqual(press(key), { calls: [call], prevented: true });
    if (/^[a-z]$/.test(key)) assert.deepEqual(press(key.toUpperCase()).calls, [call], 'caps lock changes nothing');
  });
}

test('keys without an action, and those with Ctrl, Alt or Meta, are left to the browser', () => {
  for (const key of ['6', '9', 'b', 'F5', 'Tab']) assert.deepEqual(press(key), { calls: [], prevented: false }, key);
  for (const name of ['ctrlKey', 'altKey', 'metaKey']) assert.deepEqual(press('r', { [name]: true }), { calls: [], prevented: false }, name);
});

test('digits of a layout that needs Shift for them are scores, unless Shift or a letter is typed', () => {
  assert.deepEqual(press('à', { code: 'Digit0' }).calls, ['rating.score(B, mask, 0)']);
  assert.deepEqual(press('(', { code: 'Digit5' }).calls, ['rating.score(B, mask, 5)']);
  assert.deepEqual(press('!', { code: 'Digit1', shiftKey: true }).calls, []);
});

test('a key that is held down repeats where it moves, never where it stores', () => {
  for (const key of ['3', 'Enter', 'Backspace', 'z', 'x', 'k']) assert.deepEqual(press(key, { repeat: true }).calls, [], key);
  assert.deepEqual(press('+', { repeat: true }).calls, ['grid.zoom(1.25)']);
});

test('Shift and arrows change the window', () => {
  assert.deepEqual(press('ArrowLeft', { shiftKey: true }).calls, ['grid.window(-1, 0)']);
  assert.deepEqual(press('ArrowDown', { shiftKey: true }).calls, ['grid.window(0, 1)']);
});

test('Escape ends the comparison, then the large image, then nothing', () => {
  Object.assign(facts, { flicker: true, large: true });
  assert.deepEqual(press('Escape').calls, ['grid.stopFlicker()']);
  facts.flicker = false;
  assert.deepEqual(press('Escape').calls, ['grid.toggleLarge()']);
  facts.large = false;
  assert.deepEqual(press('Escape').calls, []);
});

test('while a tie is open, letters answer it and nothing is scored or flagged', () => {
  facts.tie = true;
  const answers = { q: 'choose(A)', s: 'choose(D)', e: 'equal()', Enter: 'skip()', Escape: 'cancel()', Backspace: 'cancel()', z: 'cancel()' };
  for (const [key, call] of Object.entries(answers)) assert.deepEqual(press(key).calls, [`ties.${call}`]);
  for (const key of ['3', 'x', 'u', 'k', 'n', 't']) assert.match(press(key).calls.join(), /^frame\.say\(/, key);
  assert.deepEqual(press('+').calls, ['grid.zoom(1.25)']);
});

test('texts, dialogs and buttons keep their keys', () => {
  const area = document.body.appendChild(document.createElement('textarea'));
  assert.deepEqual(press('3', {}, area), { calls: [], prevented: false });
  const button = document.body.appendChild(document.createElement('button'));
  for (const key of ['Enter', ' ']) assert.deepEqual(press(key, {}, button), { calls: [], prevented: false });
  assert.deepEqual(press('3', {}, button).calls, ['rating.score(B, mask, 3)']);
  const radio = Object.assign(document.body.appendChild(document.createElement('input')), { type: 'radio' });
  assert.deepEqual(press(' ', {}, radio), { calls: [], prevented: true }, 'a space must not check the first score of a row');
  const tool = document.createElement('button');
  const bar = document.body.appendChild(document.createElement('div'));
  bar.setAttribute('role', 'toolbar');
  bar.append(tool);
  assert.deepEqual(press('ArrowLeft', {}, tool).calls, [], 'arrows walk inside the toolbar');
  document.body.appendChild(document.createElement('dialog')).setAttribute('open', '');
  assert.deepEqual(press('3'), { calls: [], prevented: false });
});

test('a page without images knows Enter, Backspace and help only', () => {
  facts.set = false;
  assert.deepEqual(['Enter', 'Backspace', '?', '3', 'k'].flatMap((key) => press(key).calls), ['frame.pressMain()', 'page.previous()', 'page.help()']);
});
