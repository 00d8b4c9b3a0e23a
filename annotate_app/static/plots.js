// Small charts as inline SVG, without any library. Each returns a <figure>: a title, what good looks like, the drawing
// with a text alternative, and the numbers as a table. Texts become text nodes only.

import { h, s } from './dom.js';

const WIDTH = 640;

export const fixed = (value, digits = 2) => (value === null || value === undefined ? '–' : Number(value).toFixed(digits).replace('-', '−'));
export const percent = (value) => (value === null || value === undefined ? '–' : `${(100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0)} %`);
const short = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

function label(x, y, text, options = {}) {
  const { anchor = 'start', kind = '', length = 200 } = options;
  const element = s('text', { x, y, 'text-anchor': anchor, class: `t ${kind}` }, short(text, length));
  if (text.length > length) element.append(s('title', {}, text));
  return element;
}

// A scale from numbers to pixels, with round ticks.
function scale(low, high, from, to) {
  const place = (value) => from + ((Math.min(high, Math.max(low, value)) - low) / (high - low)) * (to - from);
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k <= Math.floor(high / step + 1e-9); k += 1) ticks.push(k * step);
  return { place, ticks, low, high, digits: step < 0.1 ? 2 : step < 1 ? 1 : 0 };
}

function domainOf(values, least, symmetric) {
  const all = values.filter((value) => value !== null && value !== undefined);
  let [low, high] = [Math.min(least[0], ...all), Math.max(least[1], ...all)];
  if (symmetric) [low, high] = [-Math.max(-low, high), Math.max(-low, high)];
  return [low, high];
}

export function numbers(heads, lines) {
  return h('div', { class: 'scroll' }, h('table', {}, h('thead', {}, h('tr', {}, ...heads.map((head) => h('th', { scope: 'col' }, head)))),
    h('tbody', {}, ...lines.map((line) => h('tr', {}, ...line.map((cell) => h('td', {}, cell)))))));
}

// ``id`` keeps the table open over a refresh.
function figure({ id, title, good }, drawings, table, legend) {
  return h('figure', { 'data-testid': `plot-${id}` }, h('figcaption', {}, h('strong', {}, title), good ? h('span', {}, good) : null), legend || null,
    ...drawings, table ? h('details', { 'data-key': id }, h('summary', {}, 'Numbers'), table) : null);
}

const drawing = (width, height, text, ...children) => s('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': text }, ...children);

// Shapes tell kinds apart as well as colours: people are filled dots, simulated raters hollow squares.
function mark(x, y, kind) {
  if (kind === 'simulated') return s('rect', { x: x - 5, y: y - 5, width: 10, height: 10, class: 'mark hollow' });
  return s('circle', { cx: x, cy: y, r: 5, class: 'mark' });
}

// Dots with intervals. rows: {label, value, low, high, right, reason, chance}; references: [{value, text}].
export function forest(about, rows, options) {
  const { least, symmetric, axis, kind, references = [], format = fixed, rightHead = '', wideRight = 168, shade = null } = options;
  const [left, right, top, step] = [158, WIDTH - wideRight, 24, 25];
  const bottom = top + step * rows.length;
  const x = scale(...domainOf(rows.flatMap((row) => [row.low, row.high, row.value]), least, symmetric), left, right - 12);
  const parts = [];
  if (shade) parts.push(s('rect', { x: x.place(shade[0]), y: top, width: x.place(shade[1]) - x.place(shade[0]), height: bottom - top, class: 'shade' }));
  for (const tick of x.ticks) {
    parts.push(s('line', { x1: x.place(tick), x2: x.place(tick), y1: top, y2: bottom, class: 'grid' }));
    parts.push(label(x.place(tick), bottom + 17, format === percent ? percent(tick) : fixed(tick, x.digits), { anchor: 'middle', kind: 'soft' }));
  }
  for (const one of references) {
    parts.push(s('line', { x1: x.place(one.value), x2: x.place(one.value), y1: top - 3, y2: bottom, class: one.zero ? 'zero' : 'ref' }));
    if (one.text) parts.push(label(x.place(one.value), top - 8, one.text, { anchor: 'middle', kind: 'soft' }));
  }
  parts.push(label((left + right - 12) / 2, bottom + 36, axis, { anchor: 'middle', kind: 'axis' }), label(WIDTH, top - 8, rightHead, { anchor: 'end', kind: 'soft' }));
  rows.forEach((row, k) => {
    const y = top + step * (k + 0.5);
    parts.push(label(left - 12, y + 4.5, row.label, { anchor: 'end', length: 21 }));
    if (row.value === null || row.value === undefined) {
      parts.push(label(left + 6, y + 4.5, row.reason || 'not computable', { kind: 'soft halo', length: 62 }));
      return;
    }
    if (row.low !== null && row.low !== undefined) {
      parts.push(s('line', { x1: x.place(row.low), x2: x.place(row.high), y1: y, y2: y, class: 'ci' }));
      for (const end of [row.low, row.high]) parts.push(s('line', { x1: x.place(end), x2: x.place(end), y1: y - 4, y2: y + 4, class: 'ci thin' }));
    }
    if (row.chance !== null && row.chance !== undefined) {
      const at = x.place(row.chance);
      parts.push(s('path', { d: `M${at},${y - 6}l5,6l-5,6l-5,-6z`, class: 'chance' }));
    }
    parts.push(mark(x.place(row.value), y, kind), label(WIDTH, y + 4.5, row.right || '', { anchor: 'end', length: 34 }));
  });
  const said = (row) => (row.value === null || row.value === undefined ? row.reason || 'not computable'
    : `${format(row.value)}${row.low === null || row.low === undefined ? '' : ` (${format(row.low)} to ${format(row.high)})`}`);
  const text = `${about.title}. ${rows.map((row) => `${row.label}: ${said(row)}`).join('; ')}.`;
  const table = numbers(['', axis, '95 % interval', 'n'], rows.map((row) => [row.label, row.value === null || row.value === undefined ? row.reason || '–' : format(row.value),
    row.low === null || row.low === undefined ? '–' : `${format(row.low)} to ${format(row.high)}`, row.n === undefined ? '–' : String(row.n)]));
  return figure(about, [drawing(WIDTH, bottom + 44, text, ...parts)], table);
}

// Stacked bars. parts: [{name, of: (row) => number, class}]; each row also has label, right and total.
export function bars(about, rows, options) {
  const { parts, axis } = options;
  const [left, right, top, step] = [158, WIDTH - 176, 8, 27];
  const bottom = top + step * rows.length;
  const x = scale(0, Math.max(1, ...rows.map((row) => row.total)), left, right - 12);
  const shapes = x.ticks.filter((tick) => Number.isInteger(tick)).flatMap((tick) => [
    s('line', { x1: x.place(tick), x2: x.place(tick), y1: top, y2: bottom, class: 'grid' }),
    label(x.place(tick), bottom + 17, String(tick), { anchor: 'middle', kind: 'soft' })]);
  rows.forEach((row, k) => {
    const y = top + step * k + 6;
    let start = 0;
    shapes.push(label(left - 12, y + 12.5, row.label, { anchor: 'end', length: 21 }));
    shapes.push(s('rect', { x: left, y, width: Math.max(0, x.place(row.total) - left), height: 16, class: 'rest' }));
    for (const part of parts) {
      const n = part.of(row);
      if (n > 0) {
        shapes.push(s('rect', { x: x.place(start), y, width: Math.max(1.5, x.place(start + n) - x.place(start) - 1), height: 16, class: part.class }, s('title', {}, `${part.name}: ${n}`)));
        start += n;
      }
    }
    shapes.push(label(WIDTH, y + 12.5, row.right, { anchor: 'end', length: 30 }));
  });
  shapes.push(label((left + right - 12) / 2, bottom + 36, axis, { anchor: 'middle', kind: 'axis' }));
  const legend = parts.length < 2 ? null : h('p', { class: 'legend' }, ...parts.filter((part) => rows.some((row) => part.of(row) > 0)).map((part) => h('span', {}, swatch(part.class), part.name)), h('span', {}, swatch('rest'), 'left'));
  const text = `${about.title}. ${rows.map((row) => `${row.label}: ${row.right}`).join('; ')}.`;
  const table = numbers(['', ...parts.map((part) => part.name), 'all'], rows.map((row) => [row.label, ...parts.map((part) => String(part.of(row))), String(row.total)]));
  return figure(about, [drawing(WIDTH, bottom + 44, text, ...shapes)], table, legend);
}

function swatch(kind) {
  return s('svg', { viewBox: '0 0 14 14', width: 14, height: 14, 'aria-hidden': 'true' }, s('rect', { width: 14, height: 14, class: kind }));
}

// Several small panels with one shared scale. panels: [{label, text, notes: [line], draw(box) -> shapes} or {label, reason}].
export function panels(about, list, options) {
  const { y, axisX, axisY, table, legend, zero = true, ticks = y.ticks } = options;
  const [width, height, left, top] = [206, 196, 40, 26];
  const drawn = list.map((panel) => {
    const shapes = [label(left, 14, panel.label, { kind: 'name', length: 23 })];
    if (panel.reason) {
      shapes.push(...wrap(panel.reason, 24).map((line, k) => label(left, 60 + 18 * k, line, { kind: 'soft' })));
    } else {
      const box = { left, right: width - 6, top, bottom: 128, y: (value) => y.place(value) };
      for (const tick of ticks) {
        shapes.push(s('line', { x1: box.left, x2: box.right, y1: y.place(tick), y2: y.place(tick), class: zero && Math.abs(tick) < 1e-9 ? 'zero' : 'grid' }));
        shapes.push(label(left - 5, y.place(tick) + 4, options.tickText ? options.tickText(tick) : fixed(tick, y.digits), { anchor: 'end', kind: 'soft' }));
      }
      shapes.push(...panel.draw(box), label((box.left + box.right) / 2, 159, axisX, { anchor: 'middle', kind: 'axis' }));
      panel.notes.forEach((note, k) => shapes.push(label((box.left + box.right) / 2, 177 + 14 * k, note, { anchor: 'middle', length: 32 })));
    }
    return drawing(width, height, `${about.title}. ${panel.label}: ${panel.reason || panel.text}`, ...shapes);
  });
  const grid = h('div', { class: 'panels' }, ...drawn);
  return figure(about, [h('p', { class: 'axis-y' }, axisY), grid], table, legend);
}

export const panelScale = (values, least, symmetric) => scale(...domainOf(values, least, symmetric), 128, 26);

function wrap(text, length) {
  const lines = [''];
  for (const word of text.split(' ')) {
    if (lines.at(-1) && lines.at(-1).length + word.length + 1 > length) lines.push(word);
    else lines.push(`${lines.pop()} ${word}`.trim());
  }
  return lines;
}

// Shapes for the panels.
export function dotsInPanel(box, values, names, kind) {
  const step = (box.right - box.left) / values.length;
  return values.flatMap((one, k) => {
    const x = box.left + step * (k + 0.5);
    return [s('line', { x1: x, x2: x, y1: box.y(one.low), y2: box.y(one.high), class: 'ci' }), mark(x, box.y(one.value), kind),
      label(x, box.bottom + 15, names[k], { anchor: 'middle', kind: 'soft' })];
  });
}

export function lineInPanel(box, points, last, extra) {
  const x = (value) => box.left + ((value - 1) / Math.max(1, last - 1)) * (box.right - box.left);
  const path = (list) => list.map((point, k) => `${k ? 'L' : 'M'}${x(point[0]).toFixed(1)},${box.y(point[1]).toFixed(1)}`).join('');
  return [s('path', { d: path(extra), class: 'trend' }), s('path', { d: path(points), class: 'line' }),
    label(box.left, box.bottom + 15, '1', { kind: 'soft' }), label(box.right, box.bottom + 15, String(last), { anchor: 'end', kind: 'soft' })];
}

export function barsInPanel(box, groups, names) {
  const step = (box.right - box.left) / names.length;
  const wide = (step - 5) / groups.length;
  const shapes = names.map((name, k) => label(box.left + step * (k + 0.5), box.bottom + 15, name, { anchor: 'middle', kind: 'soft' }));
  groups.forEach((group, g) => group.values.forEach((value, k) => {
    const y = box.y(value);
    shapes.push(s('rect', { x: box.left + step * k + 2.5 + wide * g, y, width: Math.max(1, wide - 1), height: Math.max(0, box.bottom - y), class: group.class }));
  }));
  return shapes;
}
