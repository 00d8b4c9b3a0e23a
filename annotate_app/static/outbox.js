// The outbox: every event is kept in this browser until the server has acknowledged it.
// One localStorage entry per event, opaque ids only. Sending is in order; the same event may be sent twice safely.

import { measure } from './timing.js';

/** @import { ScoringPage } from './scoring.js' */
/** @import { RatingEvent, Waiting } from './types' */

const RETRY_MS = [1000, 2000, 4000, 8000, 10000];
const TIMEOUT_MS = 15000;

/** A random (version 4) UUID. Plain http off localhost has no crypto.randomUUID. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

export class Outbox {
  /** @type {Waiting[]} unsent events, oldest first */
  items = [];
  prefix = ''; // of this rater's entries in the storage; empty until open()
  tab = uuid();
  stopped = false;
  failures = 0;
  counter = 0;
  trouble = ''; // why the last try failed
  /** @type {(() => void)[]} */
  whenEmpty = [];
  /** @type {Promise<void> | null} */
  running = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  timer = undefined;

  /** @param {ScoringPage} page */
  constructor(page) {
    this.page = page;
    window.addEventListener('online', () => this.drain());
  }

  /** Take up what an earlier page of the same rater could not send. @param {string} room names rater and study */
  open(room) {
    this.prefix = `radpref:${room}:`;
    const known = new Set(this.items.map((item) => item.key));
    for (const key of Object.keys(localStorage)) {
      if (!key.startsWith(this.prefix) || known.has(key)) continue;
      try {
        this.items.push({ key, old: true, ...JSON.parse(localStorage.getItem(key) ?? '') });
      } catch {
        localStorage.removeItem(key);
      }
    }
    this.items.sort((a, b) => (a.key < b.key ? -1 : 1));
    if (this.items.length) this.page.frame.status(`Saving (${this.size})`, 'saving');
  }

  /** @param {string} token */
  pendingFor(token) {
    return this.items.filter((item) => item.token === token).map((item) => item.body);
  }

  get size() {
    return this.items.length;
  }

  /** @returns {Promise<void>} resolved when nothing is left to send */
  emptied() {
    return new Promise((resolve) => {
      if (this.items.length) this.whenEmpty.push(resolve);
      else resolve();
    });
  }

  /**
   * Keep an event and send it.
   * @param {string} token of the set
   * @param {number} seen version of the set that the page knew
   * @param {RatingEvent & {client: object}} event
   */
  add(token, seen, event) {
    this.counter += 1;
    const order = `${String(Date.now()).padStart(15, '0')}-${String(this.counter).padStart(6, '0')}`;
    const item = { key: `${this.prefix}${order}`, token, body: { ...event, uuid: uuid(), seen, tab: this.tab } };
    try {
      localStorage.setItem(item.key, JSON.stringify({ token, body: item.body }));
    } catch {
      // storage is full or closed: the event stays in memory
    }
    this.items.push(item);
    if (this.trouble) this.page.frame.status(`${this.trouble} (${this.size})`, 'offline');
    this.drain();
  }

  /** Send what waits, now. */
  drain() {
    clearTimeout(this.timer);
    this.running ??= this.run().finally(() => { this.running = null; });
    return this.running;
  }

  async run() {
    while (this.items.length && !this.stopped) {
      if (!this.failures) this.page.frame.status('Saving', 'saving');
      const [item] = this.items;
      const sent = performance.now();
      let response;
      try {
        response = await fetch(new URL(`api/sets/${item.token}/events`, this.page.base), {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify(item.body),
          signal: AbortSignal.timeout(TIMEOUT_MS),
        });
      } catch {
        this.retry('Offline');
        return;
      }
      if (response.ok) measure('ack', sent);
      if (!(await this.settle(item, response))) return;
    }
    if (this.items.length) return;
    this.failures = 0;
    this.page.frame.status('Saved', 'saved');
    for (const resolve of this.whenEmpty.splice(0)) resolve();
  }

  /** Whether to go on with the next event. @param {Waiting} item @param {Response} response */
  async settle(item, response) {
    const answer = (await response.json().catch((error) => ({ cut: !(error instanceof SyntaxError) }))) ?? {};
    if (response.ok ? !Number.isInteger(answer.version) : answer.cut) {
      this.retry('Offline'); // cut off on its way, or not from our server (a guest network's login page)
      return false;
    }
    if (response.status === 401) {
      this.page.frame.status(`Signed out (${this.size} waiting)`, 'offline');
      this.page.connection.login(); // drains the outbox when it is done
      return false;
    }
    if (response.status >= 500 || response.status === 429 || response.status === 403) {
      this.retry(response.status === 507 ? 'Server disk full' : [503, 429].includes(response.status) ? 'Server busy' : 'Offline');
      return false;
    }
    this.failures = 0;
    this.trouble = '';
    if (response.status === 409 && answer.reason === 'stale' && !item.old) {
      this.stopped = true;
      this.page.frame.status('Not saved: changed in another window', 'offline');
      this.page.stop('This set was changed in another window. Reload to see what is stored.');
      return false;
    }
    this.drop(item);
    if (response.ok) this.page.acknowledged(item.token, answer);
    else this.page.refused(answer.error || `the server answered ${response.status}`, item.token);
    return true;
  }

  /** @param {Waiting} item */
  drop(item) {
    this.items = this.items.filter((other) => other !== item);
    try {
      localStorage.removeItem(item.key);
    } catch {
      // nothing to remove
    }
  }

  /** Send again after a wait that grows with every failure. @param {string} trouble shown beside the number of unsent entries */
  retry(trouble) {
    this.trouble = trouble;
    this.page.frame.status(`${trouble} (${this.size})`, 'offline');
    const wait = RETRY_MS[Math.min(this.failures, RETRY_MS.length - 1)];
    this.failures += 1;
    this.timer = setTimeout(() => this.drain(), wait);
  }
}
