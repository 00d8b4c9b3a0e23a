// Sets as the page knows them: state and pixels by token, fetched ahead.

import { getBytes, getJson } from './dom.js';
import { decodePixels, outlines, release, shaded, View } from './viewer.js';

export const LETTERS = ['A', 'B', 'C', 'D'];
const KEPT = 8;

export class Sets {
  constructor(base, outbox) {
    this.base = base;
    this.outbox = outbox;
    this.known = new Map();
  }

  next() {
    return getJson(new URL('api/next', this.base));
  }

  // A promise of { state, pixels, outlines }; a failed one is forgotten, so that it can be asked for again.
  load(token, state) {
    if (!this.known.has(token)) {
      const promise = this.fetch(token, state);
      promise.catch(() => this.known.delete(token));
      this.known.set(token, promise);
      if (this.known.size > KEPT) this.known.delete(this.known.keys().next().value);
    }
    return this.known.get(token);
  }

  forget(token) {
    this.known.delete(token);
  }

  async fetch(token, given) {
    const url = (rest) => new URL(`api/sets/${token}${rest}`, this.base);
    const state = complete(given || (await getJson(url(''))));
    const images = LETTERS.map((letter) => getBytes(url(`/images/${letter}`)).then((buffer) => decodePixels(buffer, state.image)));
    const mask = state.mask ? getBytes(url('/mask')).then((buffer) => outlines(buffer, state.mask)) : [];
    const [pixels, lines] = await Promise.all([Promise.all(images), mask]).catch((error) => {
      throw Object.assign(error, { state });
    });
    for (const event of this.outbox.pendingFor(token)) apply(state, event);
    return { state, pixels, outlines: lines };
  }

  // Fetch the next two sets in the background, and make their first picture, so that showing one only draws.
  async ahead(token) {
    for (let following = token, step = 0; following && step < 2; step += 1) {
      const { state, pixels } = await this.load(following);
      for (const one of pixels) {
        await idle();
        shaded(one, new View());
      }
      following = state.next;
    }
  }

  // Pictures of sets that are neither shown nor next are made again when they are needed.
  slim(tokens) {
    for (const [token, promise] of this.known) {
      if (!tokens.includes(token)) promise.then(({ pixels }) => pixels.forEach(release)).catch(() => {});
    }
  }
}

const idle = () => new Promise((resolve) => { (window.requestIdleCallback || setTimeout)(resolve); });

// Fields that a study without training or tie-breaks need not send.
function complete(state) {
  const blank = () => Object.fromEntries(LETTERS.map((letter) => [letter, {}]));
  return { training: false, tie_break: false, feedback: null, ...state, ranks: state.ranks ?? blank(), log: state.log ?? [] };
}

// What an event does to the page's own copy of a set.
export function apply(state, event) {
  state.log.push(event);
  if (event.kind === 'score') state.scores[event.letter][event.criterion] = event.value;
  else if (event.kind === 'rank') state.ranks[event.letter][event.criterion] = event.value;
  else if (event.kind === 'flag') state.flags[event.letter][event.criterion] = event.value === 1;
  else if (event.kind === 'comment') state.comment = event.comment;
  else if (event.kind === 'submit') state.state = 'submitted';
  else if (event.kind === 'skip') state.state = 'skipped';
  else if (event.kind === 'unskip') state.state = 'open';
}

// Skipped, or submitted with every score.
export function finished(state) {
  return state.state === 'skipped' || (state.state === 'submitted' && !missing(state).length);
}

// Rows of a set in the order of the keyboard: A text, A mask, B text, ...
export function rows(state) {
  return LETTERS.flatMap((letter) => state.criteria.map((criterion) => ({ letter, criterion })));
}

export function missing(state) {
  return rows(state).filter(({ letter, criterion }) => {
    const value = state.scores[letter][criterion];
    return value === null || value === undefined; // 0 is a score
  });
}
