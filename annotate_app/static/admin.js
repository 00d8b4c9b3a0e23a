// The dashboard of the study office. Names and texts become text nodes only.

import { getJson, h } from './dom.js';

const MEASURES = {
  icc_2_1: 'ICC(2,1), one rater', icc_2_k: 'ICC(2,k), mean of all raters', alpha_ordinal: 'Krippendorff alpha, ordinal', kappa_quadratic: 'Quadratic kappa, mean of rater pairs',
  preference_agreement: 'Pairwise preference agreement', preference_chance: '… expected by chance', preference_agreement_untied: '… pairs without ties', preference_tied_share: 'Share of tied pairs',
};
const base = new URL('../', document.baseURI);
const title = (word) => `${word[0].toUpperCase()}${word.slice(1)}`;
const number = (value, digits = 2) => (value === null || value === undefined ? '–' : Number(value).toFixed(digits));
const table = (heads, lines) => h('div', { class: 'scroll' }, h('table', {}, h('thead', {}, h('tr', {}, ...heads.map((head) => h('th', { scope: 'col' }, head)))),
  h('tbody', {}, ...lines.map((line) => h('tr', {}, ...line.map((value) => h('td', {}, value)))))));

function progress(done, all) {
  const bar = h('span', { class: 'progress' }, h('span'));
  bar.firstChild.style.width = `${all ? (100 * done) / all : 0}%`;
  return h('span', {}, bar, `${done} / ${all}`);
}

function since(text) {
  if (!text) return '–';
  const minutes = Math.max(0, Math.round((Date.now() - Date.parse(text)) / 60000));
  if (minutes < 60) return `${minutes} min ago`;
  return minutes < 2880 ? `${Math.round(minutes / 60)} h ago` : `${Math.round(minutes / 1440)} days ago`;
}

function raters(data) {
  const heads = ['Rater', 'Kind', 'Sets done', 'Skipped', 'Scores', 'Mean', 'Flags', 'Comments', 's per set', 'Time left', 'Last entry'];
  return table(heads, data.raters.map((rater) => {
    const left = rater.n_sets - rater.n_done - rater.n_skipped;
    return [
      rater.active ? rater.username : `${rater.username} (retired)`, h('span', { class: `kind ${rater.kind}` }, rater.kind),
      progress(rater.n_done, rater.n_sets), String(rater.n_skipped), String(rater.n_scores), number(rater.mean_score), String(rater.n_flags), String(rater.n_comments),
      number(rater.s_per_set, 1), rater.s_per_set && left ? `${Math.ceil((rater.s_per_set * left) / 60)} min` : '–', since(rater.last_event),
    ];
  }));
}

function interval(measure) {
  if (measure.low === null || measure.low === undefined) return h('span', { class: 'interval' }, '–');
  return h('span', { class: 'interval' }, `${number(measure.low)} to ${number(measure.high)}`);
}

// -1 to 1, a tick at 0, the interval as a bar and the value as a mark.
function range(measure) {
  const place = (value) => `${(100 * (Math.max(-1, Math.min(1, value)) + 1)) / 2}%`;
  const box = h('span', { class: 'range', 'aria-hidden': 'true' }, h('i'));
  if (measure.value === null || measure.value === undefined) return box;
  if (measure.low !== null && measure.low !== undefined) {
    const bar = h('span');
    bar.style.left = place(measure.low);
    bar.style.width = `calc(${place(measure.high)} - ${place(measure.low)})`;
    box.append(bar);
  }
  const mark = h('b');
  mark.style.left = place(measure.value);
  box.append(mark);
  return box;
}

function agreement(report) {
  const parts = Object.entries(report.by_kind).map(([kind, part]) => h('section', {},
    h('h3', {}, kind === 'human' ? 'People' : 'Simulated raters'),
    kind === 'simulated' ? h('p', { class: 'simulated-note' }, 'These scores were made by programs, not by people.') : null,
    h('p', {}, `${part.n_raters} ${part.n_raters === 1 ? 'rater' : 'raters'}, ${part.n_sets} sets, ${part.n_scores} scores`),
    ...Object.entries(part.criteria).map(([criterion, found]) => (found.not_computable
      ? h('p', {}, `${title(criterion)}: not computable (${found.not_computable})`)
      : table([title(criterion), 'Value', '95 % interval over sets', '−1 … 0 … 1'],
        Object.entries(found.measures).map(([name, measure]) => [
          h('span', {}, MEASURES[name] || name.replaceAll('_', ' ')), number(measure.value), interval(measure), range(measure)]))))));
  return parts.length ? parts : [h('p', {}, 'No scores yet.')];
}

export async function start(element) {
  const root = element.querySelector('.radpref-root') || element;
  const place = h('section', { 'data-testid': 'agreement' }, h('p', {}, 'Computing …'));
  try {
    const data = await getJson(new URL('api/admin/overview', base));
    const modes = Object.entries(data.modes).map(([mode, n]) => `${n} ${mode}`).join(', ');
    root.replaceChildren(
      h('header', {}, h('div', {}, h('h1', {}, data.title), h('p', {}, `Study ${data.study}: ${data.n_sets} sets${modes ? ` (${modes})` : ''}`)),
        h('nav', {}, data.report ? h('a', { class: 'main', href: new URL('report/', base) }, 'Latest report') : null,
          h('form', { method: 'post', action: new URL('logout', base) }, h('button', {}, 'Log out')))),
      h('h2', {}, 'Progress'), data.raters.length ? raters(data) : h('p', {}, 'No raters yet. Add one with: radpref annotate rater add NAME'),
      h('h2', {}, 'Agreement'), place,
      h('footer', {}, "Research use, not for diagnosis. Radiological convention: the patient's right is at image left."));
    place.replaceChildren(...agreement(await getJson(new URL('api/admin/agreement', base))));
  } catch (error) {
    if (error.status === 401) location.reload();
    else root.append(h('p', { role: 'alert' }, `This cannot be shown: ${error.message}`));
  }
}
