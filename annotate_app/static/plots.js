// Small charts as inline SVG, without any library. Each returns a <figure>: a title, what good looks like, the drawing
// with a text alternative, and the numbers as a table.

import { h, s } from './dom.js';

/** @import { Child } from './dom.js' */
/** @import { Interval, Kind } from './types' */
/** @typedef {{id: string, title: string, good: string}} About its id keeps the table open over a refresh */
/** @typedef {{label: string, value?: number | null, low?: number | null, high?: number | null, right?: string, reason?: string | null, chance?: number | null, n?: number}} ForestRow */
/** @typedef {{value: number, text?: string, zero?: boolean}} Reference a vertical line */
/** @typedef {ReturnType<typeof scaleOf>} Scale */
/** @typedef {{left: number, right: number, bottom: number, y: (value: number) => number}} Box of a panel, pixels */
/** @typedef {{label: string, reason?: string | null, text: string, notes: string[], draw: (box: Box) => SVGElement[]}} SmallPanel a reason takes the place of the drawing */

const WIDTH = 640;
export const CI_COLUMN = { head: '95 % CI over sets, n', width: 214 };

/** @param {number | null | undefined} value */
export const fixed = (value, digits = 2) => (value == null ? '–' : value.toFixed(digits).replace('-', '−'));
/** A share as "7.5 %" under a tenth, else as "75 %". @param {number | null | undefined} value */
export const percent = (value) => (value == null ? '–' : `${(100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0)} %`);
/** @param {string} text @param {number} length */
const short = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

/** A text; what is longer than `length` characters is a tooltip. @param {number} x @param {number} y @param {string} text */
function label(x, y, text, { anchor = 'start', kind = '', length = 200 } = {}) {
  return s('text', { x, y, 'text-anchor': anchor, class: `t ${kind}` }, short(text, length), text.length > length ? s('title', {}, text) : null);
}

/** @param {number} x1 @param {number} x2 @param {number} y1 @param {number} y2 @param {string} kind */
const line = (x1, x2, y1, y2, kind) => s('line', { x1, x2, y1, y2, class: kind });

/** From numbers to pixels, with round ticks. @param {[number, number]} domain @param {number} from @param {number} to */
function scaleOf([low, high], from, to) {
  const place = (/** @type {number} */ value) => from + ((Math.min(high, Math.max(low, value)) - low) / (high - low)) * (to - from);
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 2.5, 5].find((one) => one * power >= rough * 0.999) ?? 10) * power;
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k <= Math.floor(high / step + 1e-9); k += 1) ticks.push(k * step);
  return { place, ticks, digits: step < 0.1 ? 2 : step < 1 ? 1 : 0 };
}

/** @param {(number | null | undefined)[]} values @param {[number, number]} least the domain covers it @param {boolean} [symmetric] about 0 @returns {[number, number]} */
function domainOf(values, least, symmetric) {
  const all = values.filter((value) => value != null);
  const [low, high] = [Math.min(least[0], ...all), Math.max(least[1], ...all)];
  return symmetric ? [-Math.max(-low, high), Math.max(-low, high)] : [low, high];
}

/** A table. @param {string[]} heads @param {Child[][]} lines */
export function numbers(heads, lines) {
  return h('div', { class: 'scroll' }, h('table', {}, h('thead', {}, h('tr', {}, ...heads.map((head) => h('th', { scope: 'col' }, head)))),
    h('tbody', {}, ...lines.map((cells) => h('tr', {}, ...cells.map((cell) => h('td', {}, cell)))))));
}

/** @param {About} about @param {Element[]} drawings @param {Element} table @param {Element | null} [legend] */
function figure({ id, title, good }, drawings, table, legend) {
  return h('figure', { 'data-testid': `plot-${id}` }, h('figcaption', {}, h('strong', {}, title), h('span', {}, good)), legend,
    ...drawings, h('details', { 'data-key': id }, h('summary', {}, 'Numbers'), table));
}

/** @param {number} width @param {number} height @param {string} text the alternative @param {Child[]} children */
const drawing = (width, height, text, ...children) => s('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': text }, ...children);

/** Shapes tell kinds apart as well as colours: people are filled dots, simulated raters hollow squares. @param {number} x @param {number} y @param {Kind} kind */
function mark(x, y, kind) {
  if (kind === 'simulated') return s('rect', { x: x - 5, y: y - 5, width: 10, height: 10, class: 'mark hollow' });
  return s('circle', { cx: x, cy: y, r: 5, class: 'mark' });
}

/** One row's dot with its interval. @param {ForestRow} row @param {number} y @param {number} left @param {Scale} x @param {Kind} kind */
function forestMarks({ value, low, high, chance, right = '', reason }, y, left, x, kind) {
  if (value == null) return [label(left + 6, y + 4.5, reason || 'not computable', { kind: 'soft halo', length: 62 })];
  const parts = [];
  if (low != null && high != null) {
    parts.push(line(x.place(low), x.place(high), y, y, 'ci'));
    for (const end of [low, high]) parts.push(line(x.place(end), x.place(end), y - 4, y + 4, 'ci thin'));
  }
  if (chance != null) parts.push(s('path', { d: `M${x.place(chance)},${y - 6}l5,6l-5,6l-5,-6z`, class: 'chance' }));
  return [...parts, mark(x.place(value), y, kind), label(WIDTH, y + 4.5, right, { anchor: 'end', length: 34 })];
}

/**
 * Dots with intervals.
 * @param {About} about
 * @param {ForestRow[]} rows
 * @param {{least: [number, number], symmetric?: boolean, axis: string, kind: Kind, references?: Reference[], format?: (value: number) => string, column?: {head: string, width: number}}} options column: of each row's `right`
 */
export function forest(about, rows, { least, symmetric, axis, kind, references = [], format = fixed, column = { head: '', width: 168 } }) {
  const [left, right, top, step] = [158, WIDTH - column.width, 24, 25];
  const bottom = top + step * rows.length;
  const x = scaleOf(domainOf(rows.flatMap((row) => [row.low, row.high, row.value]), least, symmetric), left, right - 12);
  const soft = /** @type {const} */ ({ anchor: 'middle', kind: 'soft' });
  /** @type {SVGElement[]} */
  const parts = x.ticks.flatMap((tick) => [line(x.place(tick), x.place(tick), top, bottom, 'grid'),
    label(x.place(tick), bottom + 17, format === percent ? percent(tick) : fixed(tick, x.digits), soft)]);
  for (const { value, zero, text } of references) {
    parts.push(line(x.place(value), x.place(value), top - 3, bottom, zero ? 'zero' : 'ref'));
    if (text) parts.push(label(x.place(value), top - 8, text, soft));
  }
  parts.push(label((left + right - 12) / 2, bottom + 36, axis, { anchor: 'middle', kind: 'axis' }), label(WIDTH, top - 8, column.head, { anchor: 'end', kind: 'soft' }));
  rows.forEach((row, k) => {
    const y = top + step * (k + 0.5);
    parts.push(label(left - 12, y + 4.5, row.label, { anchor: 'end', length: 21 }), ...forestMarks(row, y, left, x, kind));
  });
  const interval = (/** @type {ForestRow} */ { low, high }) => (low == null || high == null ? '' : `${format(low)} to ${format(high)}`);
  const said = rows.map((row) => `${row.label}: ${row.value == null ? row.reason || 'not computable' : `${format(row.value)}${interval(row) && ` (${interval(row)})`}`}`);
  const table = numbers(['', axis, '95 % interval', 'n'], rows.map((row) => [row.label, row.value == null ? row.reason || '–' : format(row.value),
    interval(row) || '–', String(row.n ?? '–')]));
  return figure(about, [drawing(WIDTH, bottom + 44, `${about.title}. ${said.join('; ')}.`, ...parts)], table);
}

/**
 * Stacked bars.
 * @template {{label: string, right: string, total: number}} Row
 * @param {About} about
 * @param {Row[]} rows
 * @param {{parts: {name: string, kind: string, of: (row: Row) => number}[], axis: string}} options
 */
export function bars(about, rows, { parts, axis }) {
  const [left, right, top, step] = [158, WIDTH - 176, 8, 27];
  const bottom = top + step * rows.length;
  const x = scaleOf([0, Math.max(1, ...rows.map((row) => row.total))], left, right - 12);
  /** @type {SVGElement[]} */
  const shapes = x.ticks.filter((tick) => Number.isInteger(tick)).flatMap((tick) => [
    line(x.place(tick), x.place(tick), top, bottom, 'grid'), label(x.place(tick), bottom + 17, String(tick), { anchor: 'middle', kind: 'soft' })]);
  rows.forEach((row, k) => {
    const y = top + step * k + 6;
    let start = 0;
    shapes.push(label(left - 12, y + 12.5, row.label, { anchor: 'end', length: 21 }));
    shapes.push(s('rect', { x: left, y, width: Math.max(0, x.place(row.total) - left), height: 16, class: 'rest' }));
    for (const { name, kind, of } of parts) {
      const n = of(row);
      if (n <= 0) continue;
      shapes.push(s('rect', { x: x.place(start), y, width: Math.max(1.5, x.place(start + n) - x.place(start) - 1), height: 16, class: kind }, s('title', {}, `${name}: ${n}`)));
      start += n;
    }
    shapes.push(label(WIDTH, y + 12.5, row.right, { anchor: 'end', length: 30 }));
  });
  shapes.push(label((left + right - 12) / 2, bottom + 36, axis, { anchor: 'middle', kind: 'axis' }));
  const legend = parts.length < 2 ? null : h('p', { class: 'legend' },
    ...[...parts.filter(({ of }) => rows.some((row) => of(row) > 0)), { name: 'left', kind: 'rest' }].map(({ name, kind }) => h('span', {}, swatch(kind), name)));
  const text = `${about.title}. ${rows.map((row) => `${row.label}: ${row.right}`).join('; ')}.`;
  const table = numbers(['', ...parts.map(({ name }) => name), 'all'], rows.map((row) => [row.label, ...parts.map(({ of }) => String(of(row))), String(row.total)]));
  return figure(about, [drawing(WIDTH, bottom + 44, text, ...shapes)], table, legend);
}

/** @param {string} kind */
export const swatch = (kind) => s('svg', { viewBox: '0 0 14 14', width: 14, height: 14, 'aria-hidden': 'true' }, s('rect', { width: 14, height: 14, class: kind }));

/**
 * Several small panels with one shared scale.
 * @param {About} about
 * @param {SmallPanel[]} list
 * @param {{y: Scale, axisX: string, axisY: string, table: Element, legend?: Element, zero?: boolean, tickText?: (tick: number) => string}} options zero: mark the line of 0
 */
export function panels(about, list, { y, axisX, axisY, table, legend, zero = true, tickText = (tick) => fixed(tick, y.digits) }) {
  const [width, height] = [206, 196];
  const box = { left: 40, right: width - 6, bottom: 128, y: y.place };
  const middle = (box.left + box.right) / 2;
  const axes = () => y.ticks.flatMap((tick) => [line(box.left, box.right, y.place(tick), y.place(tick), zero && Math.abs(tick) < 1e-9 ? 'zero' : 'grid'),
    label(box.left - 5, y.place(tick) + 4, tickText(tick), { anchor: 'end', kind: 'soft' })]);
  const drawn = list.map(({ label: name, reason, text, notes, draw }) => drawing(width, height, `${about.title}. ${name}: ${reason || text}`,
    label(box.left, 14, name, { kind: 'name', length: 23 }),
    ...(reason ? wrap(reason, 24).map((words, k) => label(box.left, 60 + 18 * k, words, { kind: 'soft' }))
      : [...axes(), ...draw(box), label(middle, 159, axisX, { anchor: 'middle', kind: 'axis' }),
        ...notes.map((note, k) => label(middle, 177 + 14 * k, note, { anchor: 'middle', length: 32 }))])));
  return figure(about, [h('p', { class: 'axis-y' }, axisY), h('div', { class: 'panels' }, ...drawn)], table, legend);
}

/** The vertical scale of the panels. @param {number[]} values @param {[number, number]} least @param {boolean} [symmetric] */
export const panelScale = (values, least, symmetric) => scaleOf(domainOf(values, least, symmetric), 128, 26);

/** Lines of at most so many characters. @param {string} text @param {number} length */
function wrap(text, length) {
  const lines = [''];
  for (const word of text.split(' ')) {
    const last = lines[lines.length - 1];
    if (last && last.length + word.length + 1 > length) lines.push(word);
    else lines.splice(-1, 1, `${last} ${word}`.trim());
  }
  return lines;
}

/** Dots with intervals in a panel. @param {Box} box @param {Interval[]} values @param {string[]} names @param {Kind} kind */
export function dotsInPanel(box, values, names, kind) {
  const step = (box.right - box.left) / values.length;
  return values.flatMap((one, k) => {
    const x = box.left + step * (k + 0.5);
    return [line(x, x, box.y(one.low), box.y(one.high), 'ci'), mark(x, box.y(one.value), kind), label(x, box.bottom + 15, names[k], { anchor: 'middle', kind: 'soft' })];
  });
}

/** A line from 1 to `last` in a panel, with its trend. @param {Box} box @param {[number, number][]} points @param {number} last @param {[number, number][]} trend */
export function lineInPanel(box, points, last, trend) {
  const x = (/** @type {number} */ value) => box.left + ((value - 1) / Math.max(1, last - 1)) * (box.right - box.left);
  const path = (/** @type {[number, number][]} */ list) => list.map((point, k) => `${k ? 'L' : 'M'}${x(point[0]).toFixed(1)},${box.y(point[1]).toFixed(1)}`).join('');
  return [s('path', { d: path(trend), class: 'trend' }), s('path', { d: path(points), class: 'line' }),
    label(box.left, box.bottom + 15, '1', { kind: 'soft' }), label(box.right, box.bottom + 15, String(last), { anchor: 'end', kind: 'soft' })];
}

/** Bars side by side in a panel. @param {Box} box @param {{values: number[], kind: string}[]} groups @param {string[]} names */
export function barsInPanel(box, groups, names) {
  const step = (box.right - box.left) / names.length;
  const wide = (step - 5) / groups.length;
  return [...names.map((name, k) => label(box.left + step * (k + 0.5), box.bottom + 15, name, { anchor: 'middle', kind: 'soft' })),
    ...groups.flatMap(({ values, kind }, g) => values.map((value, k) => s('rect', {
      x: box.left + step * k + 2.5 + wide * g, y: box.y(value), width: Math.max(1, wide - 1), height: Math.max(0, box.bottom - box.y(value)), class: kind })))];
}
