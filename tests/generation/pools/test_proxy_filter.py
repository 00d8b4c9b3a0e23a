"""The proxy's pools: percentiles class by class, places, resumption, roles; and the arm that is trained on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from radpref import rounds
from radpref.alignment.training.proxy_arm import run_proxy
from radpref.data.config.alignment import ProxyConfig
from radpref.data.config.study_config import parse_config
from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.study.pools import PROXY_CANDIDATES, PROXY_FILTERED, PROXY_FINETUNED, pool_rows, pool_run
from radpref.data.study.study import Study
from radpref.data.upkeep.verify import verify
from radpref.generation.pools.pool import run_pool
from radpref.generation.pools.proxy_filter import candidate_multiple, class_prompts, keep_best, places
from radpref.generation.stack.places import find_model
from tests.support.errors import refuses
from tests.support.grown import grow
from tests.support.proxy import biomedclip_folder
from tests.support.sampling import SAMPLING_TOML, open_copy, stop_after

TOML = (
    SAMPLING_TOML
    + """
[proxy]
percentile = 75.0
finetune_steps = 3
finetune_images = 7
model = "biomedclip"

[align]
sets_per_step = 1
warmup_steps = 1
lora_rank = 2

[pool]
shard_size = 8

[downstream]
fractions = [0.5]
multiples = [1]
arms = ["baseline", "proxy-filtered", "proxy-finetuned"]

[[downstream.tasks]]
name = "three"
kind = "multilabel"
labels = ["cardiomegaly", "consolidation", "edema"]

[[downstream.tasks]]
name = "outline"
kind = "segmentation"
structure = "pneumothorax"
"""
)


class Brightness:
    """A proxy that likes bright images; it notes what it was shown."""

    sha256, shown = "b" * 64, list[str]()

    def paired_similarity(self, images: np.ndarray, texts: list[str]) -> np.ndarray:
        self.shown += texts
        return images.mean((1, 2)).astype(np.float32) / 255


@pytest.fixture
def make_study(tmp_path: Path, _tiny_template: Path) -> Iterator[Callable[..., Study]]:
    made: list[Study] = []

    def make(toml: str = TOML) -> Study:
        made.append(open_copy(_tiny_template, tmp_path / f"study-{len(made)}", toml))
        return made[-1]

    yield make
    for opened in made:
        opened.db.close()


@pytest.fixture
def bright(monkeypatch: pytest.MonkeyPatch) -> Brightness:
    scorer = Brightness()
    scorer.shown = []
    monkeypatch.setattr("radpref.generation.pools.proxy_filter.ProxyScorer.load", lambda *args, **options: scorer)
    return scorer


# ---- pure


def test_the_percentile_is_of_the_own_class_and_equal_scores_stay() -> None:
    classes = np.repeat([0, 1], 20)
    scores = np.concatenate([np.arange(20), 100 + np.arange(20)]).astype(np.float32)
    kept, thresholds = keep_best(scores, classes, 90)
    assert np.flatnonzero(kept).tolist() == [18, 19, 38, 39]
    assert thresholds == {0: pytest.approx(17.1), 1: pytest.approx(117.1)}
    tied, _ = keep_best(np.array([0, 1, 1, 1], np.float32), np.zeros(4, int), 90)
    assert tied.tolist() == [False, True, True, True]  # at the threshold, not only above it


@pytest.mark.parametrize("percentile", [0, 50, 75, 90, 95, 99])
@pytest.mark.parametrize("n", [1, 2, 7, 24])
def test_enough_candidates_are_sampled_for_every_class(percentile: float, n: int) -> None:
    multiple = candidate_multiple(percentile)
    scores = np.random.default_rng(n).normal(size=n * multiple).astype(np.float32)
    kept, _ = keep_best(scores, np.zeros(n * multiple, int), percentile)
    assert kept.sum() >= n
    assert multiple == {0: 1, 50: 2, 75: 4, 90: 10, 95: 20, 99: 100}[percentile]


def test_places_take_their_class_in_sampling_order() -> None:
    wanted = np.array([1, 0, 1, 0])
    classes = np.array([0, 1, 1, 0, 1, 0, 0])
    kept = np.array([False, True, False, True, True, False, True])
    assert places(wanted, classes, kept, ["a", "b"]).tolist() == [1, 3, 4, 6]
    kept[6] = False
    with refuses(InvalidInput, "a", 1, 2):
        places(wanted, classes, kept, ["a", "b"])


def test_prompts_come_from_the_template_or_one_by_one() -> None:
    names = ["pleural_effusion", "edema", "normal"]
    assert list(class_prompts(ProxyConfig(), names).values()) == ["pleural effusion", "edema", "Normal"]
    own = ProxyConfig(prompt="X-ray of {finding}", prompts={"normal": "no finding"})
    assert list(class_prompts(own, names).values()) == ["X-ray of pleural effusion", "X-ray of edema", "no finding"]
    for prompt in ("X-ray", "{disease}", "{finding"):
        with refuses(InvalidInput, "proxy.prompt", "study.toml"):
            parse_config({"proxy": {"prompt": prompt}})


# ---- pools


def test_the_pool_has_the_classes_of_the_baseline_and_its_best_candidates(
    make_study: Callable[..., Study], bright: Brightness
) -> None:
    study = make_study()
    found = run_pool(study, arms=["baseline", PROXY_FILTERED], tasks=["three"])
    baseline, kept, candidates = (
        pool_rows(study, "three", arm) for arm in ("baseline", PROXY_FILTERED, PROXY_CANDIDATES)
    )
    assert [row["labels"] for row in kept] == [row["labels"] for row in baseline]
    assert len(candidates) == 4 * len(kept)
    assert [row["image_sha"] for row in candidates[: len(baseline)]] == [row["image_sha"] for row in baseline]
    for labels in {json.dumps(row["labels"]) for row in kept}:
        own = [row for row in candidates if json.dumps(row["labels"]) == labels]
        means = {row["image_sha"]: study.store.image(row["image_sha"]).mean() for row in own}
        limit = np.percentile(np.array(list(means.values())), 75)
        chosen = [means[row["image_sha"]] for row in kept if json.dumps(row["labels"]) == labels]
        assert min(chosen) >= limit - 1e-3
        assert len(chosen) == len(own) // 4
    assert set(bright.shown) == {"cardiomegaly", "consolidation", "edema", "Normal"}
    figures = found["pools"][f"three/{PROXY_FILTERED}"]
    assert figures["candidates"] == len(candidates)
    for row in figures["by_class"].values():
        assert row["mean_kept"] >= row["threshold"] >= row["mean"] - 0.2
        assert row["kept"] == row["candidates"] // 4
    assert study.db.value("SELECT role FROM networks WHERE sha256 = ?", [bright.sha256]) == "proxy"


def test_masks_are_scored_against_their_structure(make_study: Callable[..., Study], bright: Brightness) -> None:
    study = make_study()
    run_pool(study, arms=[PROXY_FILTERED], tasks=["outline"])
    assert set(bright.shown) == {"pneumothorax"}
    for row in pool_rows(study, "outline", PROXY_FILTERED):
        structures = study.db.rows(
            "SELECT structure FROM condition_masks WHERE condition_id = ?", [row["condition_id"]]
        )
        assert "pneumothorax" in {mask["structure"] for mask in structures}


def test_no_record_of_another_split_is_read(
    make_study: Callable[..., Study], bright: Brightness, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    real = {str(row["image_sha"]) for row in study.db.rows("SELECT image_sha FROM records")}
    read, image = list[str](), study.store.image
    monkeypatch.setattr(study.store, "image", lambda sha: read.append(sha) or image(sha))
    run_pool(study, arms=[PROXY_FILTERED])
    assert read
    assert not real & set(read)
    sources = study.db.rows(
        "SELECT DISTINCT split FROM pool_images JOIN conditions USING (condition_id)"
        " JOIN records ON record_id IN (text_record, mask_record)"
    )
    assert [row["split"] for row in sources] == ["train"]
    assert verify(study).ok


def test_a_pool_of_another_size_has_candidates_of_its_own(make_study: Callable[..., Study], bright: Brightness) -> None:
    """Candidates of 8 places and of 13 repeat other classes: none is taken for the other."""
    study = make_study()
    for n in (8, 13):
        run_pool(study, arms=["baseline", PROXY_FILTERED], tasks=["three"], n=n)
        baseline, kept = (pool_rows(study, "three", arm) for arm in ("baseline", PROXY_FILTERED))
        assert [row["labels"] for row in kept] == [row["labels"] for row in baseline]
        assert len(kept) == n


def test_a_class_that_comes_out_short_is_named(make_study: Callable[..., Study], bright: Brightness) -> None:
    study = make_study(TOML.replace("percentile = 75.0", "percentile = 75.0\npool_multiple = 2"))
    with refuses(InvalidInput, "proxy.pool_multiple", "proxy.percentile"):
        run_pool(study, arms=[PROXY_FILTERED], tasks=["three"])
    with pytest.raises(NotFound):
        pool_run(study, "three", PROXY_FILTERED)


def test_an_interrupted_filter_goes_on(
    make_study: Callable[..., Study], bright: Brightness, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    monkeypatch.setattr("radpref.generation.pools.proxy_filter.SCORE_BATCH", 16)
    with monkeypatch.context() as patch:
        stop_after(patch, "radpref.generation.pools.proxy_filter.save_array", 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run_pool(study, arms=[PROXY_FILTERED], tasks=["three"])
    bright.shown.clear()
    sampled = run_pool(study, arms=[PROXY_FILTERED], tasks=["three"])["pools"][f"three/{PROXY_FILTERED}"]
    assert sampled["sampled"] == 0
    assert len(bright.shown) == sampled["candidates"] - 16
    bright.shown.clear()
    assert run_pool(study, arms=[PROXY_FILTERED], tasks=["three"])["images"] == {f"three/{PROXY_FILTERED}": 12}
    assert not bright.shown


def test_a_network_that_judges_cannot_filter(make_study: Callable[..., Study], bright: Brightness) -> None:
    study = make_study()
    with study.db.write() as connection:
        connection.execute("INSERT INTO networks VALUES (?, 'judge', 'x')", (bright.sha256,))
    with refuses(Conflict, "biomedclip", "judge", "proxy"):
        run_pool(study, arms=[PROXY_FILTERED])


# ---- the trained arm


def test_filter_train_and_sample_with_a_brought_proxy(make_study: Callable[..., Study]) -> None:
    """The whole of `radpref align proxy`, with a folder of BiomedCLIP's class inside the study."""
    study = make_study()
    biomedclip_folder(study.root / "biomedclip")
    result = run_proxy(study)
    assert result["training"]["n_images"] == 7
    assert result["training"]["n_steps"] == 3
    assert result["training"]["train_controlnet"]
    model = find_model(study, PROXY_FINETUNED)
    card = (study.root / model["path"] / "README.md").read_text()
    assert "percentile 75" in card
    for task in ("three", "outline"):
        pools = [pool_rows(study, task, arm) for arm in (PROXY_FILTERED, PROXY_FINETUNED)]
        assert len({len(rows) for rows in pools}) == 1
        assert [row["labels"] for row in pools[0]] == [row["labels"] for row in pools[1]]
    assert {row["role"] for row in study.db.rows("SELECT role FROM networks")} >= {"proxy"}
    grow(study)
    again = run_proxy(study)
    assert again["training"]["already_done"]
    assert [pool["sampled"] for arm in (PROXY_FILTERED, PROXY_FINETUNED) for pool in again[arm].values()] == [0] * 4
    assert again["training"]["sha256"] == result["training"]["sha256"]


def test_only_the_filter_trains_nothing(make_study: Callable[..., Study], bright: Brightness) -> None:
    study = make_study()
    assert set(run_proxy(study, arms=[PROXY_FILTERED])) == {PROXY_FILTERED}
    assert study.db.value("SELECT count(*) FROM models") == 0
    with refuses(InvalidInput, "--arm", "aligned"):
        run_proxy(study, arms=["aligned"])
    with refuses(InvalidInput, "n_steps", 0):
        run_proxy(study, n_steps=0)


def test_a_round_filters_before_it_evaluates_where_the_arms_are_asked_for(make_study: Callable[..., Study]) -> None:
    titles = [title for title, _ in rounds.after_scoring(make_study())]
    asked = titles.index("Filter and fine-tune by the proxy (control arm)")
    assert asked < titles.index("Evaluate on held-out conditions") < titles.index("Sample augmentation pools")
    plain = TOML.replace('"baseline", "proxy-filtered", "proxy-finetuned"', '"baseline", "aligned"')
    assert len(rounds.after_scoring(make_study(plain))) == len(titles) - 1
