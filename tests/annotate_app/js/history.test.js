// Undo: what a step takes back, and that it is the same after a reload.

import './browser.js';

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { steps } from '../../../annotate_app/static/history.js';
import { apply, finished, missing } from '../../../annotate_app/static/sets.js';
import { openSet } from './browser.js';

/** @import { Criterion, Letter, LoggedEvent, RatingEvent, SetState } from '../../../annotate_app/static/types' */

/** @param {Letter} letter @param {number | null} value @param {Criterion} [criterion] @returns {RatingEvent} */
const score = (letter, value, criterion = 'text') => ({ kind: 'score', letter, criterion, value });
/** @param {Letter} letter @param {number | null} value @returns {RatingEvent} */
const rank = (letter, value) => ({ kind: 'rank', letter, criterion: 'text', value });
/** @param {number} value @returns {RatingEvent} */
const flag = (value) => ({ kind: 'flag', letter: 'B', criterion: 'artifact', value });
/** @param {string} text @returns {RatingEvent} */
const comment = (text) => ({ kind: 'comment', comment: text });

/** A set after some events. @param {RatingEvent[]} events */
function after(...events) {
  const state = openSet('TM2I');
  for (const event of events) apply(state, event);
  return state;
}

/** Press Z once. @param {SetState} state */
function undo(state) {
  for (const event of [...(steps(state.log).at(-1) ?? [])].reverse()) apply(state, event);
  return state;
}

/** The log as the server returns it: every key, null where a kind does not use one. @param {LoggedEvent[]} log @returns {LoggedEvent[]} */
const reloaded = (log) => JSON.parse(JSON.stringify(log.map(({ kind, letter = null, criterion = null, value = null, comment: text = null }) => ({ kind, letter, criterion, value, comment: text }))));

test('a changed score goes back to the one before, then to none, then there is nothing to undo', () => {
  const state = after(score('A', 0), score('A', 4));
  assert.equal(undo(state).scores.A.text, 0);
  assert.equal(undo(state).scores.A.text, null);
  assert.deepEqual(steps(state.log), []);
});

test('rows, flags and comments are taken back in the order in which they came', () => {
  const state = after(score('A', 3), score('A', 3, 'mask'), flag(1), comment('blurred'), flag(0));
  assert.equal(undo(state).flags.B.artifact, true);
  assert.equal(undo(state).comment, '');
  assert.equal(undo(state).flags.B.artifact, false);
  assert.equal(undo(state).scores.A.mask, null);
  assert.equal(state.scores.A.text, 3);
});

test('an event that changes nothing is not a step', () => {
  const state = after(score('A', 2), score('A', 2), flag(0), comment(''));
  assert.equal(steps(state.log).length, 1);
});

test('a new score after an undo starts from what is there then', () => {
  const state = undo(after(score('A', 1), score('A', 5)));
  apply(state, score('A', 4));
  assert.equal(undo(state).scores.A.text, 1);
  assert.equal(undo(state).scores.A.text, null);
});

test('all ranks of one answer are one step, a second answer is another', () => {
  const state = after(score('A', 3), score('B', 3), rank('B', 1), rank('A', 2));
  assert.equal(steps(state.log).length, 3);
  undo(state);
  assert.deepEqual([state.ranks.A.text, state.ranks.B.text], [null, null]);
  assert.deepEqual([state.scores.A.text, state.scores.B.text], [3, 3]);
});

test('ranks of two criteria, answered one after the other, are two steps', () => {
  const state = after(rank('A', 1), rank('B', 2), { kind: 'rank', letter: 'C', criterion: 'mask', value: 1 }, { kind: 'rank', letter: 'D', criterion: 'mask', value: 2 });
  undo(state);
  assert.deepEqual([state.ranks.A.text, state.ranks.B.text, state.ranks.C.mask, state.ranks.D.mask], [1, 2, null, null]);
});

test('the rank that a changed score takes away comes back with it', () => {
  const state = after(score('A', 3), score('B', 3), rank('A', 1), rank('B', 2), score('A', 5), rank('A', null));
  undo(state);
  assert.deepEqual([state.scores.A.text, state.ranks.A.text, state.ranks.B.text], [3, 1, 2]);
});

test('a submit lies between steps: ranks given after it are their own step', () => {
  const state = after(rank('A', 1), { kind: 'submit' }, rank('B', 2));
  assert.equal(steps(state.log).length, 2);
});

test('the steps are the same after a reload, at every point of a session', () => {
  const events = [score('A', 3), score('B', 3), score('B', 0, 'mask'), flag(1), comment('x'), rank('B', 1), rank('A', 2), score('A', 1), rank('A', null), comment('')];
  const state = after();
  const check = () => assert.deepEqual(reloaded(steps(state.log).flat()), reloaded(steps(reloaded(state.log)).flat()));
  for (const event of events) {
    apply(state, event);
    check();
  }
  for (let left = steps(state.log).length; left > 0; left -= 1) {
    assert.equal(steps(reloaded(state.log)).length, left);
    undo(state);
    check();
  }
  assert.deepEqual([state.scores.A.text, state.scores.B.mask, state.comment, state.flags.B.artifact], [null, null, '', false]);
});

test('0 is a score: a set is complete with it, and finished only when submitted', () => {
  const state = openSet('T2I');
  for (const letter of /** @type {Letter[]} */ (['A', 'B', 'C'])) apply(state, score(letter, 0));
  assert.deepEqual(missing(state), [{ letter: 'D', criterion: 'text' }]);
  apply(state, score('D', 0));
  assert.deepEqual(missing(state), []);
  assert.equal(finished(state), false);
  apply(state, { kind: 'submit' });
  assert.equal(finished(state), true);
  apply(state, score('A', null));
  assert.equal(finished(state), false, 'a score that was taken back opens the set again');
});
