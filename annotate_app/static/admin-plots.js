// The sections of the dashboard that show how raters score. Input: one kind of rater (people or simulated, never both).

import { h, plural } from './dom.js';
import { bars, barsInPanel, CI_COLUMN, dotsInPanel, fixed, forest, lineInPanel, numbers, panelScale, panels, percent, swatch } from './plots.js';

/** @import { Box, ForestRow } from './plots.js' */
/** @import { Estimate, Kind, KindAgreement, KindQuality, Measured, Mode, Quality, QualityFlag } from './types' */

const CRITERIA = { text: 'Text', mask: 'Mask' };
const ZERO = { value: 0, zero: true };
const reference = (/** @type {number} */ value) => ({ value, text: String(value) });
const SCORES = ['0', '1', '2', '3', '4', '5'];
const TEXT_AND_MASK = /** @type {const} */ (['text', 'mask']);
/** Coefficient, title, what good is, and where its thresholds lie. @type {[string, string, string, number[]][]} */
const MEASURES = [
  ['icc_2_1', 'ICC(2,1): a single rater', 'Good: 0.75 or more; under 0.5 one rater alone says little (Koo & Li 2016).', [0.5, 0.75]],
  ['alpha_ordinal', "Krippendorff's alpha, ordinal", 'Good: 0.80 or more; from 0.67 for tentative conclusions (Krippendorff). 0 is chance.', [0.67, 0.8]],
  ['kappa_quadratic', 'Quadratic kappa, mean of rater pairs', 'Good: 0.61 or more (substantial, Landis & Koch 1977). 0 is chance.', [0.41, 0.61]],
  ['kendall_tau', "Kendall's tau-b within sets", 'Good: well above 0, which is chance: raters rank the four images of a set in the same way.', [0.5]],
  ['preference_agreement', 'Pairwise preference agreement', 'Good: well to the right of the diamond, the agreement expected by chance. This is what the preference pairs use.', []],
  ['icc_2_k', 'ICC(2,k): mean of all raters', 'Good: 0.75 or more: how far the mean of all these raters can be relied on.', [0.5, 0.75]],
];
/** @param {Partial<Estimate>} one */
const range = ({ value, low, high }) => `${fixed(value)} (${fixed(low)} to ${fixed(high)})`;
/** @param {number | null} p */
const pValue = (p) => (p === null ? 'p –' : p < 0.001 ? 'p < 0.001' : `p = ${fixed(p, 3)}`);

/** @param {number | undefined} seconds */
function duration(seconds) {
  if (!seconds) return '–';
  const minutes = Math.ceil(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** How far the raters are, and how fast they work. @param {KindQuality} part @param {Kind} kind */
export function progress({ raters }, kind) {
  const modes = /** @type {const} */ (['T2I', 'M2I', 'TM2I']).filter((mode) => raters.some((rater) => rater.progress.modes[mode]));
  const rows = raters.map(({ username, progress: { n_sets: total, n_done: done, n_skipped: skipped, modes: of } }) => (
    { label: username, total, of, skipped, right: total ? `${done} of ${total}, ${skipped} skipped` : 'not started' }));
  /** @typedef {(typeof rows)[number]} Row */
  const done = (/** @type {Mode} */ mode) => ({ name: `${mode} done`, kind: `fill-${mode.toLowerCase()}`, of: (/** @type {Row} */ row) => row.of[mode]?.n_done ?? 0 });
  const list = [bars({ id: 'progress', title: 'Sets finished', good: 'Good: bars of similar length; few skipped. Repeats and checks count as sets here; training does not.' }, rows,
    { axis: 'sets', parts: [...modes.map(done), { name: 'skipped', kind: 'fill-skipped', of: (row) => row.skipped }] })];
  if (kind === 'human') {
    list.push(forest({ id: 'pace', title: 'Pace', good: 'Good: steady and unhurried. Dot: median active time per set; line: middle half of the sets.' },
      raters.map(({ username, pace, progress: { n_left: left } }) => ({ label: username, value: pace.median_s, low: pace.low_s, high: pace.high_s, n: pace.n, reason: pace.too_small,
        right: pace.too_small ? '' : `${fixed(pace.median_s, 0)} s; ${left ? `${duration(pace.left_s)} left` : 'finished'}` })),
      { least: [0, 30], axis: 'active seconds per set', kind, format: (value) => fixed(value, 0) }));
  }
  return list;
}

/** @param {KindQuality['coverage']} coverage sets by the number of raters who finished them */
function overlap(coverage) {
  const counts = Object.entries(coverage);
  if (!counts.length) return [];
  const total = counts.reduce((sum, [, n]) => sum + n, 0);
  return [bars({ id: 'coverage', title: 'Overlap: how many raters finished each set', good: 'Good: most sets with as many raters as were planned; agreement needs two.' },
    counts.map(([raters, n]) => ({ label: plural(Number(raters), 'rater'), total, n, right: `${plural(n)} (${percent(n / total)})` })),
    { axis: 'rating and comparison sets', parts: [{ name: 'sets', kind: 'fill-t2i', of: (row) => row.n }] })];
}

/** A row of a forest of one coefficient. @param {string} name @param {string} label @param {Measured} found @returns {ForestRow} */
function coefficient(name, label, found) {
  const one = found.measures?.[name];
  if (!one || one.value === null) {
    const reason = found.measures ? (name.startsWith('icc') && found.icc_not_computable) || 'not computable' : found.not_computable;
    return { label, value: null, reason };
  }
  const chance = name === 'preference_agreement' ? found.measures?.preference_chance.value : null;
  return { label, ...one, n: found.n_sets_shared, chance, right: `${one.low === null ? fixed(one.value) : range(one)}, ${plural(found.n_sets_shared)}` };
}

/** One forest per coefficient; rows are criteria and modes, each with its own n. @param {KindAgreement} part @param {Kind} kind @param {KindQuality} quality */
export function agreement({ criteria, modes = {}, findings = {} }, kind, quality) {
  /** @type {[string, Measured][]} */
  const rows = TEXT_AND_MASK.flatMap((name) => (criteria[name] ? [[`${CRITERIA[name]}, all modes`, criteria[name]]] : []));
  if (criteria.overall && Object.keys(criteria).length > 2) rows.push(['All criteria', criteria.overall]);
  for (const name of TEXT_AND_MASK) {
    for (const [mode, found] of Object.entries(modes)) if (found[name]) rows.push([`${CRITERIA[name]}, ${mode}`, found[name]]);
  }
  const plots = MEASURES.map(([name, title, good, marks]) => forest({ id: `agreement-${name}`, title, good: good + basis(name, rows) }, rows.map(([label, found]) => coefficient(name, label, found)),
    { least: [0, 1], axis: name === 'preference_agreement' ? 'share of image pairs in the same order' : `${title.split(':')[0].split(', ')[0]} (1 is perfect)`, kind,
      references: [ZERO, ...marks.map(reference)], column: CI_COLUMN }));
  if (Object.values(findings).some((found) => found.measures)) {
    plots.push(forest({ id: 'agreement-findings', title: 'Alpha by asked finding, text', good: 'Good: no finding far left of the others: that one may need a clearer anchor text.' },
      Object.entries(findings).map(([name, found]) => coefficient('alpha_ordinal', name.replaceAll('_', ' '), found)),
      { least: [0, 1], axis: "Krippendorff's alpha", kind, references: [ZERO, ...[0.67, 0.8].map(reference)], column: CI_COLUMN }));
  }
  return [...plots, ...overlap(quality.coverage)];
}

/** What an ICC is computed from, said once under its title: rows may differ. @param {string} name @param {[string, Measured][]} rows */
function basis(name, rows) {
  const found = rows.map(([, one]) => one).filter((one) => name.startsWith('icc') && one.measures && !one.icc_not_computable);
  if (!found.some((one) => one.icc_basis === 'incomplete')) return '';
  const [least, most] = [Math.min, Math.max].map((pick) => fixed(pick(...found.map((one) => one.icc_k)), 1));
  return ` Not every rater scored every image: from all images with two scores or more, ${least === most ? least : `${least} to ${most}`} raters each (variance components).`;
}

/** How high each rater scores, and how often each score is given. @param {KindQuality} part @param {Kind} kind */
export function leniency({ raters }, kind) {
  const rows = raters.map(({ username, leniency: one }) => ({ label: username, value: one.value, low: one.low, high: one.high, n: one.n_scores, reason: one.too_small, right: one.too_small ? '' : `${range(one)}, ${plural(one.n_sets)}` }));
  const given = raters.map(({ username, distribution }) => ({ username, found: TEXT_AND_MASK.flatMap((name) => (distribution[name] ? [{ name, ...distribution[name] }] : [])) }));
  const criteria = TEXT_AND_MASK.filter((name) => raters.some(({ distribution }) => distribution[name]));
  const top = Math.max(0.3, ...given.flatMap(({ found }) => found.flatMap(({ counts, n }) => counts.map((count) => count / n))));
  const list = given.map(({ username, found }) => ({
    label: username, text: found.map(({ name, mean, n }) => `${name}: mean ${fixed(mean)}, n = ${n}`).join('; '), notes: found.map(({ name, mean, n }) => `${name}: mean ${fixed(mean)}, n ${n}`),
    reason: found.length ? null : 'no scores yet',
    draw: (/** @type {Box} */ box) => barsInPanel(box, criteria.map((name) => {
      const { counts, n } = found.find((one) => one.name === name) ?? { counts: [0, 0, 0, 0, 0, 0], n: 1 };
      return { values: counts.map((count) => count / n), kind: `fill-${name}` };
    }), SCORES) }));
  const lines = given.flatMap(({ username, found }) => found.map(({ name, counts, mean, n }) => [username, name, ...counts.map(String), fixed(mean), String(n)]));
  const legend = h('p', { class: 'legend' }, ...criteria.map((name) => h('span', {}, swatch(`fill-${name}`), name)));
  return [
    forest({ id: 'leniency', title: 'Leniency: own score minus the others on the same images', good: 'Good: near 0. Right of 0: more lenient than the others; left: more severe.' }, rows,
      { least: [-0.5, 0.5], symmetric: true, axis: 'score points (scale 0 to 5)', kind, references: [ZERO], column: CI_COLUMN }),
    panels({ id: 'histograms', title: 'How often each score is given', good: 'Good: the whole scale is used; no rater gives only one or two scores.' }, list,
      { y: panelScale([top], [0, 0.3]), axisX: 'score', axisY: 'share of scores; below: mean and n', zero: false, tickText: percent, table: numbers(['Rater', 'Criterion', ...SCORES, 'mean', 'n'], lines), legend }),
  ];
}

/** Whether the place on the screen moves the scores. @param {KindQuality} part @param {Kind} kind */
export function position({ raters }, kind) {
  const found = raters.map(({ username, position: one }) => ({ username, reason: one.too_small, places: one.places ?? [], p: one.p ?? null, basis: one.basis, n: one.n_sets }));
  const list = found.map(({ username, reason, places, p, n }) => ({
    label: username, reason, text: places.map((place) => `${place.place} ${range(place)}`).join(', '), notes: [pValue(p), plural(n)],
    draw: (/** @type {Box} */ box) => dotsInPanel(box, places, ['A', 'B', 'C', 'D'], kind) }));
  const lines = found.filter(({ reason }) => !reason).map(({ username, places, p, basis: against, n }) => [username, ...places.map(range), p === null ? '–' : fixed(p, 4), against, String(n)]);
  return [panels({ id: 'position', title: 'Position effect: mean score at A, B, C, D after the set mean is subtracted', good: 'Good: all four near 0. p: F-test of place; under 0.01 is worth a look. Scores are taken relative to the other raters on the same images where there are enough.' }, list,
    { y: panelScale(found.flatMap(({ places }) => places.flatMap((one) => [one.low, one.high])), [-0.3, 0.3], true), axisX: 'place on the screen', axisY: 'score points, 95 % CI over sets',
      table: numbers(['Rater', 'A', 'B', 'C', 'D', 'p', 'measured against', 'sets'], lines) })];
}

/** Whether raters give the same scores to the same set again. @param {KindQuality} part @param {Kind} kind */
export function repeats({ raters }, kind) {
  const found = raters.map(({ username, repeats: one }) => ({ label: username, n: one.n_sets, scores: one.n_scores, hours: one.hours_between, m: one.measures, reason: one.not_computable }));
  const rows = found.map(({ label, n, m, reason }) => ({ label, n, reason, ...m?.kappa_quadratic, right: m ? `${range(m.kappa_quadratic)}, ${plural(n)}` : '' }));
  const shares = found.map(({ label, scores, m, reason }) => ({ label, n: scores, reason, ...m?.within_one, chance: m?.exact.value, right: m ? `exact ${percent(m.exact.value)}, ±1 ${percent(m.within_one.value)}` : '' }));
  const orDash = (/** @type {Estimate} */ one) => (one.value === null ? '–' : range(one));
  const lines = found.flatMap(({ label, n, scores, hours, m }) => (m ? [[label, percent(m.exact.value), percent(m.within_one.value), orDash(m.icc_2_1), orDash(m.kappa_quadratic), String(n), String(scores), fixed(hours, 1)]] : []));
  return [
    forest({ id: 'repeats', title: 'Intra-rater agreement: quadratic kappa on hidden repeats', good: 'Good: 0.6 or more, and clearly above the agreement between raters.' }, rows,
      { least: [0, 1], axis: 'quadratic kappa (1 is perfect)', kind, references: [ZERO, ...[0.4, 0.6].map(reference)], column: CI_COLUMN }),
    forest({ id: 'repeats-shares', title: 'Intra-rater agreement: exact and within one point', good: 'Good: within one point (dot) 90 % or more. Diamond: exactly the same score.' }, shares,
      { least: [0, 1], axis: 'share of repeated scores', kind, format: percent, column: { head: 'exact and within one', width: 168 } }),
    h('details', { 'data-key': 'repeats-table' }, h('summary', {}, 'All figures of the repeats'), numbers(['Rater', 'exact', 'within one', 'ICC(2,1)', 'quadratic kappa', 'sets', 'scores', 'median hours between'], lines)),
  ];
}

/** Answers to sets whose scores are known. @param {KindQuality} part @param {Kind} kind */
export function attention({ raters }, kind) {
  const plot = (/** @type {'attention' | 'training'} */ id, /** @type {string} */ title, /** @type {string} */ good) => forest({ id, title, good },
    raters.map(({ username, [id]: one }) => ({ label: username, ...one, reason: one.too_small, right: one.too_small ? '' : `${one.k} of ${one.n} answers, ${plural(one.n_sets)}` })),
    { least: [0, 1], axis: 'share of answers in the expected range', kind, format: percent, references: [{ value: 0.75, text: percent(0.75) }] });
  const list = [plot('attention', 'Attention checks answered as expected', 'Good: 75 % or more. Reported, never excluded by itself. Line: 95 % Wilson interval.')];
  if (raters.some((rater) => rater.progress.training.n_done)) {
    list.push(plot('training', 'Training answered as expected (all attempts)', 'Good: rising towards the checks. Training is in no other figure.'));
  }
  return list;
}

/** Whether scores rise or fall over time. @param {KindQuality} part */
export function drift({ raters }) {
  const list = raters.map(({ username, drift: one }) => ({
    label: username, reason: one.too_small, text: one.too_small ? '' : `${range(one)} per 100 sets`, notes: one.too_small ? [] : [range(one), 'points per 100 sets'],
    draw: (/** @type {Box} */ box) => lineInPanel(box, one.rolling ?? [], one.n_sets, one.line ?? []),
  }));
  const lines = raters.flatMap(({ username, drift: one }) => (one.too_small ? [] : [[username, range(one), one.basis, String(one.n_sets)]]));
  return [panels({ id: 'drift', title: 'Drift: residual score over time', good: 'Good: flat. Line: mean of 15 sets in a row; dashed: straight fit, its slope with 95 % CI below.' }, list,
    { y: panelScale(raters.flatMap((rater) => (rater.drift.rolling ?? []).map(([, value]) => value)), [-0.5, 0.5], true), axisX: 'sets in the order of finishing',
      axisY: "residual score points: score minus the others' mean (or the rater's own)", table: numbers(['Rater', 'slope per 100 sets (95 % CI)', 'measured against', 'sets'], lines) })];
}

/** What is flagged: name, unit, format, how the limit is crossed, what n counts. @type {Record<string, [string, string, (value: number) => string, string, string]>} */
const FLAGS = {
  leniency: ['More lenient or severe than the others', ' score points', fixed, 'beyond ±', 'sets'],
  position_p: ['Position effect', '', pValue, 'p under ', 'sets'],
  repeats_kappa: ['Low intra-rater agreement', ' quadratic kappa', fixed, 'under ', 'sets'],
  attention: ['Attention checks missed', ' as expected', percent, 'under ', 'answers'],
  drift: ['Scores drift', ' points per 100 sets', fixed, 'beyond ±', 'sets'],
  too_fast: ['Too fast', ' of the sets', percent, 'from ', 'sets'],
  straight_line: ['Four equal scores', ' of the sets', percent, 'interval over ', 'sets'],
};

/** A line of the table of flags. @param {QualityFlag} flag */
function flagged({ username, measure, value, threshold, n }) {
  const [name, unit, format, word, counted] = FLAGS[measure] ?? [measure, '', fixed, '', ''];
  return [username, name, `${format(value)}${unit}`, `${word}${measure === 'position_p' ? fixed(threshold) : format(threshold)}`, `${n} ${counted}`];
}

/** All flags, and the plots that belong to no other section. @param {KindQuality} part @param {Quality} report @param {Kind} kind */
export function flags(part, { too_fast_s: limit, thresholds }, kind) {
  const options = { least: /** @type {[number, number]} */ ([0, 0.3]), axis: 'share of sets', kind, format: percent };
  /** @type {HTMLElement[]} */
  const list = [h('div', { class: 'wide flagged' },
    h('p', {}, 'A flag is a reason to look and to talk, not to exclude: nobody and nothing is left out because of one.'),
    part.flags.length ? numbers(['Rater', 'What', 'Value', 'Flagged when', 'n'], part.flags.map(flagged)) : h('p', { class: 'none' }, 'No flags.'))];
  if (kind === 'human') {
    list.push(forest({ id: 'too-fast', title: `Too fast: under ${limit} s per score`, good: 'Good: near 0 %. Line: 95 % Wilson interval.' },
      part.raters.map(({ username, pace: { too_small: reason, too_fast: one } }) => ({ label: username, ...one, reason, right: one ? `${one.k} of ${plural(one.n)}` : '' })),
      { ...options, references: [{ value: thresholds.too_fast, text: percent(thresholds.too_fast) }] }));
  }
  list.push(forest({ id: 'straight-line', title: 'Four equal scores (straight-lining)', good: "Good: near the diamond, the other raters' share on the same sets." },
    part.raters.map(({ username, straight_line: one }) => ({ label: username, ...one, chance: one.others, reason: one.too_small, right: one.too_small ? '' : `${one.k} of ${plural(one.n)}` })), options));
  return list;
}
