// Feedback on a training set: what was expected, what was given, right or wrong in words, and why.

import { h } from './dom.js';
import { LETTERS } from './sets.js';

const range = ({ low, high }) => (low === high ? `${low}` : `${low}–${high}`);

// The line under a score strip.
export function verdict(found, given, id) {
  return h('p', { class: `verdict ${found.ok ? 'right' : 'wrong'}`, 'data-testid': id },
    h('b', {}, found.ok ? '✓ Right' : '✗ Wrong'),
    h('span', { class: 'range' }, `expected ${range(found)}, you gave ${given ?? 'nothing'}`),
    h('span', { class: 'why', title: found.why }, found.why));
}

// "3 of 4 answers are in the expected range. Training so far: 75 %."
export function feedbackSummary(feedback, share) {
  const all = LETTERS.flatMap((letter) => Object.values(feedback[letter] || {}));
  const right = all.filter(({ ok }) => ok).length;
  const far = typeof share === 'number' ? ` Training so far: ${Math.round(100 * share)} %.` : '';
  return `${right} of ${all.length} answers ${right === 1 ? 'is' : 'are'} in the expected range.${far}`;
}
