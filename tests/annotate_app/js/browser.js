// A window for the modules of the pages (happy-dom), and a server that answers as a test wants. Import this first.

import { Window } from 'happy-dom';

const page = new Window({ url: 'http://localhost/read/' });
const names = ['window', 'document', 'localStorage', 'KeyboardEvent', 'HTMLElement', 'HTMLButtonElement', 'HTMLInputElement', 'HTMLTextAreaElement'];
for (const name of names) Object.defineProperty(globalThis, name, { value: page[/** @type {'window'} */ (name)], configurable: true });

/** @import { Letter, Mode, SetState } from '../../../annotate_app/static/types' */
/** @typedef {{url: string, body: {kind: string, value: number, uuid: string, seen: number, tab: string}}} Sent */

export const BASE = new URL('http://localhost/');

/** Let everything that is ready run. */
export const settled = async () => {
  for (let turn = 0; turn < 50; turn += 1) await Promise.resolve();
};

/**
 * Put a server in place of fetch.
 * @param {(sent: Sent, n: number) => Response | Promise<Response>} answer to the n-th request, from 0; may throw
 * @returns {Sent[]} what arrived, in order
 */
export function serve(answer) {
  /** @type {Sent[]} */
  const arrived = [];
  globalThis.fetch = async (url, options) => {
    const sent = { url: String(url), body: JSON.parse(String(options?.body)) };
    arrived.push(sent);
    return answer(sent, arrived.length - 1);
  };
  return arrived;
}

/** @param {object} content @param {number} [status] */
export const json = (content, status = 200) => new Response(JSON.stringify(content), { status });

/** An open set without any score. @param {Mode} mode @returns {SetState} */
export function openSet(mode) {
  /** @returns {Record<Letter, {}>} */
  const blank = () => ({ A: {}, B: {}, C: {}, D: {} });
  return {
    token: 'token', number: 1, mode, text: 'Normal', mask: null, image: { width: 8, height: 8, bits: 8 },
    criteria: mode === 'TM2I' ? ['text', 'mask'] : mode === 'T2I' ? ['text'] : ['mask'], anchors: {}, scores: blank(), ranks: blank(), flags: blank(),
    comment: '', state: 'open', log: [], version: 0, next: null, previous: null, training: false, tie_break: true, feedback: null,
  };
}
