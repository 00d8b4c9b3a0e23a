"""Exchange: Pick-a-Pic parquet as DPO scripts read it, the authors' pair file both ways, Hugging Face datasets."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from radpref.alignment.preferences.pairs import run_pairs
from radpref.data.cli import study_app
from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.exchange.export import ExportOptions
from radpref.data.exchange.export import export as export_study
from radpref.data.exchange.export_folder import MANIFEST
from radpref.data.exchange.pair_file import FILE, read_pair_lines
from radpref.data.exchange.pair_import import asked_of_text, import_study_jsonl
from radpref.data.exchange.pair_sets import group_sets
from radpref.data.exchange.pick_a_pic import COLUMNS
from radpref.data.imaging.images import is_marked_synthetic
from radpref.data.reader_study import lifecycle
from radpref.data.reader_study.raters import add_rater, get_rater
from radpref.data.reader_study.scores import ScoreEvent, record_events, required_scores, score_table
from radpref.data.study.study import Study
from radpref.data.upkeep.verify import verify
from tests.support.annotate import add_sets
from tests.support.errors import refuses

MODES = ("T2I", "M2I", "TM2I", "T2I")
Score = Callable[[int, int, str], int]
"""(number of the set, slot, criterion) -> 0-5."""


def score(study: Study, sets: list[str], rater: str, value: Score, kind: str = "human") -> None:
    """A rater scores and submits the sets."""
    who = add_rater(study.db, rater, None, kind).rater_id  # type: ignore[arg-type]
    for number, set_id in enumerate(sets):
        mode = study.db.value(
            "SELECT mode FROM image_sets JOIN conditions USING (condition_id) WHERE set_id = ?", (set_id,)
        )
        with study.db.write() as connection:
            shown = connection.execute(
                "INSERT INTO presentations(token, rater_id, set_id, position, slots, phase)"
                " VALUES (?, ?, ?, ?, '0123', 'main')",
                (uuid.uuid4().hex, who, set_id, number),
            ).lastrowid
        events = [
            ScoreEvent(str(uuid.uuid4()), shown, who, "score", slot, criterion, value(number, slot, criterion))
            for slot, criterion in required_scores(mode)
        ]
        record_events(study.db, [*events, ScoreEvent(str(uuid.uuid4()), shown, who, "submit")])


def rising(number: int, slot: int, criterion: str) -> int:
    return slot + (criterion == "mask")


def some_ties(number: int, slot: int, criterion: str) -> int:
    return (3, 3, 1, 5)[slot] if number else 2  # everything alike in set 0


@pytest.fixture
def scored(study: Study) -> Study:
    """Four sets of 64 px, 8 bit, scored by two people; all ties of bob in the first set."""
    sets = add_sets(study, MODES, size=64, bits=8)
    score(study, sets, "ann", rising)
    score(study, sets, "bob", some_ties)
    return study


def export(study: Study, target: Path, name: str, **options: Any) -> dict[str, Any]:
    return export_study(study, target, name, ExportOptions(**options), actor="office").to_json()


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return found


# --- Pick-a-Pic --------------------------------------------------------------------------------------------------


def preprocess(examples: dict[str, list[Any]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The steps of the public Diffusion-DPO loaders: decode both columns, to RGB, winner first by label_0."""
    columns = [
        [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in examples[name]]
        for name in ("jpg_0", "jpg_1")
    ]
    found = []
    for pair, label in zip(zip(*columns, strict=True), examples["label_0"], strict=True):
        found.append(pair[::-1] if label == 0 else pair)
    return found


def test_dpo_scripts_read_the_parquet_unchanged(scored: Study, tmp_path: Path) -> None:
    run_pairs(scored)
    found = export(scored, tmp_path / "pickapic_export", "pick-a-pic", ties=False)
    loaded = datasets.load_dataset(str(tmp_path / "pickapic_export"), cache_dir=str(tmp_path / "cache"))
    assert {name: part.num_rows for name, part in loaded.items()} == found["rows"]
    assert set(loaded) == {"train", "validation"}
    for part in loaded.values():
        assert part.column_names[:18] == [
            "are_different", "best_image_uid", "caption", "created_at", "has_label", "image_0_uid", "image_1_uid",
            "image_0_url", "image_1_url", "jpg_0", "jpg_1", "label_0", "label_1", "model_0", "model_1", "ranking_id",
            "user_id", "num_example_per_prompt",
        ]  # fmt: skip
        assert part.features["jpg_0"].dtype == "binary"
        assert part.features["label_0"].dtype == "float64"
        batch = part[:]
        assert set(batch["label_0"]) <= {0.0, 1.0}  # what the scripts know
        assert all(isinstance(caption, str) for caption in batch["caption"])
        for (winner, loser), row in zip(preprocess(batch), part, strict=True):
            assert winner.shape == loser.shape == (64, 64, 3)
            best = row["best_image_uid"]
            assert best == (row["image_0_uid"] if row["label_0"] == 1 else row["image_1_uid"])
            assert np.array_equal(winner[..., 0], scored.store.image(best))
            assert (row["p"] > 0.5) == (row["label_0"] == 1.0)
            assert row["label_0"] + row["label_1"] == 1
            assert row["has_label"]
            assert not row["simulated"]
    assert loaded["train"].filter(lambda row: row["mode"] == "T2I")[0]["caption"]


def test_every_pair_of_the_study_is_one_row(scored: Study, tmp_path: Path) -> None:
    run_id = run_pairs(scored)["run_id"]
    found = export(scored, tmp_path / "e", "pick-a-pic")
    tables = [pq.read_table(path).to_pylist() for path in sorted((tmp_path / "e" / "data").glob("*.parquet"))]
    rows = [row for table in tables for row in table]
    pairs = {row["pair_id"]: row for row in scored.db.rows("SELECT * FROM pairs WHERE run_id = ?", (run_id,))}
    assert len(rows) == len(pairs) == sum(found["rows"].values()) == 6 * 5
    for row in rows:
        pair = pairs[row["ranking_id"]]
        assert (row["p"], row["criterion"], row["n_raters"]) == (pair["p"], pair["criterion"], pair["n_raters"])
        assert row["label_0"] == (0.5 if pair["p"] == 0.5 else float(pair["p"] > 0.5))
        assert (row["best_image_uid"] == "tie") == (row["label_0"] == 0.5)
        assert (row["conditioning_jpg"] is None) == (row["mode"] == "T2I")
        assert (row["caption"] == "") == (row["mode"] == "M2I")
        assert row["num_example_per_prompt"] == sum(
            other["caption"] == row["caption"] for table in tables if row in table for other in table
        )
    assert found["ties"] == sum(row["label_0"] == 0.5 for row in rows) > 0
    assert any("diffusers' script takes them as wins" in note for note in found["notes"])
    described = manifest(tmp_path / "e")
    assert [one["name"] for one in described["columns"]] == [name for name, _, _ in COLUMNS]
    assert (described["raters"], described["simulated"], described["stage"]) == ("human", False, "pilot")
    only = export(scored, tmp_path / "e", "pick-a-pic", criterion="text", ties=False)
    assert sum(only["rows"].values()) == sum(row["criterion"] == "text" and row["label_0"] != 0.5 for row in rows)


def test_images_of_16_bit_are_readable_by_everyone(study: Study, tmp_path: Path) -> None:
    score(study, add_sets(study, ("T2I", "T2I"), size=64, bits=16), "ann", rising)
    run_pairs(study)
    export(study, tmp_path / "e", "pick-a-pic")
    row = pq.read_table(sorted((tmp_path / "e" / "data").glob("*.parquet"))[0]).to_pylist()[0]
    opened = Image.open(io.BytesIO(row["jpg_0"]))
    assert opened.mode == "L"
    assert "Synthetic" in opened.text  # the mark goes along
    expected = np.round(study.store.image(row["image_0_uid"]).astype(np.float32) / 257)
    assert np.array_equal(np.asarray(opened), expected)


def test_arms_stay_hidden_until_they_may_be_named(scored: Study, tmp_path: Path) -> None:
    run_pairs(scored)
    for name in ("pick-a-pic", "study-jsonl", "datasets"):
        found = export(scored, tmp_path / name, name)
        assert not found["arms"]
        content = b"".join(path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file())
        assert b"baseline" not in content
    lifecycle.lock(scored, "office", keep_scores=True)
    lifecycle.freeze(scored, "office")
    found = export(scored, tmp_path / "pick-a-pic", "pick-a-pic")
    row = pq.read_table(sorted((tmp_path / "pick-a-pic" / "data").glob("*.parquet"))[0]).to_pylist()[0]
    assert (found["arms"], row["model_0"]) == (True, "baseline")
    actions = [row["detail"] for row in scored.db.rows("SELECT * FROM audit_events WHERE action = 'arms revealed'")]
    assert "pick-a-pic export to pick-a-pic" in actions[-1]


def test_people_and_programs_never_stand_in_one_file(scored: Study, tmp_path: Path) -> None:
    sets = [row["set_id"] for row in scored.db.rows("SELECT set_id FROM image_sets ORDER BY ordinal")]
    score(scored, sets, "sim-1", rising, "simulated")
    run_pairs(scored, raters="human")
    run_pairs(scored, raters="simulated")
    for name in ("pick-a-pic", "study-jsonl"):
        with refuses(Conflict, "--raters", "human"):
            export(scored, tmp_path / name, name)
        assert not (tmp_path / name).exists()
        for kind in ("human", "simulated"):
            found = export(scored, tmp_path / name, name, raters=kind)
            assert found["simulated"] == manifest(tmp_path / name)["simulated"] == (kind == "simulated")
    lines = [json.loads(line) for line in (tmp_path / "study-jsonl" / FILE).read_text().splitlines()]
    assert {(line["rater"], line["simulated"]) for line in lines} == {("sim-1", True)}
    tables = [pq.read_table(path).to_pylist() for path in (tmp_path / "pick-a-pic" / "data").glob("*.parquet")]
    assert {row["simulated"] for table in tables for row in table} == {True}


def test_what_cannot_be_exported(study: Study, tmp_path: Path) -> None:
    with refuses(NotFound, "annotate serve", "annotate simulate"):
        export(study, tmp_path / "e", "pick-a-pic")
    with refuses(NotFound, study.root, "data import"):
        export(study, tmp_path / "e", "datasets")
    score(study, add_sets(study, ("T2I",), size=64, bits=8), "ann", rising)
    with refuses(NotFound, "align pairs --raters human"):
        export(study, tmp_path / "e", "pick-a-pic")
    with refuses(NotFound, "simulated", "annotate simulate"):
        export(study, tmp_path / "e", "study-jsonl", raters="simulated")
    for options, named in (
        ({"name": "docx"}, ("--format", "docx")),
        ({"name": "pick-a-pic", "raters": "robots"}, ("--raters", "robots")),
        ({"name": "pick-a-pic", "criterion": "beauty"}, ("--criterion", "beauty")),
    ):
        with refuses(InvalidInput, *named):
            export(study, tmp_path / "e", **options)
    assert not (tmp_path / "e").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with refuses(InvalidInput, tmp_path / "full", "study-jsonl"):
        export(study, tmp_path / "full", "study-jsonl")
    if Path("/proc/self").exists():  # a place where no folder can be made, whoever asks
        with refuses(InvalidInput, "/proc/radpref-export"):
            export(study, Path("/proc/radpref-export"), "study-jsonl")
    export(study, tmp_path / "e", "study-jsonl")
    with refuses(InvalidInput, tmp_path / "e", "datasets"):  # another format's folder is not overwritten
        export(study, tmp_path / "e", "datasets")


# --- the authors' pair file --------------------------------------------------------------------------------------


def other_study(tmp_path: Path, name: str = "other", structures: str = "") -> Study:
    return Study.create(tmp_path / name, f'name = "{name}"\n[data]\nimage_size = 64\n{structures}')


@pytest.mark.parametrize("ties", [False, True])
def test_export_import_export_is_equal(scored: Study, tmp_path: Path, ties: bool) -> None:
    first = export(scored, tmp_path / "a", "study-jsonl", ties=ties)
    other = other_study(tmp_path)
    found = import_study_jsonl(other, tmp_path / "a")
    assert (found.n_sets, found.n_lines, found.n_quarantined) == (4, first["lines"], 0)
    assert found.modes == {"M2I": 1, "T2I": 2, "TM2I": 1}
    second = export(other, tmp_path / "b", "study-jsonl", ties=ties)
    assert {key: second[key] for key in ("lines", "sets", "raters")} == {
        key: first[key] for key in ("lines", "sets", "raters")
    }
    names = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("*") if path.is_file())
    assert len(names) > 20
    for name in names:
        if name.name != MANIFEST:
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    if ties:  # nothing is left out, so the scores are those of the first study
        columns = ["username", "mode", "slot", "criterion", "value"]

        def scores(one: Study) -> list[tuple[Any, ...]]:
            return sorted(score_table(one.db)[columns].itertuples(index=False, name=None))

        assert scores(scored) == scores(other)
        assert len(scores(other)) == 2 * (3 * 4 + 8)
    assert verify(other).problems == []
    other.db.close()


def test_lines_are_those_of_the_authors(scored: Study, tmp_path: Path) -> None:
    export(scored, tmp_path / "a", "study-jsonl")
    lines = [json.loads(line) for line in (tmp_path / "a" / FILE).read_text().splitlines()]
    for line in lines:
        ranks = [(line["rank_t_1"], line["rank_t_2"]), (line["rank_m_1"], line["rank_m_2"])]
        assert (line["text"] == "N/A") == (ranks[0] == ("N/A", "N/A"))
        assert (line["conditioning_image"] == "N/A") == (ranks[1] == ("N/A", "N/A"))
        given = [int(value) for pair in ranks for value in pair if value != "N/A"]
        assert given
        assert all(0 <= value <= 5 for value in given)
        assert any(a != b for a, b in ranks)  # as theirs, without pairs scored alike
        for key in ("image_1", "image_2", "conditioning_image"):
            if line[key] != "N/A":
                assert Image.open(tmp_path / "a" / line[key]).convert("RGB").size == (64, 64)
        assert is_marked_synthetic(tmp_path / "a" / line["image_1"])
    by_ann = [line for line in lines if line["rater"] == "ann"]
    assert len(by_ann) == 4 * 6
    assert len({(line["image_1"], line["image_2"]) for line in by_ann}) == 4 * 6  # i < j: each pair once


def authors_file(folder: Path, n: int = 2, style: str = "json", **changes: Any) -> Path:
    """Files as the authors' scripts left them: JPEG images and masks, no rater, each pair once, ties left out."""
    ranks = ["0", "4", "3", "4"]
    lines: list[dict[str, Any]] = []
    rng = np.random.default_rng(3)
    for number in range(n):
        mode = ("t2i", "tm2i", "m2i")[number % 3]
        stem = f"images/{mode}/case{number}_heart"
        (folder / "images" / mode).mkdir(parents=True, exist_ok=True)
        mask = np.zeros((80, 80), np.uint8)
        mask[20:60, 30:50] = 255
        for k in range(1, 5):
            Image.fromarray(rng.integers(0, 256, (80, 80)).astype(np.uint8)).save(folder / f"{stem}_{k}.jpg")
            Image.fromarray(mask).save(folder / f"{stem}_mask_{k}.jpg")
        for i in range(4):
            for j in range(i + 1, 4):
                if ranks[i] == ranks[j]:
                    continue
                lines.append({
                    "text": "N/A" if mode == "m2i" else "mild pulmonary congestion and cardiomegaly",
                    "image_1": f"{stem}_{i + 1}.jpg",
                    "conditioning_image": "N/A" if mode == "t2i" else f"{stem}_mask_{i + 1}.jpg",
                    "image_2": f"{stem}_{j + 1}.jpg",
                    "rank_t_1": "N/A" if mode == "m2i" else ranks[i],
                    "rank_m_1": "N/A" if mode == "t2i" else ranks[i],
                    "rank_t_2": "N/A" if mode == "m2i" else ranks[j],
                    "rank_m_2": "N/A" if mode == "t2i" else ranks[j],
                })  # fmt: skip
    for key, value in changes.items():
        if value is None:
            del lines[2][key]
        else:
            lines[2][key] = value
    path = folder / "pairs.jsonl"
    write = json.dumps if style == "json" else str
    path.write_text("".join(write(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("style", ["json", "python"])
def test_the_authors_own_file_becomes_sets_of_four(study: Study, tmp_path: Path, style: str) -> None:
    path = authors_file(tmp_path / "theirs", 3, style)
    found = import_study_jsonl(study, path, rater="reader-1")
    assert (found.n_sets, found.n_scores) == (3, 4 + 8 + 4)
    assert found.raters == {"reader-1": "human"}
    assert found.modes == {"M2I": 1, "T2I": 1, "TM2I": 1}
    rows = study.db.rows("SELECT slot, value FROM current_scores JOIN image_sets USING (set_id) WHERE ordinal = 0")
    assert [row["value"] for row in sorted(rows, key=lambda row: row["slot"])] == [0, 4, 3, 4]
    assert study.db.rows("SELECT DISTINCT structure FROM condition_masks") == [{"structure": "heart"}]  # by its name
    asked = json.loads(study.db.value("SELECT asked FROM conditions WHERE mode = 'T2I'"))
    assert asked == {"vascular_congestion": 1, "cardiomegaly": 1}
    rater = get_rater(study.db, "reader-1")
    assert (rater.active, rater.kind) == (False, "human")
    assert [source["file"] for source in rater.detail["imported"]] == ["pairs.jsonl"]
    assert lifecycle.stage(study.db) == "pilot"
    assert lifecycle.pilot_scores(study.db).n_scores == 0  # scored elsewhere: no pilot of this study
    assert verify(study).problems == []
    assert run_pairs(study)["n_pairs"] == 6 * 4
    lifecycle.lock(study, "office")
    assert len(score_table(study.db)) == 16  # a lock keeps them
    with refuses(Conflict, "locked"):
        import_study_jsonl(study, path)


def test_a_finished_import_does_nothing_again(study: Study, tmp_path: Path) -> None:
    path = authors_file(tmp_path / "theirs")
    first = import_study_jsonl(study, path)
    again = import_study_jsonl(study, path, rater="someone")
    assert again == replace(first, already_done=True)
    assert study.db.value("SELECT count(*) FROM score_events") == 4 + 1 + 8 + 1
    other = tmp_path / "theirs" / "more.jsonl"
    other.write_text(path.read_text().replace("mild", "severe"))
    with refuses(Conflict, "imported", "--rater"):
        import_study_jsonl(study, other)
    assert import_study_jsonl(study, other, rater="second").n_sets == 2
    add_rater(study.db, "ann", None, "human")
    third = tmp_path / "theirs" / "third.jsonl"
    third.write_text(path.read_text().replace("mild", "small"))
    with refuses(Conflict, "ann", "--rater"):  # people of this study are nobody else
        import_study_jsonl(study, third, rater="ann")
    assert import_study_jsonl(study, third, rater="second").n_sets == 2  # more by the same imported rater
    assert len(get_rater(study.db, "second").detail["imported"]) == 2
    assert verify(study).problems == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rank_t_2": None}, ("pairs.jsonl", "rank_t_2")),
        ({"conditioning_image": None}, ("conditioning_image",)),
        ({"rank_t_1": "7"}, ("rank_t_1", 7, "0-5", "N/A")),
        ({"rank_t_1": "2.5"}, ("rank_t_1", 2.5)),
        ({"rank_t_1": True}, ("rank_t_1", True)),
        ({"rank_t_1": -1}, ("rank_t_1", -1)),
        ({"rank_t_1": "N/A"}, ()),
        ({"text": "N/A"}, ()),
        ({"rank_m_1": "3"}, ()),
        ({"image_2": "N/A"}, ()),
        ({"image_1": ""}, ("image_1",)),
        ({"text": 5}, ("text", 5)),
        ({"masks": [1]}, ("masks",)),
        ({"simulated": True}, ()),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_imported(
    study: Study, tmp_path: Path, changes: dict[str, Any], named: tuple[Any, ...]
) -> None:
    with refuses(InvalidInput, "pairs.jsonl", *named):
        import_study_jsonl(study, authors_file(tmp_path / "theirs", **changes))
    assert study.db.rows("SELECT * FROM runs") == []


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"", ()), (b"[1]\n", ("line 1",)), (b"{oops\n", ("line 1",)),
     (b"\xff\xfe\x00", ()), (b"__import__('os')\n", ("line 1",)),
     (b"[" * 100_000 + b"\n", ("line 1",))],
)  # fmt: skip
def test_a_file_that_is_no_pair_file(study: Study, tmp_path: Path, content: bytes, named: tuple[str, ...]) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    with refuses(InvalidInput, "x.jsonl", *named):
        import_study_jsonl(study, tmp_path / "x.jsonl")
    with refuses(NotFound, tmp_path / "missing.jsonl"):
        import_study_jsonl(study, tmp_path / "missing.jsonl")
    with refuses(NotFound, tmp_path / FILE):
        import_study_jsonl(study, tmp_path)


def test_sets_that_cannot_be_used_are_quarantined_and_tried_again(study: Study, tmp_path: Path) -> None:
    path = authors_file(tmp_path / "theirs", 4)
    missing = tmp_path / "theirs" / "images/tm2i/case1_heart_3.jpg"
    content = missing.read_bytes()
    missing.unlink()
    found = import_study_jsonl(study, path)
    assert (found.n_sets, found.n_quarantined) == (3, 1)
    assert "case1_heart_3.jpg" in Path(str(found.quarantine)).read_text()
    missing.write_bytes(content)
    found = import_study_jsonl(study, path)
    assert (found.n_sets, found.n_quarantined) == (1, 0)
    assert study.db.value("SELECT count(*) FROM image_sets") == 4
    assert not get_rater(study.db, "imported").active
    assert verify(study).problems == []
    assert import_study_jsonl(study, path).already_done


def quarantine_reason(study: Study, path: Path, **options: Any) -> str:
    with pytest.raises(InvalidInput) as raised:
        import_study_jsonl(study, path, **options)
    return str(raised.value)


def test_reasons_of_quarantine(study: Study, tmp_path: Path) -> None:
    path = authors_file(tmp_path / "theirs", 1)
    lines = path.read_text().splitlines()

    def rewritten(*chosen: str) -> Path:
        made = path.with_name(f"{len(list(path.parent.iterdir()))}.jsonl")
        made.write_text("\n".join(chosen) + "\n")
        return made

    assert "2 images are connected by pairs; a set has 4" in quarantine_reason(study, rewritten(lines[0]))
    twice = lines[0].replace('"rank_t_2": "4"', '"rank_t_2": "5"')
    assert "each line needs the key 'rater'" in quarantine_reason(study, rewritten(*lines, twice))
    other_text = lines[0].replace("mild", "severe")
    assert "differ in text" in quarantine_reason(study, rewritten(*lines, other_text))
    outside = [line.replace("images/t2i", "../images/t2i") for line in lines]
    assert "leads out of the file's folder" in quarantine_reason(study, rewritten(*outside))
    named = [line.replace("{", '{"rater": "a", ', 1) for line in lines] + [twice.replace("{", '{"rater": "b", ', 1)]
    assert "scores of b are incomplete" in quarantine_reason(study, rewritten(*named))
    (path.parent / "images/t2i/case0_heart_2.jpg").write_bytes(b"no image")
    assert "is not a readable image" in quarantine_reason(study, path)
    assert study.db.value("SELECT count(*) FROM image_sets") == 0


def test_masks_need_a_known_structure(tmp_path: Path) -> None:
    path = authors_file(tmp_path / "theirs")
    study = other_study(tmp_path, "lungs-only", 'structures = ["lungs", "lesion"]\n')
    with refuses(InvalidInput, "case1_heart_mask_1.jpg", "--structure", "lungs", "lesion"):
        import_study_jsonl(study, path)
    with refuses(InvalidInput, "spleen", "data.structures"):
        import_study_jsonl(study, path, structure="spleen")
    assert study.db.rows("SELECT * FROM runs") == []
    import_study_jsonl(study, path, structure="lesion")
    assert study.db.rows("SELECT DISTINCT structure FROM condition_masks") == [{"structure": "lesion"}]
    study.db.close()


def test_an_interrupted_import_goes_on(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import radpref.data.exchange.pair_import as module

    path = authors_file(tmp_path / "theirs", 4)
    real, calls = module._import_one, iter(range(100))

    def interrupted(*arguments: Any) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(module, "_import_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_study_jsonl(study, path)
    monkeypatch.setattr(module, "_import_one", real)
    found = import_study_jsonl(study, path)
    assert (found.n_sets, len(found.sets)) == (4, 4)
    assert study.db.value("SELECT count(DISTINCT run_id) FROM image_sets") == 1
    assert len(score_table(study.db)) == 4 + 8 + 4 + 4


def test_sets_are_found_through_shared_images(tmp_path: Path) -> None:
    path = authors_file(tmp_path / "theirs", 3)
    lines = read_pair_lines(path)
    rng = np.random.default_rng(0)
    shuffled = [lines[i] for i in rng.permutation(len(lines))]
    groups = group_sets(shuffled)
    assert [one.problems for one in groups] == [()] * 3
    assert sorted(one.images for one in groups) == sorted(one.images for one in group_sets(lines))
    assert {len(one.images) for one in groups} == {4}


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Small right effusion", {"pleural_effusion": 1, "pleural_effusion/right": 1}),
        ("Bilateral opacities", {"lung_opacity": 1, "lung_opacity/left": 1, "lung_opacity/right": 1}),
        ("Normal", {"normal": 1}), ("no acute finding", {"normal": 1}), ("purple haze", {}),
    ],
)  # fmt: skip
def test_what_a_text_without_a_record_asks_for(text: str, asked: dict[str, int]) -> None:
    assert asked_of_text(text) == asked


# --- datasets ----------------------------------------------------------------------------------------------------


def test_records_and_scored_sets_as_datasets(tiny_study: Study, tmp_path: Path) -> None:
    sets = add_sets(tiny_study, MODES, size=64, bits=8)
    score(tiny_study, sets, "ann", rising)
    score(tiny_study, sets[:2], "sim-1", some_ties, "simulated")
    found = export(tiny_study, tmp_path / "e", "datasets")
    assert found["records"] == {"train": 24, "val": 12, "test": 12}
    assert found["sets"] == {"human": 4, "simulated": 2}
    records = datasets.load_from_disk(str(tmp_path / "e" / "records"))
    scored = datasets.load_from_disk(str(tmp_path / "e" / "sets"))
    row = tiny_study.db.row("SELECT * FROM records WHERE split = 'val' ORDER BY record_id LIMIT 1") or {}
    first = records["val"][0]
    assert {key: first[key] for key in ("record_id", "patient_id", "caption", "report", "extra")} == {
        key: row[key] for key in ("record_id", "patient_id", "caption", "report", "extra")
    }
    assert np.array_equal(np.asarray(first["image"]), tiny_study.store.image(row["image_sha"]))
    labels = {r["label"]: r["value"] for r in tiny_study.db.rows("SELECT label, value FROM labels WHERE record_id = ?",
                                                                 (row["record_id"],))}  # fmt: skip
    assert first["labels"] == labels
    masks = {r["structure"]: r["mask_sha"] for r in tiny_study.db.rows(
        "SELECT structure, mask_sha FROM record_masks WHERE record_id = ?", (row["record_id"],))}  # fmt: skip
    for name in [column for column in records["val"].column_names if column.startswith("mask_")]:
        structure = name.removeprefix("mask_")
        if structure in masks:
            assert np.array_equal(np.asarray(first[name]) > 127, tiny_study.store.mask(masks[structure]))
        else:
            assert first[name] is None
    one = next(part for part in scored["human"] if part["mode"] == "TM2I")
    assert {(s["slot"], s["criterion"], s["value"]) for s in one["scores"]} == {
        (slot, criterion, rising(2, slot, criterion)) for slot in range(4) for criterion in ("text", "mask")
    }
    assert {s["rater"] for part in scored["human"] for s in part["scores"]} == {"ann"}
    assert {s["rater"] for part in scored["simulated"] for s in part["scores"]} == {"sim-1"}
    assert set(one["arms"]) == {"hidden"}
    sha = tiny_study.db.value("SELECT image_sha FROM set_images WHERE set_id = ? AND slot = 3", (one["set_id"],))
    assert np.array_equal(np.asarray(one["image_3"]), tiny_study.store.image(sha))
    # self-contained: no path into the study
    content = b"".join(path.read_bytes() for path in (tmp_path / "e").rglob("*") if path.is_file())
    assert str(tiny_study.root).encode() not in content


# --- commands ----------------------------------------------------------------------------------------------------


def test_the_commands(scored: Study, tmp_path: Path) -> None:
    runner = CliRunner()

    def run(*words: str) -> Any:
        return runner.invoke(study_app, list(words))

    study = ["--study", str(scored.root)]
    assert run("export", str(tmp_path / "csv"), *study).exit_code == 0
    assert (tmp_path / "csv" / "score_events.csv").is_file()
    shown = run("export", str(tmp_path / "j"), "--format", "study-jsonl", "--json", *study)
    assert json.loads(shown.output)["sets"] == 4
    shown = run("export", str(tmp_path / "j"), "--format", "study-jsonl", "--ties", *study)
    assert "arms stay hidden" in shown.output
    assert isinstance(run("export", str(tmp_path / "p"), "--format", "xml", *study).exception, InvalidInput)
    other = other_study(tmp_path)
    shown = run("import", str(tmp_path / "j"), "--json", "--study", str(other.root))
    assert json.loads(shown.output)["n_sets"] == 4
    other.db.close()
