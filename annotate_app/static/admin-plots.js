// The sections of the dashboard that show how raters score. Input: one kind of rater (people or simulated, never both).

import { h } from './dom.js';
import { bars, barsInPanel, dotsInPanel, fixed, forest, lineInPanel, numbers, panelScale, panels, percent } from './plots.js';

const CRITERIA = { text: 'Text', mask: 'Mask' };
const MEASURES = [
  ['icc_2_1', 'ICC(2,1): one rater', 'Good: 0.75 or more; under 0.5 one rater alone says little (Koo & Li 2016).', [0.5, 0.75]],
  ['alpha_ordinal', "Krippendorff's alpha, ordinal", 'Good: 0.80 or more; from 0.67 for tentative conclusions (Krippendorff). 0 is chance.', [0.67, 0.8]],
  ['kappa_quadratic', 'Quadratic kappa, mean of rater pairs', 'Good: 0.61 or more (substantial, Landis & Koch 1977). 0 is chance.', [0.41, 0.61]],
  ['kendall_tau', "Kendall's tau-b within sets", 'Good: well above 0, which is chance: raters rank the four images of a set alike.', [0.5]],
  ['preference_agreement', 'Pairwise preference agreement', 'Good: well to the right of the diamond, the agreement expected by chance. This is what the preference pairs use.', []],
  ['icc_2_k', 'ICC(2,k): mean of all raters', 'Good: 0.75 or more: how far the mean of all these raters can be relied on.', [0.5, 0.75]],
];
const range = (one, format = fixed) => `${format(one.value)} (${format(one.low)} to ${format(one.high)})`;
const pValue = (p) => (p === null ? 'p –' : p < 0.001 ? 'p < 0.001' : `p = ${fixed(p, 3)}`);
const sets = (n) => `${n} ${n === 1 ? 'set' : 'sets'}`;

export function duration(seconds) {
  if (!seconds) return '–';
  const minutes = Math.ceil(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const modes = (part) => ['T2I', 'M2I', 'TM2I'].filter((mode) => part.raters.some((rater) => rater.progress.modes[mode]));

export function progress(part, kind) {
  const done = (mode) => ({ name: `${mode} done`, class: `fill-${mode.toLowerCase()}`, of: (row) => (row.modes[mode] ? row.modes[mode].n_done : 0) });
  const rows = part.raters.map((rater) => ({ label: rater.username, total: rater.progress.n_sets, modes: rater.progress.modes, skipped: rater.progress.n_skipped,
    right: rater.progress.n_sets ? `${rater.progress.n_done} of ${rater.progress.n_sets}, ${rater.progress.n_skipped} skipped` : 'not begun' }));
  const list = [bars({ id: 'progress', title: 'Sets finished', good: 'Good: bars of like length; few skipped. Repeats and checks are sets here; training is not.' }, rows,
    { axis: 'sets', parts: [...modes(part).map(done), { name: 'skipped', class: 'fill-skipped', of: (row) => row.skipped }] })];
  if (kind === 'human') {
    list.push(forest({ id: 'pace', title: 'Pace', good: 'Good: steady and unhurried. Dot: median active time per set; line: middle half of the sets.' },
      part.raters.map((rater) => ({ label: rater.username, value: rater.pace.median_s, low: rater.pace.low_s, high: rater.pace.high_s, n: rater.pace.n,
        reason: rater.pace.too_small, right: rater.pace.too_small ? '' : `${fixed(rater.pace.median_s, 0)} s; ${rater.progress.n_left ? `${duration(rater.pace.left_s)} left` : 'finished'}` })),
      { least: [0, 30], axis: 'active seconds per set', kind, format: (value) => fixed(value, 0) }));
  }
  return list;
}

function overlap(part) {
  const raterCounts = Object.keys(part.coverage).map(Number);
  if (!raterCounts.length) return [];
  const total = Object.values(part.coverage).reduce((sum, n) => sum + n, 0);
  return [bars({ id: 'coverage', title: 'Overlap: how many raters finished each set', good: 'Good: most sets with as many raters as were planned; agreement needs two.' },
    raterCounts.map((n) => ({ label: `${n} ${n === 1 ? 'rater' : 'raters'}`, total, n: part.coverage[n], right: `${sets(part.coverage[n])} (${percent(part.coverage[n] / total)})` })),
    { axis: 'rating and comparison sets', parts: [{ name: 'sets', class: 'fill-t2i', of: (row) => row.n }] })];
}

// One forest per coefficient; rows are criteria and modes, each with its own n.
export function agreement(part, kind, quality) {
  const rows = [];
  for (const criterion of ['text', 'mask', 'overall'].filter((name) => part.criteria[name])) {
    const found = part.criteria[criterion];
    if (Object.keys(part.criteria).length > 2 || criterion !== 'overall') rows.push([criterion === 'overall' ? 'All criteria' : `${CRITERIA[criterion]}, all modes`, found]);
  }
  for (const criterion of ['text', 'mask']) {
    for (const [mode, found] of Object.entries(part.modes || {})) {
      if (found[criterion]) rows.push([`${CRITERIA[criterion]}, ${mode}`, found[criterion]]);
    }
  }
  const line = (name) => ([text, found]) => {
    const one = found.measures ? found.measures[name] : null;
    if (!one || one.value === null) return { label: text, value: null, reason: one ? reason(name, found) : found.not_computable };
    const chance = name === 'preference_agreement' ? found.measures.preference_chance.value : null;
    return { label: text, value: one.value, low: one.low, high: one.high, n: found.n_sets_shared, chance, right: `${one.low === null ? fixed(one.value) : range(one)}, ${sets(found.n_sets_shared)}` };
  };
  const plots = MEASURES.map(([name, title, good, marks]) => forest({ id: `agreement-${name}`, title, good: good + basis(name, rows) }, rows.map(line(name)),
    { least: [0, 1], axis: name === 'preference_agreement' ? 'share of image pairs ordered alike' : `${title.split(':')[0].split(', ')[0]} (1 is perfect)`, kind,
      references: [{ value: 0, zero: true }, ...marks.map((value) => ({ value, text: String(value) }))], rightHead: '95 % CI over sets, n', wideRight: 214 }));
  const findings = Object.entries(part.findings || {});
  if (findings.some(([, found]) => found.measures)) {
    plots.push(forest({ id: 'agreement-findings', title: 'Alpha by asked finding, text', good: 'Good: no finding far left of the others: that one may need a clearer anchor text.' },
      findings.map(([name, found]) => line('alpha_ordinal')([name.replaceAll('_', ' '), found])),
      { least: [0, 1], axis: "Krippendorff's alpha", kind, references: [{ value: 0, zero: true }, { value: 0.67, text: '0.67' }, { value: 0.8, text: '0.8' }], rightHead: '95 % CI over sets, n', wideRight: 214 }));
  }
  return [...plots, ...overlap(quality)];
}

const reason = (name, found) => (name.startsWith('icc') && found.icc_not_computable ? found.icc_not_computable : 'not computable');
// What an ICC is computed from, said once under its title: rows may differ.
const basis = (name, rows) => {
  const found = rows.map(([, one]) => one).filter((one) => name.startsWith('icc') && one.measures && !one.icc_not_computable);
  if (!found.some((one) => one.icc_basis === 'incomplete')) return '';
  const [least, most] = [Math.min, Math.max].map((pick) => fixed(pick(...found.map((one) => one.icc_k)), 1));
  return ` Not every rater scored every image: from all images with two scores or more, ${least === most ? least : `${least} to ${most}`} raters each (variance components).`;
};

export function leniency(part, kind) {
  const rows = part.raters.map(({ username, leniency: one }) => ({ label: username, value: one.value, low: one.low, high: one.high, n: one.n_scores, reason: one.too_small, right: one.too_small ? '' : `${range(one)}, ${sets(one.n_sets)}` }));
  const criteria = ['text', 'mask'].filter((name) => part.raters.some((rater) => rater.distribution[name]));
  const share = (found) => (found ? found.counts.map((n) => n / found.n) : [0, 0, 0, 0, 0, 0]);
  const top = Math.max(0.3, ...part.raters.flatMap((rater) => criteria.flatMap((name) => share(rater.distribution[name]))));
  const list = part.raters.map((rater) => {
    const found = criteria.filter((name) => rater.distribution[name]);
    const told = found.map((name) => `${name}: mean ${fixed(rater.distribution[name].mean)}, n = ${rater.distribution[name].n}`).join('; ');
    return { label: rater.username, text: told, notes: found.map((name) => `${name}: mean ${fixed(rater.distribution[name].mean)}, n ${rater.distribution[name].n}`),
      reason: found.length ? null : 'no scores yet',
      draw: (box) => barsInPanel(box, criteria.map((name) => ({ values: share(rater.distribution[name]), class: `fill-${name}` })), ['0', '1', '2', '3', '4', '5']) };
  });
  const heads = ['Rater', 'Criterion', '0', '1', '2', '3', '4', '5', 'mean', 'n'];
  const lines = part.raters.flatMap((rater) => criteria.filter((name) => rater.distribution[name]).map((name) => [rater.username, name,
    ...rater.distribution[name].counts.map(String), fixed(rater.distribution[name].mean), String(rater.distribution[name].n)]));
  const legend = h('p', { class: 'legend' }, ...criteria.map((name) => h('span', {}, h('i', { class: `swatch fill-${name}` }), name)));
  return [
    forest({ id: 'leniency', title: 'Leniency: own score minus the others on the same images', good: 'Good: near 0. Right of 0: more lenient than the others; left: more severe.' }, rows,
      { least: [-0.5, 0.5], symmetric: true, axis: 'score points (scale 0 to 5)', kind, references: [{ value: 0, zero: true }], rightHead: '95 % CI over sets, n', wideRight: 214 }),
    panels({ id: 'histograms', title: 'How often each score is given', good: 'Good: the whole scale is used; no rater sits on one or two scores.' }, list,
      { y: panelScale([top], [0, 0.3]), axisX: 'score', axisY: 'share of scores; below: mean and n', zero: false, tickText: percent, table: numbers(heads, lines), legend }),
  ];
}

export function position(part, kind) {
  const all = part.raters.flatMap((rater) => (rater.position.places || []).flatMap((one) => [one.low, one.high]));
  const list = part.raters.map(({ username, position: one }) => ({
    label: username, reason: one.too_small, text: one.too_small ? '' : one.places.map((place) => `${place.place} ${range(place)}`).join(', '),
    notes: one.too_small ? [] : [pValue(one.p), sets(one.n_sets)],
    draw: (box) => dotsInPanel(box, one.places, ['A', 'B', 'C', 'D'], kind),
  }));
  const lines = part.raters.filter((rater) => !rater.position.too_small).map(({ username, position: one }) => [username, ...one.places.map((place) => range(place)), one.p === null ? '–' : fixed(one.p, 4), one.basis, String(one.n_sets)]);
  return [panels({ id: 'position', title: 'Position effect: mean score at A, B, C, D after the set mean is taken off', good: 'Good: all four near 0. p: F-test of place; under 0.01 is worth a look. Scores are taken relative to the other raters on the same images where there are enough.' }, list,
    { y: panelScale(all, [-0.3, 0.3], true), axisX: 'place on the screen', axisY: 'score points, 95 % CI over sets', table: numbers(['Rater', 'A', 'B', 'C', 'D', 'p', 'measured against', 'sets'], lines) })];
}

export function repeats(part, kind) {
  const rows = part.raters.map(({ username, repeats: one }) => {
    const kappa = one.measures && one.measures.kappa_quadratic;
    return { label: username, value: kappa && kappa.value, low: kappa && kappa.low, high: kappa && kappa.high, n: one.n_sets, reason: one.not_computable || 'not computable', right: kappa ? `${range(kappa)}, ${sets(one.n_sets)}` : '' };
  });
  const lines = part.raters.filter((rater) => rater.repeats.measures).map(({ username, repeats: { measures: m, n_sets: n, n_scores: scores, hours_between: hours } }) => [
    username, percent(m.exact.value), percent(m.within_one.value), m.icc_2_1.value === null ? '–' : range(m.icc_2_1), m.kappa_quadratic.value === null ? '–' : range(m.kappa_quadratic), String(n), String(scores), fixed(hours, 1)]);
  const shares = part.raters.map(({ username, repeats: one }) => {
    const m = one.measures;
    return { label: username, value: m && m.within_one.value, low: m && m.within_one.low, high: m && m.within_one.high, chance: m && m.exact.value, n: one.n_scores, reason: one.not_computable,
      right: m ? `exact ${percent(m.exact.value)}, ±1 ${percent(m.within_one.value)}` : '' };
  });
  return [
    forest({ id: 'repeats', title: 'Agreement with oneself: quadratic kappa on hidden repeats', good: 'Good: 0.6 or more, and clearly above the agreement between raters.' }, rows,
      { least: [0, 1], axis: 'quadratic kappa (1 is perfect)', kind, references: [{ value: 0, zero: true }, { value: 0.4, text: '0.4' }, { value: 0.6, text: '0.6' }], rightHead: '95 % CI over sets, n', wideRight: 214 }),
    forest({ id: 'repeats-shares', title: 'The same score again', good: 'Good: within one point (dot) 90 % or more. Diamond: exactly the same score.' }, shares,
      { least: [0, 1], axis: 'share of repeated scores', kind, format: percent, rightHead: 'exact and within one' }),
    h('details', { 'data-key': 'repeats-table' }, h('summary', {}, 'All figures of the repeats'), numbers(['Rater', 'exact', 'within one', 'ICC(2,1)', 'quadratic kappa', 'sets', 'scores', 'median hours between'], lines)),
  ];
}

export function attention(part, kind) {
  const rows = (name) => part.raters.map((rater) => ({ label: rater.username, ...rater[name], reason: rater[name].too_small, right: rater[name].too_small ? '' : `${rater[name].k} of ${rater[name].n} answers, ${sets(rater[name].n_sets)}` }));
  const options = (marked) => ({ least: [0, 1], axis: 'share of answers in the expected range', kind, format: percent, references: [{ value: marked, text: percent(marked) }], rightHead: '' });
  const list = [forest({ id: 'attention', title: 'Attention checks answered as expected', good: 'Good: 75 % or more. Reported, never excluded by itself. Line: 95 % Wilson interval.' }, rows('attention'), options(0.75))];
  if (part.raters.some((rater) => rater.progress.training.n_done)) {
    list.push(forest({ id: 'training', title: 'Training answered as expected (all attempts)', good: 'Good: rising towards the checks. Training is in no other figure.' }, rows('training'), options(0.75)));
  }
  return list;
}

export function drift(part) {
  const all = part.raters.flatMap((rater) => (rater.drift.rolling || []).map((point) => point[1]));
  const list = part.raters.map(({ username, drift: one }) => ({
    label: username, reason: one.too_small, text: one.too_small ? '' : `${range(one)} per 100 sets`, notes: one.too_small ? [] : [range(one), 'points per 100 sets'],
    draw: (box) => lineInPanel(box, one.rolling, one.n_sets, one.line),
  }));
  const lines = part.raters.filter((rater) => !rater.drift.too_small).map(({ username, drift: one }) => [username, range(one), one.basis, String(one.n_sets)]);
  return [panels({ id: 'drift', title: 'Drift: residual score over time', good: 'Good: flat. Line: mean of 15 sets in a row; dashed: straight fit, its slope with 95 % CI below.' }, list,
    { y: panelScale(all, [-0.5, 0.5], true), axisX: 'sets in the order of finishing', axisY: "residual score points: score minus the others' mean (or the rater's own)", table: numbers(['Rater', 'slope per 100 sets (95 % CI)', 'measured against', 'sets'], lines) })];
}

// What is flagged: name, unit, format, how the limit is crossed, what n counts.
const FLAGS = {
  leniency: ['More lenient or severe than the others', ' score points', fixed, 'beyond ±', 'sets'],
  position_p: ['Position effect', '', pValue, 'p under ', 'sets'],
  repeats_kappa: ['Does not agree with own earlier scores', ' quadratic kappa', fixed, 'under ', 'sets'],
  attention: ['Attention checks missed', ' as expected', percent, 'under ', 'answers'],
  drift: ['Scores drift', ' points per 100 sets', fixed, 'beyond ±', 'sets'],
  too_fast: ['Too fast', ' of the sets', percent, 'from ', 'sets'],
  straight_line: ['Four equal scores', ' of the sets', percent, 'interval over ', 'sets'],
};

export function flags(part, report, kind) {
  const list = [];
  if (kind === 'human') {
    const right = (one) => `${one.k} of ${sets(one.n)}`;
    list.push(forest({ id: 'too-fast', title: `Too fast: under ${report.too_fast_s} s per score`, good: 'Good: near 0 %. Line: 95 % Wilson interval.' },
      part.raters.map((rater) => ({ label: rater.username, ...(rater.pace.too_fast || {}), reason: rater.pace.too_small, right: rater.pace.too_fast ? right(rater.pace.too_fast) : '' })),
      { least: [0, 0.3], axis: 'share of sets', kind, format: percent, references: [{ value: report.thresholds.too_fast, text: percent(report.thresholds.too_fast) }] }));
  }
  list.push(forest({ id: 'straight-line', title: 'Four equal scores (straight-lining)', good: "Good: near the diamond, the other raters' share on the same sets." },
    part.raters.map(({ username, straight_line: one }) => ({ label: username, ...one, chance: one.others, reason: one.too_small, right: one.too_small ? '' : `${one.k} of ${sets(one.n)}` })),
    { least: [0, 0.3], axis: 'share of sets', kind, format: percent }));
  const lines = part.flags.map((flag) => {
    const [name, unit, format, word, counted] = FLAGS[flag.measure] || [flag.measure, '', fixed, '', ''];
    const limit = flag.measure === 'position_p' ? fixed(flag.threshold) : format(flag.threshold);
    return [flag.username, name, `${format(flag.value)}${unit}`, `${word}${limit}`, `${flag.n} ${counted}`];
  });
  list.unshift(h('div', { class: 'wide flagged' },
    h('p', {}, 'A flag is a reason to look and to talk, not to exclude: nobody and nothing is left out because of one.'),
    lines.length ? numbers(['Rater', 'What', 'Value', 'Flagged when', 'n'], lines) : h('p', { class: 'none' }, 'No flags.')));
  return list;
}
