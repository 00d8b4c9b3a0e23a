// Undo. The steps are read from the set's own events, so they are the same after a reload.

/** @import { LoggedEvent, RatingEvent } from './types' */

/** @param {LoggedEvent} event what it changes */
const target = ({ kind, letter, criterion }) => `${kind}/${letter ?? ''}/${criterion ?? ''}`;
/** @param {LoggedEvent} event what it changes that to */
const content = (event) => (event.kind === 'comment' ? event.comment || '' : event.kind === 'flag' ? event.value === 1 : event.value ?? null);

/**
 * Steps that can be taken back, oldest first; each is a list of events that restore what was there before.
 * @param {LoggedEvent[]} log all events of a set, oldest first
 */
export function steps(log) {
  /** @type {Map<string, LoggedEvent>} */
  const now = new Map();
  /** @type {RatingEvent[][]} */
  const found = [];
  /** @type {LoggedEvent | null} */
  let before = null; // the event before, when it may share a step with this one
  for (const event of log) {
    const { kind, letter, criterion } = event;
    if (!['score', 'flag', 'comment', 'rank'].includes(kind)) {
      before = null;
      continue;
    }
    const key = target(event);
    const old = now.get(key) ?? { kind, value: kind === 'flag' ? 0 : null };
    now.set(key, event);
    if (content(old) === content(event)) continue;
    const top = found.at(-1);
    const undone = top?.at(-1);
    if (top && undone && target(undone) === key && content(undone) === content(event)) {
      top.pop(); // the rater took this one back
      if (!top.length) found.pop();
      before = null;
      continue;
    }
    const back = /** @type {RatingEvent} */ (kind === 'comment' ? { kind, comment: old.comment || '' } : { kind, letter, criterion, value: old.value ?? null });
    if (top && together(before, event)) top.push(back);
    else found.push([back]);
    before = event;
  }
  return found;
}

/**
 * One answer to a tie is several ranks; a changed score takes its own rank away.
 * @param {LoggedEvent | null} before
 * @param {LoggedEvent} event
 */
function together(before, event) {
  if (!before || event.kind !== 'rank' || before.criterion !== event.criterion) return false;
  return before.kind === 'rank' || (before.kind === 'score' && before.letter === event.letter && event.value == null);
}
