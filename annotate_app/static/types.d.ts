// Types of the pages' scripts, for `make lint` only: what the server answers (scoring.py, dashboard.py; JSON), and what
// the modules hand to each other. Scores are whole numbers from 0 to 5; shares and probabilities lie between 0 and 1.

export type Letter = 'A' | 'B' | 'C' | 'D';
export type Criterion = 'text' | 'mask';
export type Flag = 'artifact' | 'unrealistic';
export type Mode = 'T2I' | 'M2I' | 'TM2I';
export type ByImage<Value> = Record<Letter, Partial<Record<Criterion, Value>>>;
export interface Row { letter: Letter; criterion: Criterion }

// ---- the scoring page
export type RatingEvent =
  | { kind: 'score' | 'rank'; letter: Letter; criterion: Criterion; value: number | null }
  | { kind: 'flag'; letter: Letter; criterion: Flag; value: number }
  | { kind: 'comment' | 'skip'; comment: string }
  | { kind: 'submit' | 'unskip' };
/** An event as the log holds it: the server fills in what a kind does not use with null. */
export interface LoggedEvent { kind: RatingEvent['kind']; letter?: Letter | null; criterion?: Criterion | Flag | null; value?: number | null; comment?: string | null }
export interface Expected { low: number; high: number; ok: boolean; why: string }
export type Feedback = Partial<ByImage<Expected>>;
export interface Geometry { width: number; height: number; bits: 8 | 16 }
export interface Mask { width: number; height: number; structures: string[] }
export interface SetState {
  token: string; number: number; mode: Mode; text: string | null; mask: Mask | null; image: Geometry; criteria: Criterion[];
  anchors: Partial<Record<Criterion, string[]>>; scores: ByImage<number | null>; ranks: ByImage<number | null>; flags: Record<Letter, Partial<Record<Flag, boolean>>>;
  comment: string; state: 'open' | 'submitted' | 'skipped'; log: LoggedEvent[]; version: number; next: string | null; previous: string | null;
  training: boolean; tie_break: boolean; feedback: Feedback | null;
}
export interface Gate { share: number; pass: number; attempt: number; attempts: number; blocked: boolean }
export interface Next {
  room: string; stage: string; total: number; n_done: number; set: SetState | null; last: string | null; gate: Gate | null; opens_at: string | null; break_minutes: number;
}
export interface Acknowledgement { version: number; n_done?: number; feedback?: Feedback; share?: number }
/** Raw pixels; `canvas` is their picture under the window named by `shades`. */
export interface Pixels extends Geometry { data: Uint8Array | Uint16Array; canvas?: HTMLCanvasElement | null; shades?: string }
export interface Outline { path: Path2D; width: number; height: number }
export interface LoadedSet { state: SetState; pixels: Pixels[]; outlines: Outline[] }
export interface Tie { criterion: Criterion; score: number; letters: Letter[] }
export interface Waiting { key: string; token: string; body: RatingEvent & { uuid: string; seen: number; tab: string; client: object }; old?: boolean }
export type PageName = 'gate' | 'begin' | 'waiting' | 'closed' | 'done' | 'broken' | 'pending';
export interface PageFacts { total: number; nDone: number; last: string | null; gate: Gate | null; opensAt: string | null; message: string; waiting: number }

// ---- the dashboard
export type Kind = 'human' | 'simulated';
/** An estimate with its 95 % confidence interval. */
export interface Estimate { value: number | null; low: number | null; high: number | null }
export interface Interval { value: number; low: number; high: number }
/** A figure, or why there is none. */
export type Computed<Figure> = (Figure & { too_small?: undefined }) | ({ too_small: string } & { [name in keyof Figure]?: undefined });
export interface Counts { n_sets: number; n_done: number; n_skipped: number }
export interface Share extends Interval { k: number; n: number }
export interface Measured {
  n_sets_shared: number; not_computable?: string; icc_basis: string; icc_k: number; icc_not_computable: string | null; measures?: Record<string, Estimate>;
}
export interface RaterQuality {
  username: string; kind: Kind;
  progress: Counts & { n_left: number; modes: Partial<Record<Mode, Counts>>; training: Counts; artifact: number; unrealistic: number };
  pace: Computed<{ median_s: number; low_s: number; high_s: number; left_s: number; too_fast: Share }> & { n: number };
  distribution: Partial<Record<Criterion, { counts: number[]; mean: number; n: number }>>;
  leniency: Computed<Interval> & { n_sets: number; n_scores: number };
  position: Computed<{ places: (Interval & { place: Letter })[]; p: number | null }> & { n_sets: number; basis: string };
  repeats: { n_sets: number; n_scores: number; hours_between?: number; not_computable?: string; measures?: Record<'exact' | 'within_one' | 'icc_2_1' | 'kappa_quadratic', Estimate> };
  attention: Computed<Share> & { n_sets: number }; training: Computed<Share> & { n_sets: number };
  drift: Computed<Interval & { line: [number, number][]; rolling: [number, number][] }> & { n_sets: number; basis: string };
  straight_line: Computed<Share & { others: number | null }> & { n: number };
}
export interface QualityFlag { username: string; measure: string; value: number; threshold: number; n: number }
export interface KindQuality { raters: RaterQuality[]; coverage: Record<string, number>; flags: QualityFlag[] }
export interface Remark { at: string; username: string; rater_kind: Kind; kind: string; mode: Mode; text: string | null; comment: string }
export interface Quality {
  thresholds: Record<string, number>; too_fast_s: number; gate: number; made_at: string; by_kind: Partial<Record<Kind, KindQuality>>; remarks: Remark[];
  audit: { at: string; actor: string; action: string; detail: string }[];
}
export interface KindAgreement {
  n_raters: number; n_sets: number; n_scores: number; criteria: Partial<Record<Criterion | 'overall', Measured>>;
  modes?: Partial<Record<Mode, Partial<Record<Criterion, Measured>>>>; findings?: Record<string, Measured>;
}
export interface Agreement { by_kind: Partial<Record<Kind, KindAgreement>>; made_at: string }
export interface RaterLine extends Counts {
  username: string; kind: Kind; active: boolean; has_password: boolean; admitted: boolean; n_scores: number; mean_score: number | null; n_flags: number; n_comments: number; last_event: string | null;
}
export interface Overview { study: string; title: string; n_sets: number; modes: Partial<Record<Mode, number>>; raters: RaterLine[]; admins: string[]; report: boolean }
export interface Stage {
  stage: string; arms_visible?: boolean; may?: string[]; n_open: number; pilot?: { n_scores: number; n_raters: number }; changed?: string[];
  unblinded: { at: string; actor: string; reason?: string } | null;
}
export interface RaterAnswer { link?: string; name?: string }
