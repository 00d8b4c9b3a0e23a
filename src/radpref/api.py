"""The names a notebook needs: open a study, its tables as DataFrames, sample, align, evaluate (docs/notebook.md).

Everything here calls what the commands call and resumes as they do; nothing is loaded before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from radpref.data.study.study import Study

_CONDITIONS = "SELECT condition_id, mode, text, asked, text_record, mask_record FROM conditions ORDER BY condition_id"
_PAIRS = "SELECT set_id, slot_i, slot_j, criterion, p, n_raters, rater_kind, split FROM pairs WHERE run_id = ?"


def open_study(path: str | Path) -> Study:
    """The study in the folder ``path``; make one with ``radpref study new``.

    Raises:
        NotFound: there is no study. InvalidInput: its study.toml cannot be used.
    """
    from radpref.data.study.study import Study

    return Study(Path(path))


def scores(study: Study, raters: Literal["human", "simulated"] | None = None) -> pd.DataFrame:
    """Current scores of rating sets, one row per rater, image and criterion (value 0-5); ``raters``: one kind only."""
    from radpref.data.reader_study.scores import score_table

    return score_table(study.db, raters)


def conditions(study: Study) -> pd.DataFrame:
    """What images were asked for: id, mode (T2I, M2I, TM2I), text, ``asked`` (finding -> 0 or 1), source records."""
    import pandas as pd

    table = pd.DataFrame(study.db.rows(_CONDITIONS))
    return table.assign(asked=table["asked"].map(json.loads)) if len(table) else table


def pairs(study: Study, run_id: str | None = None) -> pd.DataFrame:
    """Preference pairs of a pairs run (default: the newest): p is the probability that slot_i is preferred to slot_j.

    Raises:
        NotFound: no pairs were made yet (:func:`make_pairs`), or there is no such run.
    """
    import pandas as pd

    from radpref.alignment.preferences.pairs import find_pairs_run

    return pd.DataFrame(study.db.rows(f"{_PAIRS} ORDER BY pair_id", [find_pairs_run(study, run_id).run_id]))


def make_pairs(study: Study, raters: str = "auto") -> pd.DataFrame:
    """Turn the scores as they are now into pairs and return them; ``raters``: human, simulated, or the only kind.

    Raises:
        NotFound: nothing was scored. Conflict: people and simulated raters scored, and ``raters`` is "auto".
    """
    from radpref.alignment.preferences.pairs import run_pairs

    return pairs(study, run_pairs(study, raters=raters)["run_id"])


def sample(
    study: Study,
    text: str | None = None,
    masks: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    *,
    arm: str = "baseline",
    n: int = 4,
    seed: int = 0,
    device: str = "auto",
) -> npt.NDArray[np.uint8]:
    """Images (n, H, W) uint8 of one condition, with the sampler, steps and guidance of study.toml; seeds from ``seed``.

    Args:
        masks: structure of study.toml -> (H, W) bool at the generator's size.
        arm: baseline, aligned, finetuned or another trained arm.

    Raises:
        InvalidInput: neither text nor mask, an unknown structure, or a mask of another size.
        NotFound: the arm was not trained.
    """
    import numpy as np

    from radpref.data.core.errors import InvalidInput
    from radpref.generation.sampling.sampler import load_sampler
    from radpref.generation.sampling.sampler import sample as draw
    from radpref.generation.stack.conditions import Condition

    stack, settings, mask = load_sampler(study, arm, device), study.config.generator, None
    if masks:
        if unknown := sorted(set(masks) - set(stack.structures)):
            raise InvalidInput(f"masks: no structure '{unknown[0]}'; study.toml has {', '.join(stack.structures)}")
        size = (stack.image_size, stack.image_size)
        if wrong := [name for name, plane in masks.items() if np.shape(plane) != size]:
            raise InvalidInput(f"mask of '{wrong[0]}' is {np.shape(masks[wrong[0]])}; the generator draws {size}")
        mask = np.stack([np.asarray(masks.get(name, np.zeros(size)), dtype=bool) for name in stack.structures])
    images = draw(
        stack, [Condition(text, mask)] * n, list(range(seed, seed + n)), n_steps=settings.n_steps,
        guidance_scale=settings.guidance_scale, batch_size=settings.batch_size, precision=settings.precision,
    )  # fmt: skip
    return np.asarray(images, dtype=np.uint8)


def align(study: Study, *, arm: str = "aligned", n_steps: int | None = None, device: str = "auto") -> dict[str, Any]:
    """Train an arm on the newest pairs and return its figures: Diffusion-DPO, or fine-tuning for ``arm="finetuned"``.

    Raises:
        NotFound: there are no pairs. InvalidInput: a bad arm name, number of steps or device.
    """
    from radpref.alignment.training.preference_arms import run_align, run_finetune

    train = run_finetune if arm == "finetuned" else run_align
    return train(study, arm=arm, n_steps=n_steps, device=device)


def evaluate(
    study: Study,
    arms: Sequence[str] | None = None,
    *,
    n_conditions: int | None = None,
    n_images: int | None = None,
    device: str = "cpu",
) -> pd.DataFrame:
    """Measure arms on conditions no rated set used: one row per arm and figure, with value, low, high (95 %) and n.

    Raises:
        NotFound: no trained arm, or no judge. InvalidInput: too few numbers or unused validation records.
    """
    import pandas as pd

    from radpref.alignment.evaluation.evaluate import run_evaluate

    found = run_evaluate(study, arms=arms, n_conditions=n_conditions, n_images=n_images, device=device)
    rows = [
        {"arm": arm, "figure": name, **(figure if isinstance(figure, Mapping) else {"value": figure})}
        for part in ("arms", "comparisons")
        for arm, figures in found[part].items()
        for name, figure in figures.items()
        if not isinstance(figure, Mapping) or "value" in figure
    ]
    return pd.DataFrame(rows, columns=["arm", "figure", "value", "low", "high", "n"])
