// Nothing that was scored is lost: order, retries, reloads, refusals.

import './browser.js';

import assert from 'node:assert/strict';
import { beforeEach, mock, test } from 'node:test';

import { Outbox, uuid } from '../../../annotate_app/static/outbox.js';
import { BASE, json, serve, settled } from './browser.js';

/** @import { ScoringPage } from '../../../annotate_app/static/scoring.js' */
/** @import { RatingEvent } from '../../../annotate_app/static/types' */

/** @type {unknown[][]} what the outbox reported, status lines aside */
let reports;
/** @type {string[]} */
let lines;

beforeEach(() => {
  localStorage.clear();
  mock.timers.reset();
  mock.timers.enable({ apis: ['setTimeout', 'Date'], now: 1_700_000_000_000 });
  [reports, lines] = [[], []];
});

/** A page's outbox, opened. */
function opened(room = 'study-ann') {
  const note = (/** @type {string} */ name) => (/** @type {unknown[]} */ ...given) => { reports.push([name, ...given]); };
  const page = {
    base: BASE, frame: { status: (/** @type {string} */ text) => { lines.push(text); } }, connection: { login: note('login') },
    stop: () => note('stale')(), refused: note('refused'), acknowledged: note('acknowledged'),
  };
  const outbox = new Outbox(/** @type {ScoringPage} */ (/** @type {unknown} */ (page)));
  outbox.open(room);
  return outbox;
}

/** @param {number} value @returns {RatingEvent & {client: object}} */
const score = (value) => ({ kind: 'score', letter: 'A', criterion: 'text', value, client: {} });
const offline = () => { throw new TypeError('offline'); };

test('events arrive one after the other, in the order of the keys', async () => {
  /** @type {(() => void)[]} */
  const held = [];
  const arrived = serve(() => new Promise((resolve) => { held.push(() => resolve(json({ version: 1 }))); }));
  const outbox = opened();
  for (const value of [3, 0, 5]) outbox.add('set-1', 0, score(value));
  await settled();
  assert.equal(arrived.length, 1, 'the second waits for the answer to the first');
  for (let n = 0; n < 3; n += 1) {
    held[n]();
    await settled();
  }
  assert.deepEqual(arrived.map(({ body }) => body.value), [3, 0, 5]);
  assert.equal(arrived[0].url, 'http://localhost/api/sets/set-1/events');
  assert.equal(new Set(arrived.map(({ body }) => body.uuid)).size, 3);
  assert.equal(localStorage.length, 0);
  assert.equal(lines.at(-1), 'Saved');
});

test('a failed request is sent again with the same uuid, at growing intervals of at most ten seconds', async () => {
  const arrived = serve((_, n) => (n < 6 ? offline() : json({ version: 1 })));
  const outbox = opened();
  outbox.add('set-1', 0, score(4));
  await settled();
  for (const [n, wait] of [1000, 2000, 4000, 8000, 10000, 10000].entries()) {
    assert.equal(lines.at(-1), 'Offline (1)');
    mock.timers.tick(wait - 1);
    await settled();
    assert.equal(arrived.length, n + 1, `nothing is sent before ${wait} ms`);
    mock.timers.tick(1);
    await settled();
    assert.equal(arrived.length, n + 2);
  }
  assert.equal(new Set(arrived.map(({ body }) => body.uuid)).size, 1);
  assert.equal(lines.at(-1), 'Saved');
  assert.equal(outbox.size, 0);
});

test('a reload loses nothing and keeps the order, also within one millisecond and over ten entries', async () => {
  serve(offline);
  const before = opened();
  const values = Array.from({ length: 12 }, (_, n) => n % 6);
  for (const value of values) before.add('set-1', 0, score(value));
  await settled();
  assert.equal(localStorage.length, 12);
  mock.timers.reset(); // the old page is gone, and its timer with it

  const arrived = serve((_, n) => json({ version: n + 1 }));
  const after = opened();
  assert.deepEqual(after.pendingFor('set-1').map((body) => 'value' in body && body.value), values);
  assert.deepEqual(after.pendingFor('set-2'), []);
  await after.drain();
  assert.deepEqual(arrived.map(({ body }) => body.value), values);
  assert.notEqual(after.tab, arrived[0].body.tab, 'an entry keeps the window that it was made in');
  assert.equal(localStorage.length, 0);
});

test("another rater's entries stay where they are", async () => {
  serve(offline);
  opened('study-ann').add('set-1', 0, score(2));
  await settled();
  const arrived = serve(() => json({ version: 1 }));
  const bob = opened('study-bob');
  assert.equal(bob.size, 0);
  await bob.drain();
  assert.equal(arrived.length, 0);
  assert.equal(localStorage.length, 1);
});

test('an unreadable entry is dropped and the others are sent', async () => {
  localStorage.setItem('radpref:study-ann:000-1', '{"token": "set');
  localStorage.setItem('radpref:study-ann:000-2', JSON.stringify({ token: 'set-1', body: { value: 1 } }));
  const arrived = serve(() => json({ version: 1 }));
  await opened().drain();
  assert.deepEqual(arrived.map(({ body }) => body.value), [1]);
  assert.equal(localStorage.length, 0);
});

test('a full storage keeps events in memory', async () => {
  const full = mock.method(Object.getPrototypeOf(localStorage), 'setItem', () => { throw new Error('QuotaExceededError'); });
  const arrived = serve(() => json({ version: 1 }));
  const outbox = opened();
  outbox.add('set-1', 0, score(5));
  await outbox.emptied();
  full.mock.restore();
  assert.deepEqual(arrived.map(({ body }) => body.value), [5]);
});

for (const [name, answer, line] of /** @type {[string, () => Response, string][]} */ ([
  ['503', () => json({ error: 'busy' }, 503), 'Server busy (1)'],
  ['429', () => json({ error: 'too many' }, 429), 'Server busy (1)'],
  ['507', () => json({ error: 'full' }, 507), 'Server disk full (1)'],
  ['500', () => json({ error: 'bug' }, 500), 'Offline (1)'],
  ['403', () => json({ error: 'not now' }, 403), 'Offline (1)'],
  ["a guest network's page", () => new Response('<html>log in</html>'), 'Offline (1)'],
  ['an answer without a version', () => json({ welcome: true }), 'Offline (1)'],
])) {
  test(`${name}: the event stays and is sent again`, async () => {
    const arrived = serve((_, n) => (n ? json({ version: 1 }) : answer()));
    const outbox = opened();
    outbox.add('set-1', 0, score(1));
    await settled();
    assert.equal(lines.at(-1), line);
    assert.equal(localStorage.length, 1);
    mock.timers.tick(1000);
    await settled();
    assert.equal(arrived[0].body.uuid, arrived[1].body.uuid);
    assert.equal(outbox.size, 0);
    assert.deepEqual(reports.map(([what]) => what), ['acknowledged']);
  });
}

test('an ended session keeps everything until somebody has logged in', async () => {
  const arrived = serve((_, n) => (n ? json({ version: 1 }) : json({ error: 'log in again' }, 401)));
  const outbox = opened();
  outbox.add('set-1', 0, score(1));
  await settled();
  assert.deepEqual(reports, [['login']]);
  mock.timers.tick(60_000);
  await settled();
  assert.equal(arrived.length, 1, 'nothing is sent without a session');
  await outbox.drain();
  assert.equal(outbox.size, 0);
});

test('a refused event is dropped and reported, and the next one goes on', async () => {
  serve((_, n) => (n ? json({ version: 1 }) : json({ error: 'not usable' }, 422)));
  const outbox = opened();
  outbox.add('set-1', 0, score(1));
  outbox.add('set-2', 0, score(2));
  await outbox.emptied();
  assert.deepEqual(reports, [['refused', 'not usable', 'set-1'], ['acknowledged', 'set-2', { version: 1 }]]);
});

test('a set that was changed in another window stops the sending and drops nothing', async () => {
  const arrived = serve(() => json({ error: 'stale', reason: 'stale' }, 409));
  const outbox = opened();
  outbox.add('set-1', 0, score(1));
  outbox.add('set-1', 0, score(2));
  await settled();
  await outbox.drain();
  assert.deepEqual(reports, [['stale']]);
  assert.equal(arrived.length, 1);
  assert.equal(localStorage.length, 2);
});

test('what an earlier page left and is stale by now is refused, not in the way', async () => {
  serve(offline);
  opened().add('set-1', 0, score(1));
  await settled();
  mock.timers.reset();
  serve(() => json({ error: 'changed since', reason: 'stale' }, 409));
  await opened().drain();
  assert.deepEqual(reports, [['refused', 'changed since', 'set-1']]);
  assert.equal(localStorage.length, 0);
});

test('a uuid is one of version 4', () => {
  assert.match(uuid(), /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
});
