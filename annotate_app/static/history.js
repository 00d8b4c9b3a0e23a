// Undo. The steps are read from the set's own events, so they are the same after a reload.

const place = ({ kind, letter, criterion }) => `${kind}/${letter ?? ''}/${criterion ?? ''}`;
const content = (event) => (event.kind === 'comment' ? event.comment || '' : event.kind === 'flag' ? event.value === 1 : event.value ?? null);

// Steps that can be taken back, oldest first; each is a list of events that restore what was there before.
export function steps(log) {
  const now = new Map();
  const found = [];
  let before = null; // the event before, when it may share a step with this one
  for (const event of log) {
    if (!['score', 'flag', 'comment', 'rank'].includes(event.kind)) {
      before = null;
      continue;
    }
    const key = place(event);
    const old = now.get(key) ?? { value: event.kind === 'flag' ? 0 : null, comment: '' };
    const unchanged = content({ ...old, kind: event.kind }) === content(event);
    const top = found[found.length - 1];
    const undone = top && top[top.length - 1];
    now.set(key, { value: event.value ?? null, comment: event.comment || '' });
    if (unchanged) continue;
    if (undone && place(undone) === key && content(undone) === content(event)) {
      top.pop(); // the rater took this one back
      if (!top.length) found.pop();
      before = null;
      continue;
    }
    const back = event.kind === 'comment' ? { kind: 'comment', comment: old.comment } : { kind: event.kind, letter: event.letter, criterion: event.criterion, value: old.value };
    if (together(before, event)) top.push(back);
    else found.push([back]);
    before = event;
  }
  return found;
}

// One answer to a tie is several ranks; a changed score takes its own rank away.
function together(before, event) {
  if (!before || event.kind !== 'rank' || before.criterion !== event.criterion) return false;
  return before.kind === 'rank' || (before.kind === 'score' && before.letter === event.letter);
}
