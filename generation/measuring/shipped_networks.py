"""The shipped measuring networks: which ones, from which phantoms, how many steps; and their model card.

    python -m radpref.generation.measuring.shipped_networks --all --out generation/weights/measure

Every network has its own range of patients and its own architecture. Networks that are already in the folder are
skipped, so an interrupted run goes on with the next one; rendered phantoms are kept in the work folder.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import write_atomic
from radpref.generation.measuring.architectures import NetworkShape
from radpref.generation.measuring.measuring_data import MeasureData, phantom_data, phantom_specs
from radpref.generation.measuring.measuring_network import Role, load_measure, save_measure
from radpref.generation.measuring.network_training import MeasureSettings, train_measure

log = logging.getLogger(__name__)
IMAGE_SIZE = 128  # pixels of the rendered phantoms, the size of the embedded generator
TEST_DRAW, N_TEST = 80, 500  # one set of held-out patients for all networks, so that their figures compare


INTRODUCTION = [
    "# Measuring networks",
    "",
    "What simulated raters, the judge, the fidelity figures and the proxy see in an image. Those in this folder were",
    "trained on phantoms of `data/phantom/` only: **no use on patients**, and no real radiograph was seen; those in",
    "`cxr128/` on real ones (README there). To rebuild the former (the seconds are in the table: an hour of one core),",
    "remove this folder's files, but not `cxr128/`, and run",
    "`python -m radpref.generation.measuring.shipped_networks --all --out generation/weights/measure`.",
    "",
    "Every network has its own patients, seed and architecture; the study refuses one network in two roles. Figures:",
    f"{N_TEST} phantoms of patients that no network was trained or tuned on; thresholds from each network's own",
    "validation phantoms. Mild findings and the combinations kept back from the generator are among them.",
]
LIMITS = [
    "",
    "## Limits",
    "",
    "- They know phantoms. On real radiographs their answers mean nothing: train networks on real training images",
    "  (`radpref generate networks`).",
    "- Probabilities are not calibrated; thresholds are for the validation prevalence (about 15 % a finding).",
    "- The judge was trained by wall clock (7 minutes), the others by number of steps.",
    "- A rebuild gives the same networks only with the same versions of torch and numpy on the same kind of processor.",
]


@dataclass(frozen=True)
class Plan:
    """One shipped network."""

    name: str
    role: Role
    seed: int  # also picks the range of patients
    architecture: str  # "open_clip" for the proxy
    n_steps: int
    n_train: int = 2000
    n_validation: int = 300
    input_size: int = 80
    widths: tuple[int, ...] = (16, 32, 64, 96)
    depth: int = 1


PLANS: dict[str, Plan] = {
    plan.name: plan
    for plan in (
        Plan("judge", "judge", 10, "attentive", 555, 4000, 600, 96, (16, 32, 64, 128), 1),
        Plan("rater-1", "rater", 1, "residual", 700),
        Plan("rater-2", "rater", 2, "depthwise", 700),
        Plan("rater-3", "rater", 3, "plain", 700),
        Plan("rater-4", "rater", 4, "dense", 700),
        Plan("fidelity", "fidelity", 20, "dilated", 700),
        Plan("proxy", "proxy", 30, "open_clip", 1000, 4000, 400),
    )
}


def train_one(plan: Plan, out: Path, work: Path, *, scale: float = 1.0) -> None:
    """Train the network of `plan` into `out` unless it is there. `scale` shrinks steps and data."""
    done = out / plan.name / "proxy.json" if plan.role == "proxy" else out / f"{plan.name}.json"
    if done.is_file():
        log.info("%s is there, skipped", done)
        return
    n_train, n_val, n_test = (max(8, round(scale * n)) for n in (plan.n_train, plan.n_validation, N_TEST))
    train = phantom_data(n_train, plan.seed, 0, IMAGE_SIZE, work)
    validation = phantom_data(n_val, plan.seed + 40, 0, IMAGE_SIZE, work)
    n_steps = max(1, round(scale * plan.n_steps))
    log.info("%s: %d phantoms, %d steps", plan.name, n_train, n_steps)
    if plan.role == "proxy":
        from radpref.generation.measuring.proxy_training import train_proxy

        settings = MeasureSettings(n_steps, batch_size=64, learning_rate=1.5e-3)
        data = captioned(train, plan.seed), captioned(validation, plan.seed + 40)
        train_proxy(*data, out / plan.name, seed=plan.seed, settings=settings)
        return
    shape = NetworkShape(
        plan.architecture, len(train.attributes), len(train.structures), plan.input_size, plan.widths, plan.depth
    )
    test = phantom_data(n_test, TEST_DRAW, 0, IMAGE_SIZE, work)
    settings = MeasureSettings(n_steps=n_steps)
    net = train_measure(
        plan.name, plan.role, train, validation, shape=shape, seed=plan.seed, settings=settings, test=test
    )
    save_measure(net, out)


def captioned(data: MeasureData, draw: int) -> Any:
    """Phantom `data` of range `draw` (seed 0) with its captions: the canonical one first, then training paraphrases."""
    from radpref.data.phantom.text import canonical_caption, paraphrases
    from radpref.generation.measuring.proxy_training import CaptionedData

    specs = phantom_specs(len(data), draw, 0)
    captions = tuple(
        tuple(dict.fromkeys([canonical_caption(s.findings), *paraphrases(s.findings, unseen=False)])) for s in specs
    )
    return CaptionedData(data, captions, tuple(canonical_caption(spec.findings) for spec in specs))


def model_card(out: Path) -> str:
    """Model card (Markdown) of the networks in `out`: data, time, figures on held-out phantoms, limits."""
    nets = [load_measure(out / f"{name}.json") for name in PLANS if (out / f"{name}.json").is_file()]
    structures = nets[0].structures if nets else ()
    head = [
        "network", "role", "architecture", "input", "parameters", "phantoms", "steps", "seconds",
        "mean AUROC of findings", "mean F1", "mean side accuracy", *(f"Dice {name}" for name in structures),
    ]  # fmt: skip
    lines = [*INTRODUCTION, "", _row(head), "|" + "---|" * len(head)]
    for net in nets:
        figures, n = net.info.get("test_figures", net.info["validation_figures"]), net.info["train"]["n"]
        findings = [a for a in net.attributes if "/" not in a and a != "normal"]
        cells = [
            net.name, net.role, net.shape.architecture, net.shape.input_size,
            f"{sum(p.numel() for p in net.module.parameters()):,}", n, net.info["n_steps"], net.info["train_seconds"],
            _mean(figures["attributes"][a]["auroc"] for a in findings),
            _mean(figures["attributes"][a]["f1"] for a in findings),
            _mean(side["accuracy"] for side in figures["side_accuracy"].values()),
            *(_mean([figures["structures"][s]["dice"]]) for s in net.structures),
        ]  # fmt: skip
        lines.append(_row(cells))
    for net in nets[:1]:
        lines += ["", f"## Attribute by attribute: {net.name}", ""]
        lines += [_row(["attribute", "AUROC", "F1", "threshold", "positives"]), "|---|---|---|---|---|"]
        for name, row in net.info.get("test_figures", net.info["validation_figures"])["attributes"].items():
            lines.append(_row([name, row["auroc"], row["f1"], net.thresholds[name], row["n_positive"]]))
    return "\n".join([*lines, *_proxy_lines(out / "proxy" / "proxy.json"), *LIMITS]) + "\n"


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _mean(values: Any) -> str:
    kept = [value for value in values if value is not None]
    return f"{np.mean(kept):.3f}" if kept else "-"


def _proxy_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    info = json.loads(path.read_text(encoding="utf-8"))
    f = info["validation_figures"]
    return [
        "", "## The proxy", "",
        f"A small open_clip CLIP (ModifiedResNet, two text layers), {info['train']['n']} phantoms with captions,",
        f"{info['n_steps']} steps, {info['train_seconds']} s. On {f['n']} held-out phantoms against {f['n_captions']}",
        f"captions: exact caption first {f['top1']:.3f} (chance {f['chance_top1']:.3f}), among the first five",
        f"{f['top5']:.3f}, right but for the severity {f['finding_top1']:.3f}; mean cosine {f['matched_cosine']:.3f}",
        f"with the own caption, {f['mismatched_cosine']:.3f} with others.",
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of `python -m radpref.generation.measuring.shipped_networks`."""
    parser = argparse.ArgumentParser(
        prog="radpref.generation.measuring.shipped_networks", description="Train the measuring networks."
    )
    parser.add_argument("--all", action="store_true", help="all networks of the plan")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help=f"some of: {', '.join(PLANS)}")
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--work", type=Path, default=Path("~/.cache/radpref/measure").expanduser())
    parser.add_argument("--scale", type=float, default=1.0, help="shrink steps and data, e.g. 0.1 for a trial")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(options.threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    unknown = sorted(set(options.only) - set(PLANS))
    if unknown or not (options.all or options.only):
        raise InvalidInput(f"networks {unknown or '(none)'}: give --all, or --only with some of {', '.join(PLANS)}")
    for name in PLANS if options.all else options.only:
        train_one(PLANS[name], options.out, options.work, scale=options.scale)
        write_atomic(options.out / "README.md", model_card(options.out))


if __name__ == "__main__":
    main()
