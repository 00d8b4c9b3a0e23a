// Pages without images: before the study, between its parts, and after it. Each has one main button, which Enter presses.

import { h } from './dom.js';

const percent = (share) => `${Math.round(100 * share)} %`;
const sets = (n) => (n === 1 ? '1 set' : `${n} sets`);

function page(id, title, texts, ...buttons) {
  return h('div', { class: 'end', 'data-testid': id },
    h('h1', {}, title), ...texts.filter(Boolean).map((text) => h('p', {}, text)),
    h('p', { class: 'buttons' }, ...buttons.filter(Boolean)));
}

const press = (text, action, id, main = true) =>
  h('button', { type: 'button', class: main ? 'main' : 'plain', 'data-testid': id, onclick: action }, text);

// "today at 14:05" or "Monday, 23 November at 14:05", in the rater's own time.
export function localTime(iso, now = new Date()) {
  const at = new Date(iso);
  const clock = at.toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit' });
  if (at.toDateString() === now.toDateString()) return `today at ${clock}`;
  return `${at.toLocaleDateString('en-GB', { weekday: 'long', day: 'numeric', month: 'long' })} at ${clock}`;
}

// on: { again(), open(), previous(), begin(), skip() }; place: { total, nDone, last, gate, opensAt, message }
export const PAGES = {
  gate({ gate, last }, on) {
    const result = `${percent(gate.share)} of your answers were in the expected range; ${percent(gate.pass)} are needed to go on.`;
    const review = last && press('Look at the last training set', on.previous, 'review', false);
    if (gate.blocked) {
      return page('gate', 'The training is over', [result, 'No attempt is left. The study office decides how you go on: please get in touch with it.'], review);
    }
    const left = Math.max(0, gate.attempts - gate.attempt);
    return page('gate', 'The training was not passed yet', [result, `Attempt ${gate.attempt} of ${gate.attempts}: ${left === 1 ? '1 attempt is' : `${left} attempts are`} left.`],
      review, press('Do the training again', on.again, 'again'));
  },

  begin({ total }, on) {
    return page('begin', 'The training is done', [`Now the study begins: ${sets(total)}. Scores count from here on, and no answers are shown.`], press('Start', on.begin, 'start'));
  },

  waiting({ total, nDone, last, opensAt }, on) {
    const when = opensAt ? `You can go on ${localTime(opensAt)}.` : 'You can go on later.';
    return page('waiting', 'A pause in the study', [`${sets(Math.max(0, total - nDone))} left. ${when}`, 'Everything so far is stored. You can log out and come back.'],
      last && press('Look at the last set again', on.previous, 'review', false), press('Check now', on.open, 'check'));
  },

  closed({ nDone }) {
    return page('closed', 'The study is finished', [`You scored ${sets(nDone)}. Thank you.`, 'Scores can no longer be changed. You can log out.']);
  },

  done({ total, last }, on) {
    if (!total) return page('end', 'There are no sets to score yet.', ['The study office adds them; then look again.'], press('Look again', on.open, 'check'));
    return page('end', total === 1 ? 'The set is done. Thank you.' : `All ${total} sets are done. Thank you.`,
      ['Every score is stored. You can log out, or go back and change a score.'], last && press('Look at the last set again', on.previous, 'review'));
  },

  broken({ message }, on) {
    return page('broken', 'This set cannot be shown', [message, 'You can skip it; the study office sees why.'],
      press('Try again', on.open, 'retry', false), press('Skip this set', on.skip, 'skip-broken'));
  },

  pending({ waiting }) {
    return page('pending', 'Waiting for the server', [waiting ? `${waiting === 1 ? '1 entry is' : `${waiting} entries are`} kept in this browser and will be sent.` : null, 'The page goes on by itself.']);
  },
};

export const TITLES = { gate: 'Training', begin: 'Training done', waiting: 'Pause', closed: 'Study finished', done: 'All done', broken: 'Set not shown', pending: 'Waiting' };
