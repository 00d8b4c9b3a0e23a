// The keyboard: every action of the page has a key; texts and dialogs keep theirs.

const IMAGES = { q: 'A', w: 'B', a: 'C', s: 'D' };

function scoreOf(event) {
  if (/^[0-5]$/.test(event.key)) return Number(event.key);
  const digit = /^Digit([0-5])$/.exec(event.code); // layouts whose digits need Shift
  return digit && event.key.length === 1 && !/[a-z0-9?]/i.test(event.key) && !event.shiftKey ? Number(digit[1]) : null;
}

function actions(page) {
  const { focused } = page;
  return {
    i: () => page.invert(), r: () => page.reset(), l: () => page.link(), f: () => page.large(), c: () => page.compare(),
    o: () => page.toggleOutline(), '[': () => page.fade(-0.1), ']': () => page.fade(0.1),
    '+': () => page.zoom(1.25), '=': () => page.zoom(1.25), '-': () => page.zoom(0.8),
    t: () => page.focus(focused.letter, 'text'), m: () => page.focus(focused.letter, 'mask'),
    x: () => page.flag(focused.letter, 'artifact'), u: () => page.flag(focused.letter, 'unrealistic'),
    home: () => page.pan(-0.1, 0), end: () => page.pan(0.1, 0), pageup: () => page.pan(0, -0.1), pagedown: () => page.pan(0, 0.1),
    k: () => page.skip(), n: () => page.comment(), z: () => page.undo(),
    backspace: () => page.previous(), enter: (event) => page.submit(event.timeStamp), '?': () => page.help(),
    escape: () => (page.flicker ? page.stopFlicker() : page.root.dataset.large !== undefined && page.large()),
    arrowleft: (event) => page.arrow(event.key), arrowright: (event) => page.arrow(event.key),
    arrowup: (event) => page.arrow(event.key), arrowdown: (event) => page.arrow(event.key),
    ...Object.fromEntries(Object.entries(IMAGES).map(([key, letter]) => [key, () => page.focus(letter)])),
  };
}

// Shift and arrows: window narrower and wider, level up and down.
const WINDOWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const ONCE = ['enter', 'backspace', 'k', 'n', 'z', 'x', 'u', 'f', 'c', 'i', 'o', 'l', 'e'];

// While a tie is asked about, letters answer it; the viewer's keys go on working.
function tieAction(ties, key) {
  if (IMAGES[key]) return () => ties.choose(IMAGES[key]);
  return { e: () => ties.equal(), enter: () => ties.skip(), escape: () => ties.cancel(), backspace: () => ties.cancel(), z: () => ties.cancel() }[key];
}

function actionOf(page, event) {
  const key = event.key.toLowerCase();
  if (event.shiftKey && WINDOWS[event.key]) return () => page.window(...WINDOWS[event.key]);
  if (page.ties.active) {
    const answer = tieAction(page.ties, key);
    if (answer) return answer;
    if (['k', 'n', 'x', 'u', 't', 'm'].includes(key)) return () => page.say('First the question below; Esc goes back to the scores');
  }
  return actions(page)[key];
}

export function bindKeys(page) {
  window.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector('dialog[open]')) return;
    const { target } = event;
    if (target instanceof HTMLTextAreaElement || (target instanceof HTMLInputElement && target.type !== 'radio')) return;
    const key = event.key.toLowerCase();
    const button = target instanceof HTMLButtonElement;
    if (button && (key === 'enter' || key === ' ')) return;
    if (button && target.closest('[role=toolbar]') && ['ArrowLeft', 'ArrowRight'].includes(event.key)) return;
    if (!page.set) {
      if (key === 'backspace') page.previous();
      else if (key === 'enter') page.root.querySelector('main button.main')?.click();
      else if (key === '?') page.help();
      return;
    }
    if (key === ' ') event.preventDefault(); // the focused strip stands for a row, not for its first score
    const value = scoreOf(event);
    if (value !== null) {
      event.preventDefault();
      if (event.repeat) return;
      if (page.ties.active) page.say('First the question below; Esc goes back to the scores');
      else page.score(page.focused.letter, page.focused.criterion, value, event.timeStamp);
      return;
    }
    const action = actionOf(page, event);
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.repeat && ONCE.includes(key)) return;
    action(event);
  }, true);
}
