"""The report: one self-contained HTML page, with its tables as CSV and its figures as SVG beside it.

Input: a Study (whatever is there so far). Output: ``reports/<date>-<name>/index.html``. The page loads nothing from
anywhere: style and figures are inside it. Parts that do not exist yet are named as missing.
"""

from __future__ import annotations

import base64
import io
import re
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from PIL import Image

from radpref.data.core.files import storage_errors, write_atomic
from radpref.data.study.runs import start_run
from radpref.data.study.templates import page_style
from radpref.downstream.inference.comparisons import PairedComparison, UntestedComparison
from radpref.downstream.report import figures, grid_tables, tables
from radpref.downstream.report import reader_comparison_figures as reader_figures
from radpref.downstream.report import reader_comparison_views as reader_views
from radpref.downstream.report.evidence import Evidence, gather
from radpref.downstream.report.published import CAVEATS
from radpref.downstream.report.table import Table
from radpref.downstream.report.verdicts import scope_note, sentences

if TYPE_CHECKING:
    from radpref.data.config.study_config import StudyConfig
    from radpref.data.study.study import Study

Context = dict[str, Any]
"""What a part of the template reads, by the names that it uses."""
TEMPLATES = Path(__file__).parent / "templates"
MAX_SHEETS = 12
MAX_SHEET_WIDTH = 1600  # pixels; larger contact sheets are reduced in the page


class Page:
    """What the page shows: figures and tables by name, collected part by part."""

    def __init__(self) -> None:
        self.figures: dict[str, str] = {}
        self.tables: dict[str, Table] = {}

    def table(self, table: Table) -> Table:
        """Keep a table for the CSV folder; returns it for the template."""
        self.tables[table.name] = table
        return table

    def figure(self, name: str, svg: str) -> str:
        """Keep a figure for the folder; returns its data URI."""
        self.figures[name] = svg
        return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def run_report(study: Study) -> Path:
    """Write a new report of the study; returns its index.html.

    Raises:
        StorageFull: the disk is full; no half report is left.
        InvalidInput: the folder cannot be written.
    """
    evidence, page, written_at = gather(study), Page(), datetime.now(UTC)
    context = build_context(study.config, evidence, page, written_at)
    html = render(context)
    with start_run(study, "report", {"written_at": written_at.isoformat()}) as run:
        target = _free_folder(study.reports, f"{written_at:%Y-%m-%d}-{_slug(study.config.name)}")
        _write(target, html, page)
        run.result = {"report": target.name, "missing": context["missing"]}
    return target / "index.html"


def render(context: Context) -> str:
    """The HTML of a context, everything escaped except what is marked safe here (style)."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(style=page_style(), **context)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "study"


def _free_folder(parent: Path, name: str) -> Path:
    """``parent/name``, or with -2, -3 ... where that exists: a report is never overwritten."""
    number = 1
    while (folder := parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


def _write(target: Path, html: str, page: Page) -> None:
    """Write the folder beside its place and rename it."""
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".report.") as beside:
            draft = Path(beside) / "report"
            for name, svg in page.figures.items():
                write_atomic(draft / "figures" / f"{name}.svg", svg)
            for name, table in page.tables.items():
                write_atomic(draft / f"{name}.csv", table.csv())
            write_atomic(draft / "index.html", html)
            draft.replace(target)


def build_context(config: StudyConfig, evidence: Evidence, page: Page, written_at: datetime) -> Context:
    """Everything the template needs; figures and tables are collected in ``page``."""
    context: Context = {
        "config": config, "evidence": evidence, "written_at": f"{written_at:%Y-%m-%d %H:%M} UTC",
        "early": reader_views.early_note(evidence.early) if evidence.early else None,
        "simulated": evidence.simulated, "is_phantom": config.data.reader == "phantom",
        "scores": _scores_part(evidence, page), "alignment": _alignment_part(evidence, page),
        "comparison": _comparison_part(evidence, page),
        "evaluation": _evaluation_part(evidence, page), "samples": _samples_part(evidence, page),
        "downstream": _downstream_part(evidence, page), "caveats": CAVEATS,
        "published": page.table(grid_tables.published_table(evidence.grid.cells if evidence.grid else ())),
        "provenance": _provenance_part(evidence, page), "scope": scope_note(evidence.n_alignment_runs),
    }  # fmt: skip
    names = {
        "scores": "scores and agreement", "alignment": "alignment", "evaluation": "held-out evaluation",
        "comparison": "reader comparison",
        "samples": "sample sheets", "downstream": "downstream grid",
    }  # fmt: skip
    context["missing"] = [label for key, label in names.items() if context[key] is None]
    context["downloads"] = sorted(page.tables)
    return context


def _scores_part(evidence: Evidence, page: Page) -> Context | None:
    if evidence.agreement is None:
        return None
    counts = tables.score_counts(evidence.scores)
    return {
        "agreement": [page.table(table) for table in tables.agreement_tables(evidence.agreement)],
        "counts": page.table(tables.score_table_of(counts)),
        "figure": page.figure("scores", figures.score_distribution(counts)),
        "n_boot": evidence.agreement.n_boot,
    }


def _alignment_part(evidence: Evidence, page: Page) -> Context | None:
    run = evidence.align
    if run is None:
        return None
    lines = evidence.alignment_steps
    keys = dict.fromkeys(key for line in lines for key in line)
    rows = [{key: line.get(key) for key in keys} for line in lines]
    page.table(Table("alignment", "Alignment, step by step", tuple(keys), [], rows))
    settings = run.config.get("align", {})
    watched, tuned = sorted(run.folder.glob("watch/*.png")), evidence.finetune
    columns = {"aligned (DPO)": run.result} | ({"fine-tuned on well-scored images": tuned.result} if tuned else {})
    return {
        "run_id": run.run_id, "settings": settings, "raters": run.config.get("raters", "unknown"),
        "figure": page.figure("alignment", figures.alignment_curves(lines)) if lines else None,
        "summary": page.table(tables.measures_table("alignment-summary", "At the end of training", columns)),
        "warning": tuned.result.get("warning") if tuned else None,
        "watch": _sheet(watched[-1]) if watched else None,
    }  # fmt: skip


def _evaluation_part(evidence: Evidence, page: Page) -> Context | None:
    run = evidence.evaluation
    if run is None:
        return None
    arms, compared = run.result.get("arms", {}), run.result.get("comparisons", {})
    found = [tables.measures_table("evaluation", "Each arm, with 95 % CI over conditions", arms)]
    if compared:
        columns = {f"{arm} against baseline": content for arm, content in compared.items()}
        found.append(tables.measures_table("evaluation-gain", "Image by image, equal condition and seed", columns))
    return {"run_id": run.run_id, "result": run.result, "tables": [page.table(table) for table in found]}


def _comparison_part(evidence: Evidence, page: Page) -> Context | None:
    found = evidence.comparison
    if found is None:
        return None
    parts = []
    for index, part in enumerate(found.parts):
        name = f"reader-comparison-{reader_views.suffix(found.parts, index)}"
        plan = reader_views.plan_table(part, f"{name}-plan")
        parts.append({
            "part": part, "who": reader_views.who(part), "sentences": reader_views.statements(part),
            "forest": page.figure(f"{name}-forest", reader_figures.forest(part)),
            "bars": page.figure(f"{name}-wins", reader_figures.win_bars(part)),
            "table": page.table(reader_views.result_table(part, name)),
            "rater_table": page.table(reader_views.rater_table(part, f"{name}-raters")),
            "flagged": any(row.share_first or row.share_second for row in part.flags),
            "flag_table": page.table(reader_views.flag_table(part, f"{name}-flags")),
            "plan_table": page.table(plan) if plan else None,
        })  # fmt: skip
    examples = [(f"{one.mode}: {one.text or 'masks only'}", pictures) for one, pictures in found.source.examples]
    sheet = page.figure("reader-comparison-examples", reader_figures.example_sets(examples)) if examples else None
    people, proof = reader_views.people_state(found.source), reader_views.proof(found.source.trained_on)
    return {"source": found.source, "parts": parts, "sheet": sheet, "people": people, "proof": proof}


def _samples_part(evidence: Evidence, page: Page) -> Context | None:
    run = evidence.evaluation
    sheets = [_sheet(path) for path in sorted(run.folder.glob("sheets/*.png"))[:MAX_SHEETS]] if run else []
    pairs = evidence.pool_pairs
    if not sheets and not pairs:
        return None
    figure = None
    if pairs:
        arms = list(pairs[0].images)
        same = [pair for pair in pairs if list(pair.images) == arms]
        rows = [(pair.text, [pair.images[arm] for arm in arms]) for pair in same]
        figure = page.figure("samples", figures.sample_sheet(rows, arms))
    return {"sheets": sheets, "figure": figure}


def _sheet(path: Path) -> dict[str, str]:
    """A PNG as a data URI, reduced where it is very wide."""
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        picture.thumbnail((MAX_SHEET_WIDTH, picture.height), Image.Resampling.LANCZOS)  # never makes it larger
        picture.save(buffer, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    index, _, mode = path.stem.partition("-")
    name = f"{int(index)}, {mode.upper()}" if index.isdigit() else path.stem.replace("-", " ").replace("_", " ")
    return {"name": name, "uri": uri}


def _downstream_part(evidence: Evidence, page: Page) -> Context | None:
    grid = evidence.grid
    if grid is None or not grid.cells:
        return None
    rules, rows, stored = grid.rules, grid.comparisons, grid.to_json()
    page.table(Table("cells", "Every cell", (), [], stored["cells"]))
    page.table(Table("per-class", "Every class of every cell", (), [], stored["per_class"]))
    tested = [row for row in rows if isinstance(row, PairedComparison)]
    power_figure = figures.power_curve(rules.n_seeds, rules.family_size, rules.alpha)
    return {
        "sentences": sentences(grid),
        "tables": [page.table(table) for table in grid_tables.cell_tables(grid.cells)],
        "comparisons": [page.table(table) for table in grid_tables.comparison_tables(grid)],
        "untested": [row for row in rows if isinstance(row, UntestedComparison)],
        "slopes": page.figure("downstream", figures.seed_slopes(grid.cells)),
        "forest": page.figure("forest", figures.forest(rows, rules.relevant_difference)) if tested else None,
        "power": page.table(grid_tables.power_rows(grid.power, rules.family_size)),
        "power_figure": page.figure("power", power_figure),
        "study_power": grid.study_power, "n_test": max((row.n_test_patients for row in tested), default=0),
        "flags": sorted({row.flag for row in tested if row.flag}),
    }  # fmt: skip


def _provenance_part(evidence: Evidence, page: Page) -> Context:
    newest = evidence.runs[-1].provenance if evidence.runs else {}
    shown = [[one.what, one.name, one.sha256[:16]] for one in evidence.hashes]
    rows = [asdict(one) for one in evidence.hashes]
    header, caption = ("What", "Name", "SHA-256"), "Content hashes, first 16 digits"
    return {
        "runs": page.table(tables.run_table(evidence.runs)),
        "hashes": page.table(Table("hashes", caption, header, shown, rows, 3)),
        "packages": newest.get("packages", {}),
        **{key: newest.get(key) for key in ("python", "git", "machine")},
    }
