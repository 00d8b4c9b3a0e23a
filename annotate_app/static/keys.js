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
    k: () => page.skip(), n: () => page.comment(), z: () => page.undo(),
    backspace: () => page.previous(), enter: () => page.submit(), '?': () => page.help(),
    escape: () => (page.flicker ? page.stopFlicker() : page.root.dataset.large !== undefined && page.large()),
    arrowleft: (event) => page.arrow(event.key), arrowright: (event) => page.arrow(event.key),
    arrowup: (event) => page.arrow(event.key), arrowdown: (event) => page.arrow(event.key),
    ...Object.fromEntries(Object.entries(IMAGES).map(([key, letter]) => [key, () => page.focus(letter)])),
  };
}

export function bindKeys(page) {
  window.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector('dialog[open]')) return;
    const { target } = event;
    if (target instanceof HTMLTextAreaElement || (target instanceof HTMLInputElement && target.type !== 'radio')) return;
    if (!page.set) {
      if (event.key === 'Backspace') page.previous();
      return;
    }
    if (event.key === 'Enter' && target instanceof HTMLButtonElement) return;
    const value = scoreOf(event);
    if (value !== null) {
      event.preventDefault();
      if (!event.repeat) page.score(page.focused.letter, page.focused.criterion, value);
      return;
    }
    const action = actions(page)[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.repeat && ['enter', 'backspace', 'k', 'n', 'z', 'x', 'u'].includes(event.key.toLowerCase())) return;
    action(event);
  }, true);
}

