// The tie-break: which groups are asked about, and which ranks an answer gives.

import './browser.js';

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { openTies, Ties } from '../../../annotate_app/static/ties.js';
import { openSet } from './browser.js';

/** @import { ScoringPage } from '../../../annotate_app/static/scoring.js' */
/** @import { Criterion, Letter, Mode, RatingEvent } from '../../../annotate_app/static/types' */

/** @param {Mode} mode @param {Partial<Record<Criterion, (number | null)[]>>} given scores of A, B, C, D */
function scored(mode, given) {
  const state = openSet(mode);
  for (const criterion of state.criteria) {
    given[criterion]?.forEach((value, index) => { state.scores[/** @type {Letter} */ ('ABCD'[index])][criterion] = value; });
  }
  return state;
}

/** A tie-break on a set: the ranks sent as letter/value, questions shown, and how often it has finished. @param {ReturnType<typeof scored>} state */
function asked(state) {
  const found = { ranks: /** @type {Record<string, string>} */ ({}), questions: /** @type {(string | null)[]} */ ([]), finished: 0, said: '', ties: /** @type {Ties | null} */ (null) };
  const rating = {
    send: (/** @type {RatingEvent} */ event) => { if (event.kind === 'rank') found.ranks[event.criterion] = `${found.ranks[event.criterion] ?? ''}${event.letter}${event.value}`; },
    finish: () => { found.finished += 1; },
  };
  const frame = {
    question: (/** @type {Element | null} */ question) => found.questions.push(question && (question.querySelector('.question')?.textContent ?? '')),
    say: (/** @type {string} */ text) => { found.said = text; },
  };
  const grid = { single: () => {}, focus: () => {} };
  const ties = new Ties(/** @type {ScoringPage} */ (/** @type {unknown} */ ({ rating, frame, grid })));
  ties.ask(openTies(state));
  return { found, ties };
}

test('groups are equal scores within a criterion, the best first; 0 is a score, none is not', () => {
  const state = scored('TM2I', { text: [0, 3, 0, 3], mask: [5, null, null, 4] });
  assert.deepEqual(openTies(state), [
    { criterion: 'text', score: 3, letters: ['B', 'D'] },
    { criterion: 'text', score: 0, letters: ['A', 'C'] },
  ]);
});

test('a group is open until all of it is ranked', () => {
  const state = scored('T2I', { text: [2, 2, 1, 5] });
  state.ranks.A.text = 1;
  assert.equal(openTies(state).length, 1);
  state.ranks.B.text = 2;
  assert.deepEqual(openTies(state), []);
});

test('the chosen ones rank 1, 2, ...; the last needs no key', () => {
  const { found, ties } = asked(scored('T2I', { text: [4, 4, 4, 1] }));
  ties.choose('C');
  assert.deepEqual(found.ranks, {}, 'nothing is sent before a group is answered');
  ties.choose('A');
  assert.deepEqual(found.ranks, { text: 'C1A2B3' });
  assert.equal(found.finished, 1);
  assert.equal(ties.active, false);
});

test('Equal gives all the same rank, or those left the last one', () => {
  const all = asked(scored('T2I', { text: [4, 4, 4, 4] }));
  all.ties.equal();
  assert.deepEqual(all.found.ranks, { text: 'A1B1C1D1' });
  const rest = asked(scored('T2I', { text: [4, 4, 4, 4] }));
  rest.ties.choose('D');
  rest.ties.equal();
  assert.deepEqual(rest.found.ranks, { text: 'D1A2B2C2' });
});

test('groups are asked about in turn, each by its own criterion', () => {
  const { found, ties } = asked(scored('TM2I', { text: [4, 4, 1, 2], mask: [1, 2, 5, 5] }));
  ties.choose('B');
  assert.equal(found.finished, 0);
  ties.choose('A');
  assert.equal(found.said, 'A is not one of them');
  ties.choose('C');
  assert.deepEqual(found.ranks, { text: 'B1A2', mask: 'C1D2' });
  assert.equal(found.finished, 1);
  assert.deepEqual(found.questions, ['Text: A and B both have 4. Which is better?', 'Mask: C and D both have 5. Which is better?', null]);
});

test('no answer submits without ranks; going back does neither', () => {
  const skipped = asked(scored('T2I', { text: [4, 4, 1, 2] }));
  skipped.ties.skip();
  assert.deepEqual([skipped.found.ranks, skipped.found.finished], [{}, 1]);
  const back = asked(scored('T2I', { text: [4, 4, 4, 2] }));
  back.ties.choose('A');
  back.ties.cancel();
  assert.deepEqual([back.found.ranks, back.found.finished, back.ties.active], [{}, 0, false]);
});
