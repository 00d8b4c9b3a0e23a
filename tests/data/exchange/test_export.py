"""Exports: every format reads back equal, arms stay out until they may be named, formulas stay text."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from radpref.alignment.preferences.pairs import run_pairs
from radpref.annotate_app.cli import app
from radpref.data.cli import study_app
from radpref.data.core.errors import InvalidInput, StorageFull
from radpref.data.exchange.export import FORMATS, ExportOptions
from radpref.data.exchange.export import export as export_study
from radpref.data.exchange.export_folder import MANIFEST
from radpref.data.exchange.table_files import FILE_TYPES, original_cell, safe_cell
from radpref.data.exchange.tables import Table, agreement_table, database_tables
from radpref.data.reader_study import lifecycle
from radpref.data.reader_study.scores import score_table
from radpref.data.study.migrations import MIGRATIONS
from radpref.data.study.study import Study
from tests.data.reader_study.test_lifecycle import add_person_scores
from tests.support.data import add_pair, add_rated_set, full_disk_after
from tests.support.errors import refuses

RISKY = ['=HYPERLINK("x")', "+1", "-1", "@SUM(1)", "\tx", "\rx", "'=1", "''-", "it's", "plain", 'a "quoted", \n line']


@pytest.fixture
def scored(study: Study) -> Study:
    """A simulated rater and two people on two sets, a pair, comments that look like formulas; arms in the record."""
    sets = [add_rated_set(study, 0), add_rated_set(study, 1, "TM2I")]
    add_rated_set(study, 0 + 2, rater="sim-2")
    with study.db.write() as connection:
        connection.execute("UPDATE set_images SET arm = 'secret-arm', seed = 771100 + slot")
        add_pair(connection, sets[0])
    for name in ("ann", "bob"):
        add_person_scores(study, 0, name=name)
    shown = add_person_scores(study, 1, name="ann")
    for number, text in enumerate(RISKY):
        with study.db.write() as connection:
            connection.execute(
                "INSERT INTO score_events(uuid, presentation_id, rater_id, kind, comment, client, created_at)"
                " VALUES (?, ?, ?, 'comment', ?, '{}', '9')",
                (f"u{number}", shown["presentation_id"], shown["rater_id"], text),
            )
    with study.db.write() as connection:
        connection.execute(
            "INSERT INTO score_events(uuid, presentation_id, rater_id, kind, client, created_at)"
            " VALUES ('s', ?, ?, 'submit', '{\"active_ms\": 12345}', '9')",
            (shown["presentation_id"], shown["rater_id"]),
        )
    return study


def run(study: Study, target: Path, file_types: tuple[str, ...] = tuple(FILE_TYPES)) -> dict[str, Any]:
    options = ExportOptions(file_types=file_types, n_boot=20)
    return export_study(study, target, "tables", options, actor="office").to_json()


def expected(study: Study) -> dict[str, Table]:
    tables = database_tables(study.db, arms=lifecycle.arms_visible(study.db))
    return {table.name: table for table in [*tables, agreement_table(study, 20)]}


def typed(text: str, kind: str) -> Any:
    """A CSV cell as the manifest says to read it."""
    if text == "" and kind != "text":
        return None
    readers: dict[str, Any] = {"int": int, "float": float, "bool": lambda cell: {"true": True, "false": False}[cell]}
    return readers[kind](text) if kind in readers else original_cell(text)


def test_csv_reads_back_equal(scored: Study, tmp_path: Path) -> None:
    run(scored, tmp_path / "e", ("csv",))
    manifest = json.loads((tmp_path / "e" / MANIFEST).read_text())
    for name, table in expected(scored).items():
        columns = manifest["tables"][name]["columns"]
        with (tmp_path / "e" / "csv" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
        assert header == [column["name"] for column in columns] == [column.name for column in table.columns]
        read = [tuple(typed(cell, one["type"]) for cell, one in zip(row, columns, strict=True)) for row in rows]
        # An empty cell is a missing value; no text here is empty.
        assert [tuple(None if cell == "" else cell for cell in row) for row in read] == list(table.rows), name
        assert manifest["tables"][name]["rows"] == len(rows) > 0


def test_parquet_reads_back_equal_and_typed(scored: Study, tmp_path: Path) -> None:
    run(scored, tmp_path / "e", ("parquet",))
    arrow = {"text": "string", "int": "int64", "float": "double", "bool": "bool"}
    for name, table in expected(scored).items():
        read = pq.read_table(tmp_path / "e" / "parquet" / f"{name}.parquet")
        assert [str(field.type) for field in read.schema] == [arrow[column.kind] for column in table.columns]
        assert [tuple(row.values()) for row in read.to_pylist()] == list(table.rows)
        described = {field.name: field.metadata[b"description"].decode() for field in read.schema}
        assert described == {column.name: column.description for column in table.columns}


def test_datasets_read_back_equal_and_typed(scored: Study, tmp_path: Path) -> None:
    run(scored, tmp_path / "e", ("datasets",))
    read = datasets.load_from_disk(str(tmp_path / "e" / "datasets"))
    tables = expected(scored)
    assert isinstance(read, datasets.DatasetDict)
    assert set(read) == set(tables)
    for name, table in tables.items():
        assert [tuple(row.values()) for row in read[name]] == list(table.rows)
        assert list(read[name].features) == [column.name for column in table.columns]
    assert read["scores"].features["value"] == datasets.Value("int64")
    assert read["scores"].features["simulated"] == datasets.Value("bool")


def test_scores_are_those_of_the_analysis(scored: Study, tmp_path: Path) -> None:
    run(scored, tmp_path / "e", ("parquet",))

    def both() -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        read = pd.read_parquet(tmp_path / "e" / "parquet" / "scores.parquet")
        found = read[["rater", "set_id", "slot", "criterion", "value"]].itertuples(index=False, name=None)
        table = score_table(scored.db)[["username", "set_id", "slot", "criterion", "value"]]
        return sorted(found), sorted(table.itertuples(index=False, name=None))

    read, table = both()
    assert read == table
    assert len(read) == 24
    lifecycle.lock(scored, "office")  # the pilot leaves the analysis; no person has scored since
    run(scored, tmp_path / "e", ("parquet",))
    read, table = both()
    assert read == table
    assert {row[0] for row in read} == {"sim-1", "sim-2"} or read == []


def test_letters_follow_the_rater_s_own_order(scored: Study) -> None:
    with scored.db.write() as connection:
        connection.execute("DROP TRIGGER presentations_kept")
        connection.execute("UPDATE presentations SET slots = '2031'")
    scores = next(table for table in database_tables(scored.db, arms=False) if table.name == "scores")
    names = [column.name for column in scores.columns]
    found = {(row[names.index("slot")], row[names.index("letter")]) for row in scores.rows}
    assert found == {(2, "A"), (0, "B"), (3, "C"), (1, "D")}


def test_simulated_rows_are_labelled_in_every_table(scored: Study, tmp_path: Path) -> None:
    assert run(scored, tmp_path / "e")["simulated"] is True
    for path in (tmp_path / "e" / "parquet").glob("*.parquet"):
        read = pd.read_parquet(path)
        assert (read["simulated"] == (read["rater_kind"] == "simulated")).all()
        if "rater" in read:
            assert (read["simulated"] == read["rater"].str.startswith("sim")).all()
    manifest = json.loads((tmp_path / "e" / MANIFEST).read_text())
    assert manifest["simulated"] is True
    assert "programs" in manifest["simulated_note"]


def everything(folder: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.suffix in (".csv", ".json"))


def test_arms_stay_out_until_the_freeze(scored: Study, tmp_path: Path) -> None:
    for stage in ("pilot", "locked"):
        assert lifecycle.stage(scored.db) == stage
        assert run(scored, tmp_path / "e")["arms"] is False
        text = everything(tmp_path / "e")
        assert "secret-arm" not in text
        assert "77110" not in text
        manifest = json.loads((tmp_path / "e" / MANIFEST).read_text())
        assert manifest["arms"]["included"] is False
        assert "study freeze" in manifest["arms"]["why_not"]
        assert "arm" not in pq.read_table(tmp_path / "e" / "parquet" / "scores.parquet").column_names
        if stage == "pilot":
            lifecycle.lock(scored, "office", keep_scores=True)
    assert scored.db.value("SELECT count(*) FROM audit_events WHERE action = ?", (lifecycle.REVEALED,)) == 0
    lifecycle.freeze(scored, "office")
    assert run(scored, tmp_path / "e")["arms"] is True
    scores = pd.read_parquet(tmp_path / "e" / "parquet" / "scores.parquet")
    assert set(scores["arm"]) == {"secret-arm"}
    assert set(scores["seed"]) == {771100, 771101, 771102, 771103}
    last = scored.db.row("SELECT actor, action, detail FROM audit_events ORDER BY audit_id DESC LIMIT 1")
    assert last is not None
    assert (last["actor"], last["action"]) == ("office", lifecycle.REVEALED)


def test_early_unblinding_is_in_the_manifest(scored: Study, tmp_path: Path) -> None:
    lifecycle.unblind(scored.db, "office", "adverse finding")
    run(scored, tmp_path / "e", ("csv",))
    manifest = json.loads((tmp_path / "e" / MANIFEST).read_text())
    assert manifest["arms"] == {"included": True, "why_not": None}
    assert manifest["unblinded_before_freeze"]["reason"] == "adverse finding"


def test_the_export_of_every_table_keeps_the_same_rule(scored: Study, tmp_path: Path) -> None:
    with scored.db.write() as connection:
        connection.execute("UPDATE runs SET config = json_object('arms', 'secret-arm', 'seed', 771100)")
        connection.execute("INSERT INTO invites VALUES (1, 'secret-token-hash', 3, '1', 'x', '2', NULL)")
        connection.execute("UPDATE presentations SET token = 'secret-' || presentation_id")
    assert export_study(scored, tmp_path / "e", "csv", actor="office").arms is False
    text = everything(tmp_path / "e")
    assert "secret" not in text
    assert "77110" not in text
    assert (tmp_path / "e" / "set_images.csv").read_text().splitlines()[0] == "set_id,slot,image_sha"
    lifecycle.unblind(scored.db, "office", "adverse finding")
    assert export_study(scored, tmp_path / "f", "csv", actor="office").arms is True
    assert "secret-arm" in (tmp_path / "f" / "set_images.csv").read_text()
    assert "secret-token" not in everything(tmp_path / "f")


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_is_one_whole_folder_with_a_manifest(scored: Study, tmp_path: Path, format_: str) -> None:
    with scored.db.write() as connection:  # ann's four scores of the first set become pairs
        connection.execute(
            "INSERT INTO score_events(uuid, presentation_id, rater_id, kind, client, created_at)"
            " SELECT 'done', presentation_id, rater_id, 'submit', '{}', '9' FROM presentations"
            " JOIN raters USING (rater_id)"
            " WHERE username = 'ann' AND set_id = 'set-0'"
        )
    run_pairs(scored, raters="human")
    options = ExportOptions(raters="human", ties=True, file_types=("csv",), n_boot=20)
    target = tmp_path / "e"
    for _ in range(2):  # the second time over the first
        found = export_study(scored, target, format_, options, actor="office")
        described = json.loads((target / MANIFEST).read_text())
        files = {path.relative_to(target).as_posix(): path for path in target.rglob("*") if path.is_file()}
        assert set(described["files"]) == files.keys() - {MANIFEST} != set()
        for name, sha256 in described["files"].items():
            assert hashlib.sha256(files[name].read_bytes()).hexdigest() == sha256
        assert (described["kind"], described["raters"]) == (FORMATS[format_], found.raters)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "study"]
    for other in FORMATS.keys() - {format_}:
        with refuses(InvalidInput, target, FORMATS[other]):
            export_study(scored, target, other, options, actor="office")


def test_both_commands_write_the_same_tables(scored: Study, tmp_path: Path) -> None:
    for command, folder, more in ((app, "a", ()), (study_app, "b", ("--format", "tables"))):
        words = ["export", str(tmp_path / folder), *more, "--study", str(scored.root)]
        assert CliRunner().invoke(command, words).exit_code == 0
    tables = [json.loads((tmp_path / folder / MANIFEST).read_text())["tables"] for folder in "ab"]
    assert tables[0] == tables[1]
    for path in (tmp_path / "a").rglob("*.csv"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_a_study_of_programs_alone_shows_its_arms(study: Study, tmp_path: Path) -> None:
    add_rated_set(study)
    assert run(study, tmp_path / "e", ("csv",))["arms"] is True


def test_nothing_secret(scored: Study, tmp_path: Path) -> None:
    with scored.db.write() as connection:
        connection.execute("UPDATE raters SET password_hash = 'secret-hash' WHERE kind = 'human'")
        connection.execute("INSERT INTO sessions VALUES ('secret-session', 3, '1', '1', '1')")
    run(scored, tmp_path / "e")
    assert not any(b"secret" in path.read_bytes() for path in (tmp_path / "e").rglob("*") if path.is_file())
    assert str(scored.root).encode() not in b"".join(p.read_bytes() for p in (tmp_path / "e").rglob("*") if p.is_file())


@pytest.mark.parametrize("text", RISKY)
def test_formulas_stay_text(text: str) -> None:
    cell = safe_cell(text)
    assert cell[0] not in "=+-@\t\r"
    assert original_cell(cell) == text


def test_numbers_are_not_touched() -> None:
    assert [safe_cell(value) for value in (-1, -0.5, None, "")] == [-1, -0.5, None, ""]


def test_the_manifest_names_every_file_with_its_hash(scored: Study, tmp_path: Path) -> None:
    run(scored, tmp_path / "e")
    manifest = json.loads((tmp_path / "e" / MANIFEST).read_text())
    files = {path.relative_to(tmp_path / "e").as_posix() for path in (tmp_path / "e").rglob("*") if path.is_file()}
    assert set(manifest["files"]) == files - {MANIFEST}
    for name, sha256 in manifest["files"].items():
        assert hashlib.sha256((tmp_path / "e" / name).read_bytes()).hexdigest() == sha256
    assert (manifest["study"], manifest["stage"], manifest["schema"]) == ("fresh", "pilot", len(MIGRATIONS))
    assert manifest["radpref"]
    assert manifest["created_at"].endswith("+00:00")
    for table in manifest["tables"].values():
        assert table["description"]
        assert all(column["description"] and column["type"] for column in table["columns"])


def test_again_replaces_and_leaves_nothing_behind(scored: Study, tmp_path: Path) -> None:
    run(scored, tmp_path / "e")
    run(scored, tmp_path / "e", ("csv",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "study"]
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == [MANIFEST, "csv"]


def test_an_interrupted_export_leaves_the_earlier_one(
    scored: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(scored, tmp_path / "e", ("csv",))
    before = (tmp_path / "e" / MANIFEST).read_bytes()
    full_disk_after(monkeypatch, 2)
    with pytest.raises(StorageFull):
        run(scored, tmp_path / "e", ("csv",))
    monkeypatch.undo()
    assert (tmp_path / "e" / MANIFEST).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "study"]


def test_refusals(scored: Study, tmp_path: Path) -> None:
    with refuses(InvalidInput, "--format", "xlsx", "csv", "parquet", "datasets"):
        run(scored, tmp_path / "e", ("xlsx",))
    assert not (tmp_path / "e").exists()
    with refuses(InvalidInput, scored.root):
        run(scored, scored.root)
    (tmp_path / "file").write_text("x")
    with refuses(InvalidInput, tmp_path / "file"):
        run(scored, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    run(scored, tmp_path / "empty", ("csv",))


def test_an_empty_study(study: Study, tmp_path: Path) -> None:
    found = run(study, tmp_path / "e")
    assert set(found["tables"].values()) == {0}
    assert pq.read_table(tmp_path / "e" / "parquet" / "scores.parquet").num_rows == 0


def test_agreement_rows(scored: Study) -> None:
    table = agreement_table(scored, 50)
    names = [column.name for column in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in table.rows]
    people = [row for row in rows if row["rater_kind"] == "human" and row["scope"] == "all"]
    icc = next(row for row in people if row["criterion"] == "text" and row["measure"] == "icc_2_1")
    assert icc["value"] == pytest.approx(1.0) or icc["value"] is None
    assert (icc["n_raters"], icc["simulated"]) == (2, False)
    assert all(row["measure"] or row["not_computable"] for row in rows)


def test_commands(scored: Study, tmp_path: Path) -> None:
    runner = CliRunner()
    arguments = ["export", str(tmp_path / "e"), "--study", str(scored.root), "--n-boot", "20"]
    shown = runner.invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "arms stay hidden" in shown.output
    assert "programs, not from people" in shown.output
    found = json.loads(runner.invoke(app, [*arguments, "--format", "csv", "--json"]).stdout)
    assert found["tables"]["events"] == scored.db.value("SELECT count(*) FROM score_events")
    assert (tmp_path / "e" / "csv").is_dir()
    assert not (tmp_path / "e" / "parquet").exists()
    assert isinstance(runner.invoke(app, [*arguments, "--format", "xlsx"]).exception, InvalidInput)
    assert runner.invoke(study_app, ["export", str(tmp_path / "t"), "--study", str(scored.root)]).exit_code == 0


def test_open_invitations_are_not_backed_up(scored: Study, tmp_path: Path) -> None:
    from radpref.data.upkeep.backup import backup, restore

    with scored.db.write() as connection:
        connection.execute(
            "INSERT INTO invites VALUES (1, 'open', 3, '1', 'x', '2', NULL), (2, 'used', 3, '1', 'x', '2', '1')"
        )
    backup(scored, tmp_path / "b")
    restore(tmp_path / "b", tmp_path / "c")
    again = Study(tmp_path / "c")
    assert [row["token_hash"] for row in again.db.rows("SELECT token_hash FROM invites")] == ["used"]
    again.db.close()
