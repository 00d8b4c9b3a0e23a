// Pages without images: before the study, between its parts, and after it. Each has one main button, which Enter presses.

import { h, plural } from './dom.js';

/** @import { Child } from './dom.js' */
/** @import { Gate, PageFacts, PageName } from './types' */
/** @typedef {Record<'again' | 'open' | 'previous' | 'begin' | 'skip', () => void>} PageActions */

/** @param {number} share */
const percent = (share) => `${Math.round(100 * share)} %`;

/** @param {string} id @param {string} title @param {(string | null)[]} texts @param {Child[]} buttons */
function page(id, title, texts, ...buttons) {
  return h('div', { class: 'end', 'data-testid': id },
    h('h1', {}, title), ...texts.map((text) => text && h('p', {}, text)), h('p', { class: 'buttons' }, ...buttons));
}

/** @param {string} text @param {() => void} action @param {string} id */
const press = (text, action, id, kind = 'main') => h('button', { type: 'button', class: kind, 'data-testid': id, onclick: action }, text);

/** "today at 14:05" or "Monday, 23 November at 14:05", in the rater's own time. @param {string} iso */
function localTime(iso) {
  const at = new Date(iso);
  const clock = at.toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit' });
  if (at.toDateString() === new Date().toDateString()) return `today at ${clock}`;
  return `${at.toLocaleDateString('en-GB', { weekday: 'long', day: 'numeric', month: 'long' })} at ${clock}`;
}

/** @type {Record<PageName, (facts: PageFacts, on: PageActions) => HTMLElement>} */
export const PAGES = {
  gate({ last, ...facts }, on) {
    const gate = /** @type {Gate} */ (facts.gate); // the server sends it with this stage
    const result = `${percent(gate.share)} of your answers were in the expected range; ${percent(gate.pass)} are needed to go on.`;
    const review = last && press('Look at the last training set', on.previous, 'review', 'plain');
    if (gate.blocked) {
      return page('gate', 'The training is over', [result, 'No attempts are left. The study office decides how you go on: please contact it.'], review);
    }
    const left = Math.max(0, gate.attempts - gate.attempt);
    return page('gate', 'You have not passed the training yet', [result, `Attempt ${gate.attempt} of ${gate.attempts}: ${plural(left, 'attempt')} ${left === 1 ? 'is' : 'are'} left.`],
      review, press('Do the training again', on.again, 'again'));
  },

  begin({ total }, on) {
    return page('begin', 'The training is done', [`Now the study begins: ${plural(total)}. Scores count from here on, and no answers are shown.`], press('Start', on.begin, 'start'));
  },

  waiting({ total, nDone, last, opensAt }, on) {
    const when = opensAt ? `You can go on ${localTime(opensAt)}.` : 'You can go on later.';
    return page('waiting', 'A pause in the study', [`${plural(Math.max(0, total - nDone))} left. ${when}`, 'Everything so far is stored. You can log out and come back.'],
      last && press('Look at the last set again', on.previous, 'review', 'plain'), press('Check now', on.open, 'check'));
  },

  closed({ nDone }) {
    return page('closed', 'The study is finished', [`You scored ${plural(nDone)}. Thank you.`, 'Scores can no longer be changed. You can log out.']);
  },

  done({ total, last }, on) {
    if (!total) return page('end', 'There are no sets to score yet.', ['The study office adds them; then look again.'], press('Look again', on.open, 'check'));
    return page('end', total === 1 ? 'The set is done. Thank you.' : `All ${total} sets are done. Thank you.`,
      ['Every score is stored. You can log out, or go back and change a score.'], last && press('Look at the last set again', on.previous, 'review'));
  },

  broken({ message }, on) {
    return page('broken', 'This set cannot be shown', [message, 'You can skip it; the study office sees why.'],
      press('Try again', on.open, 'retry', 'plain'), press('Skip this set', on.skip, 'skip-broken'));
  },

  pending({ waiting }) {
    const entries = waiting === 1 ? '1 entry is' : `${waiting} entries are`;
    return page('pending', 'Waiting for the server', [waiting ? `${entries} kept in this browser and will be sent.` : null, 'The page continues by itself.']);
  },
};

/** @type {Record<PageName, string>} */
export const TITLES = { gate: 'Training', begin: 'Training done', waiting: 'Pause', closed: 'Study finished', done: 'All done', broken: 'Set not shown', pending: 'Waiting' };
