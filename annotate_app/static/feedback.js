// Feedback on a training set: what was expected, what was given, right or wrong in words, and why.

import { h } from './dom.js';
import { LETTERS } from './sets.js';

/** @import { Expected, Feedback } from './types' */

/** The line under a score strip. @param {Expected} found @param {number | null | undefined} given @param {string} id */
export function verdict(found, given, id) {
  const range = found.low === found.high ? `${found.low}` : `${found.low}–${found.high}`;
  return h('p', { class: `verdict ${found.ok ? 'right' : 'wrong'}`, 'data-testid': id },
    h('b', {}, found.ok ? '✓ Right' : '✗ Wrong'),
    h('span', { class: 'range' }, `expected ${range}, you gave ${given ?? 'nothing'}`),
    h('span', { class: 'why', title: found.why }, found.why));
}

/** "3 of 4 answers are in the expected range. Training so far: 75 %." @param {Feedback} feedback @param {number} [share] of all training so far */
export function feedbackSummary(feedback, share) {
  const all = LETTERS.flatMap((letter) => Object.values(feedback[letter] || {}));
  const right = all.filter(({ ok }) => ok).length;
  const far = share === undefined ? '' : ` Training so far: ${Math.round(100 * share)} %.`;
  return `${right} of ${all.length} answers ${right === 1 ? 'is' : 'are'} in the expected range.${far}`;
}
