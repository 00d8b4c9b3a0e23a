"""Commands of the alignment room: ``radpref align pairs | train | proxy | evaluate``; ``radpref annotate simulate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from radpref.data.core.console import JsonOption, StudyOption

app = typer.Typer(no_args_is_help=True, help="Scores to pairs, Diffusion-DPO, held-out evaluation.")


def _tell(result: dict[str, Any], as_json: bool, lines: list[str]) -> None:
    for line in [json.dumps(result, indent=2)] if as_json else lines:
        typer.echo(line)


def _percent(figure: dict[str, Any] | None, scale: float = 100.0, digits: int = 1) -> str:
    if not figure or figure["value"] is None:
        return "-"
    text = f"{figure['value'] * scale:.{digits}f}"
    if figure["low"] is None:
        return text
    return f"{text} [{figure['low'] * scale:.{digits}f}, {figure['high'] * scale:.{digits}f}]"


@app.command()
def pairs(
    study: StudyOption = Path(),
    raters: str = typer.Option(None, help="human, simulated or auto (the only kind there is)."),
    min_raters: int = typer.Option(1, help="Leave out pairs that fewer raters scored."),
    as_json: JsonOption = False,
) -> None:
    """Turn the scores into preference pairs, train and held-out sets without a shared source."""
    from radpref.alignment.preferences.pairs import run_pairs
    from radpref.data.study.study import Study

    if raters not in (None, "human", "simulated", "auto"):
        raise typer.BadParameter(f"{raters!r} is unknown: use human, simulated or auto", param_hint="--raters")
    result = run_pairs(Study(study), raters=raters, min_raters=min_raters)
    _tell(
        result,
        as_json,
        [
            f"{result['n_pairs']} pairs, {result['n_ties']} ties, {result['n_sets']} sets ({result['raters']} raters): "
            f"{result['n_sets_train']} sets to train on, {result['n_sets_held_out']} held out",
            "next: radpref align train",
        ],
    )


@app.command()
def train(
    study: StudyOption = Path(),
    arm: list[str] = typer.Option(["aligned"], "--arm", help="aligned (Diffusion-DPO), finetuned, or both."),
    steps: int = typer.Option(None, help="Instead of align.n_steps of study.toml."),
    pairs_run: str = typer.Option(None, help="Pairs run to train on; the newest by default."),
    device: str = typer.Option("auto", help="auto, cpu or cuda."),
    as_json: JsonOption = False,
) -> None:
    """Train arms; the same command again resumes."""
    from radpref.alignment.requests import training_request
    from radpref.data.study.study import Study

    opened = Study(study)
    requests = [training_request(opened, name, pairs_run=pairs_run, n_steps=steps, device=device) for name in arm]
    from radpref.alignment.training.preference_arms import train_preference_arm  # torch comes with it

    results = {request.arm: train_preference_arm(request) for request in requests}
    lines = []
    for name, result in results.items():
        accuracy = result.get("held_out_accuracy")
        shown = "-" if accuracy is None else f"{accuracy:.2f}"
        lines.append(
            f"{name}: {result['n_steps']} steps in {result['train_s']:.0f} s, held-out implicit accuracy {shown}, "
            f"drift {result['drift']:.2f}, diversity {result['diversity']:.2f}"
        )
        if result.get("warning"):
            lines.append(f"{name}: warning: {result['warning']}")
    _tell(results, as_json, [*lines, "next: radpref align evaluate"])


@app.command()
def proxy(
    study: StudyOption = Path(),
    arm: list[str] = typer.Option(None, "--arm", help="proxy-filtered, proxy-finetuned (repeatable); both by default."),
    steps: int = typer.Option(None, help="Instead of proxy.finetune_steps of study.toml."),
    device: str = typer.Option("auto", help="Of the training: auto, cpu or cuda."),
    as_json: JsonOption = False,
) -> None:
    """Filter pools by the proxy, fine-tune on what it kept, sample that generator's pools. Run again to resume."""
    from radpref.alignment.requests import PROXY_ARMS, check_proxy
    from radpref.data.study.study import Study

    opened = Study(study)
    check_proxy(opened, arm or PROXY_ARMS, steps, device)  # before torch is loaded
    from radpref.alignment.training.proxy_arm import run_proxy

    result = run_proxy(opened, arms=arm or None, n_steps=steps, device=device)
    lines = [
        f"{name}: {pool['n']} of {pool['candidates']} images kept; "
        + ", ".join(f"{label} {row['kept']}/{row['candidates']}" for label, row in pool["by_class"].items())
        for name, pool in result["proxy-filtered"].items()
    ]
    if trained := result.get("training"):
        lines.append(
            f"{trained['arm']}: {trained['n_steps']} steps on {trained['n_images']} images "
            f"in {trained['train_s']:.0f} s, "
            f"drift {trained['drift']:.2f}, diversity {trained['diversity']:.2f}"
        )
    _tell(result, as_json, [*lines, "next: radpref align evaluate"])


@app.command()
def evaluate(
    study: StudyOption = Path(),
    arm: list[str] = typer.Option(None, "--arm", help="Arms beside the baseline; all trained ones by default."),
    conditions: int = typer.Option(None, min=1, help="Fresh conditions; align.evaluation_conditions by default."),
    images: int = typer.Option(None, min=1, help="Images of each; align.evaluation_images by default."),
    seed: int = typer.Option(None, help="Seed of conditions and images; align.seed by default."),
    judge: str = typer.Option("judge", help="Measuring network of role judge: name or path."),
    device: str = typer.Option("cpu", help="cpu or cuda."),
    as_json: JsonOption = False,
) -> None:
    """Compare the arms with the baseline on conditions that no rated set used."""
    from radpref.alignment.requests import check_evaluation
    from radpref.data.study.study import Study

    opened = Study(study)
    settings = opened.config.align
    check_evaluation(  # before torch is loaded
        opened, arm, conditions or settings.evaluation_conditions, images or settings.evaluation_images, judge, device
    )
    from radpref.alignment.evaluation.evaluate import run_evaluate

    result = run_evaluate(
        opened, arms=arm or None, n_conditions=conditions, n_images=images, seed=seed, judge=judge, device=device
    )
    lines = [
        f"{name}: hit rate {_percent(a['hit_rate'])} %, side {_percent(a['side_accuracy'])} %, "
        f"mask Dice {_percent(a['mask_dice'], 1, 3)}, diversity {a['diversity']:.2f}, drift {a['drift']:.2f}"
        for name, a in result["arms"].items()
    ]
    lines += [
        f"{name} against baseline: wins {_percent(c['win_rate'])} %, judge gain {_percent(c['judge_gain'], 1, 3)}, "
        f"raters' gain {_percent(c['rater_gain'], 1, 3)}, gap {_percent(c['reward_hacking_gap'], 1, 3)}"
        for name, c in result["comparisons"].items()
    ]
    _tell(result, as_json, lines)


def simulate(
    study: StudyOption = Path(),
    sets: int = typer.Option(None, min=1, help="Each rater scores at most so many sets now; all by default."),
    as_json: JsonOption = False,
) -> None:
    """Let the simulated raters of study.toml score the sets; always marked as simulated."""
    from radpref.alignment.requests import check_simulation
    from radpref.data.study.study import Study

    opened = Study(study)
    check_simulation(opened)  # before torch is loaded
    from radpref.alignment.evaluation.simulated_raters import run_simulate

    result = run_simulate(opened, n_sets=sets)
    each = ", ".join(f"{name} {count}" for name, count in result["n_sets"].items())
    _tell(
        result,
        as_json,
        [f"SIMULATED raters submitted {result['n_submitted']} sets ({each})", "next: radpref align pairs"],
    )
