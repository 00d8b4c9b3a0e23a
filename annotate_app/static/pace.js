// Time at work: per set (sent with each event) and since the last break. Long silences do not count as work.

const IDLE_MS = 30000;
const REST_MS = 5 * 60000; // who was away for so long has had a break
const KEY = 'radpref-pace';

function stored() {
  try {
    const found = JSON.parse(sessionStorage.getItem(KEY) ?? 'null');
    return found && Date.now() - found.at < REST_MS ? found : {};
  } catch {
    return {};
  }
}

export class Pace {
  /** When the set was shown, when the rater first and last did something, and the active time; milliseconds. */
  start = 0;
  first = 0;
  last = 0;
  active = 0;

  constructor() {
    const { work, sets } = stored(); // a reload is not a break
    this.work = Number(work) || 0;
    this.sets = Number(sets) || 0;
    this.shown();
  }

  /** A set is on the screen from now on. */
  shown(at = performance.now()) {
    Object.assign(this, { start: at, first: 0, active: 0, last: at });
  }

  /** The rater did something now. */
  touch() {
    const at = performance.now();
    const gap = at - this.last;
    this.first ||= at;
    if (gap > REST_MS) this.rested();
    this.active += Math.min(gap, IDLE_MS);
    this.work += Math.min(gap, IDLE_MS);
    this.last = at;
  }

  /** What is sent with an event, in milliseconds. */
  times() {
    this.touch();
    return { shown_ms: Math.round(this.last - this.start), first_ms: Math.round(this.first - this.start), active_ms: Math.round(this.active) };
  }

  /** A set was finished. */
  finished() {
    this.sets += 1;
    this.store();
  }

  /** Whether a break is due after so many minutes of work; 0 for never. @param {number} minutes */
  due(minutes) {
    return minutes > 0 && this.work >= minutes * 60000;
  }

  /** A break was taken. */
  rested() {
    this.work = 0;
    this.sets = 0;
    this.store();
  }

  store() {
    try {
      sessionStorage.setItem(KEY, JSON.stringify({ work: Math.round(this.work), sets: this.sets, at: Date.now() }));
    } catch {
      // without storage, a reload only starts the count again
    }
  }
}
