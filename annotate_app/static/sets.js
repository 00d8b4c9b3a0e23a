// Sets as the page knows them: state and pixels by token, fetched ahead.

import { getBytes, getJson } from './dom.js';
import { decodePixels, outlinesOf, shaded, View } from './viewer.js';

/** @import { Letter, LoadedSet, Next, Outline, RatingEvent, Row, SetState } from './types' */
/** @import { Outbox } from './outbox.js' */

/** @type {Letter[]} */
export const LETTERS = ['A', 'B', 'C', 'D'];
const CACHED_SETS = 8;

export class Sets {
  /** @type {Map<string, Promise<LoadedSet>>} */
  loaded = new Map();

  /** @param {URL} base address of the reading room @param {Outbox} outbox its events are not in the server's answers yet */
  constructor(base, outbox) {
    this.base = base;
    this.outbox = outbox;
  }

  /** Where the rater goes on. @returns {Promise<Next>} */
  next() {
    return getJson(new URL('api/next', this.base));
  }

  /**
   * A set with its pixels; a failed one is forgotten, so that it can be fetched again.
   * @param {string} token
   * @param {SetState} [state] where it is known already
   */
  load(token, state) {
    const found = this.loaded.get(token);
    if (found) return found;
    const promise = this.fetch(token, state);
    promise.catch(() => this.loaded.delete(token));
    this.loaded.set(token, promise);
    if (this.loaded.size > CACHED_SETS) this.loaded.delete([...this.loaded.keys()][0]);
    return promise;
  }

  /**
   * @param {string} token
   * @param {SetState} [given]
   * @returns {Promise<LoadedSet>} an error holds the `state` where that could be read
   */
  async fetch(token, given) {
    const url = (/** @type {string} */ rest) => new URL(`api/sets/${token}${rest}`, this.base);
    const state = given || /** @type {SetState} */ (await getJson(url('')));
    const { image, mask } = state;
    const images = LETTERS.map((letter) => getBytes(url(`/images/${letter}`)).then((buffer) => decodePixels(buffer, image)));
    /** @type {Outline[] | Promise<Outline[]>} */
    const masks = mask ? getBytes(url('/mask')).then((buffer) => outlinesOf(buffer, mask)) : [];
    const [pixels, outlines] = await Promise.all([Promise.all(images), masks]).catch((error) => {
      throw Object.assign(error, { state });
    });
    for (const event of this.outbox.pendingFor(token)) apply(state, event);
    return { state, pixels, outlines };
  }

  /** Fetch the next two sets in the background, and make their first picture, so that showing one only draws. @param {string | null} token */
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

  /** Give back the memory of all pictures but those of `tokens`; they are made again when needed. @param {(string | null)[]} tokens */
  slim(tokens) {
    for (const [token, promise] of this.loaded) {
      if (!tokens.includes(token)) promise.then(({ pixels }) => pixels.forEach((one) => { one.canvas = null; })).catch(() => {});
    }
  }
}

const idle = () => new Promise((resolve) => { (window.requestIdleCallback || setTimeout)(resolve); });

/** What an event does to the page's own copy of a set. @param {SetState} state @param {RatingEvent} event */
export function apply(state, event) {
  state.log.push(event);
  if (event.kind === 'score') state.scores[event.letter][event.criterion] = event.value;
  else if (event.kind === 'rank') state.ranks[event.letter][event.criterion] = event.value;
  else if (event.kind === 'flag') state.flags[event.letter][event.criterion] = event.value === 1;
  else if (event.kind === 'comment') state.comment = event.comment;
  else state.state = /** @type {const} */ ({ submit: 'submitted', skip: 'skipped', unskip: 'open' })[event.kind];
}

/** Skipped, or submitted with every score. @param {SetState} state */
export function finished(state) {
  return state.state === 'skipped' || (state.state === 'submitted' && !missing(state).length);
}

/** Rows of a set in the order of the keyboard: A text, A mask, B text, ... @param {SetState} state @returns {Row[]} */
export function rows(state) {
  return LETTERS.flatMap((letter) => state.criteria.map((criterion) => ({ letter, criterion })));
}

/** Rows without a score; 0 is a score. @param {SetState} state */
export function missing(state) {
  return rows(state).filter(({ letter, criterion }) => state.scores[letter][criterion] == null);
}
