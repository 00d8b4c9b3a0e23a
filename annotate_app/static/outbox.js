// The outbox: every event is kept in this browser until the server has acknowledged it.
// One localStorage entry per event, opaque ids only. Sending is in order; the same event may be sent twice safely.

import { measure } from './timing.js';

const RETRY_MS = [1000, 2000, 4000, 8000, 10000];
const TIMEOUT_MS = 15000;

export function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // plain http off localhost has no randomUUID
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

export class Outbox {
  // on: { status(text, kind), stale(), login(), refused(message, token), acknowledged(token, answer) }
  constructor(base, on) {
    this.base = base;
    this.on = on;
    this.tab = uuid();
    this.items = [];
    this.stopped = false;
    this.failures = 0;
    this.counter = 0;
    this.trouble = '';
    this.waiting = [];
    window.addEventListener('online', () => this.drain());
  }

  // Take up what an earlier page of the same rater could not send.
  open(room) {
    this.prefix = `radpref:${room}:`;
    const known = new Set(this.items.map((item) => item.key));
    for (let index = 0; index < localStorage.length; index += 1) {
      const key = localStorage.key(index);
      if (!key.startsWith(this.prefix) || known.has(key)) continue;
      try {
        this.items.push({ key, old: true, ...JSON.parse(localStorage.getItem(key)) });
      } catch {
        localStorage.removeItem(key);
      }
    }
    this.items.sort((a, b) => (a.key < b.key ? -1 : 1));
    if (this.items.length) this.on.status(`Saving (${this.items.length})`, 'saving');
  }

  pendingFor(token) {
    return this.items.filter((item) => item.token === token).map((item) => item.body);
  }

  get size() {
    return this.items.length;
  }

  // A promise that nothing is left to send.
  emptied() {
    return this.items.length ? new Promise((resolve) => { this.waiting.push(resolve); }) : Promise.resolve();
  }

  add(token, seen, event) {
    this.counter += 1;
    const order = `${String(Date.now()).padStart(15, '0')}-${String(this.counter).padStart(6, '0')}`;
    const body = { ...event, uuid: uuid(), seen, tab: this.tab };
    const item = { key: `${this.prefix}${order}`, token, body };
    try {
      localStorage.setItem(item.key, JSON.stringify({ token, body }));
    } catch {
      // storage is full or closed: the event stays in memory
    }
    this.items.push(item);
    if (this.trouble) this.on.status(`${this.trouble} (${this.size})`, 'offline');
    this.drain();
  }

  drain() {
    clearTimeout(this.timer);
    if (!this.running) {
      this.running = this.run().finally(() => {
        this.running = null;
      });
    }
    return this.running;
  }

  async run() {
    while (this.items.length && !this.stopped) {
      if (!this.failures) this.on.status('Saving', 'saving');
      const item = this.items[0];
      const sent = performance.now();
      let response;
      try {
        response = await fetch(new URL(`api/sets/${item.token}/events`, this.base), {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify(item.body),
          signal: AbortSignal.timeout(TIMEOUT_MS),
        });
      } catch {
        this.later('Offline');
        return;
      }
      if (response.ok) measure('ack', sent);
      if (!(await this.settle(item, response))) return;
    }
    if (!this.items.length) {
      this.failures = 0;
      this.on.status('Saved', 'saved');
      for (const resolve of this.waiting.splice(0)) resolve();
    }
  }

  // True: go on with the next event.
  async settle(item, response) {
    const answer = (await response.json().catch((error) => ({ cut: !(error instanceof SyntaxError) }))) ?? {};
    if (response.ok ? !Number.isInteger(answer.version) : answer.cut) {
      this.later('Offline'); // cut off on its way, or not our server's (a guest network's login page): ask again
      return false;
    }
    const answered = response.status < 500 && ![401, 403, 429].includes(response.status);
    if (answered) {
      this.failures = 0;
      this.trouble = '';
    }
    if (response.ok) {
      this.drop(item);
      this.on.acknowledged(item.token, answer);
      return true;
    }
    if (response.status === 401) {
      this.on.status(`Signed out (${this.items.length} waiting)`, 'offline');
      this.on.login();
      return false;
    }
    if (response.status >= 500 || response.status === 429 || response.status === 403) {
      this.later({ 507: 'Server disk full', 503: 'Server busy', 429: 'Server busy' }[response.status] || 'Offline');
      return false;
    }
    if (response.status === 409 && answer.reason === 'stale' && !item.old) {
      this.stopped = true;
      this.on.status('Not saved: changed in another window', 'offline');
      this.on.stale(this.items.length);
      return false;
    }
    this.drop(item);
    this.on.refused(answer.error || `the server answered ${response.status}`, item.token);
    return true;
  }

  drop(item) {
    this.items = this.items.filter((other) => other !== item);
    try {
      localStorage.removeItem(item.key);
    } catch {
      // nothing to remove
    }
  }

  // Try again by and by; what is the matter stands beside the number of entries that wait.
  later(trouble) {
    this.trouble = trouble;
    this.on.status(`${trouble} (${this.size})`, 'offline');
    const wait = RETRY_MS[Math.min(this.failures, RETRY_MS.length - 1)];
    this.failures += 1;
    this.timer = setTimeout(() => this.drain(), wait);
  }
}
