"""Commands of ``radpref generate``: check, train, sets, pool, fidelity; heavy imports happen inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radpref.data.core.console import JsonOption, StudyOption, emit
from radpref.data.core.errors import InvalidInput

app = typer.Typer(no_args_is_help=True)


def parse_mix(text: str | None) -> tuple[int, ...] | None:
    """``75/15/10`` -> (75, 15, 10).

    Raises:
        InvalidInput: it is not three whole percentages.
    """
    if text is None:
        return None
    parts = text.split("/")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise InvalidInput(f"--mix {text}: give three percentages of T2I/M2I/TM2I, e.g. 75/15/10")
    return tuple(int(part) for part in parts)


@app.command()
def check(
    model: Annotated[
        str | None, typer.Argument(help="embedded, cxr128, directory, file or hub id; default generator.model.")
    ] = None,
    study: StudyOption = Path(),
    out: Annotated[Path | None, typer.Option(help="Folder for the test images as PNG.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Load a generator, say what it is, and draw one tiny test image in every mode it can do."""
    from radpref.data.study.study import Study
    from radpref.generation.stack.places import named_generator

    opened = Study(study) if model is None or (study / "study.toml").is_file() else None
    named_generator(opened, model or (opened.config.generator.model if opened else ""))  # before torch is loaded
    from radpref.generation.sampling.model_check import run_check

    emit(run_check(study, model, out), as_json)


@app.command()
def train(
    study: StudyOption = Path(),
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Reproduce the shipped embedded model instead (hours; needs no study).")
    ] = False,
    work: Annotated[Path, typer.Option(help="--embedded: folder for corpus and checkpoints.")] = Path("build/embedded"),
    out: Annotated[Path, typer.Option(help="--embedded: where the finished weights go.")] = Path(
        "build/embedded/stack"
    ),
    threads: Annotated[int, typer.Option(min=1, help="Processor cores to use.")] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a generator on the study's own training split (keys of `train` in study.toml). Run again to resume.

    One process; on several GPUs or hosts: accelerate launch --multi_gpu --num_processes N -m radpref generate train.
    """
    from radpref.data.study.study import Study
    from radpref.generation.stack.device import check_device
    from radpref.generation.training.request import check_training

    check_device(device)
    opened = None if embedded else Study(study)
    if opened is not None:
        check_training(opened, device)
    import torch

    torch.set_num_threads(threads)
    if opened is None:
        from radpref.generation.training.embedded import EmbeddedSettings, train_embedded

        train_embedded(work, out, EmbeddedSettings())
        emit({"model": str(out)}, as_json)
        return
    from radpref.generation.training.compute import launch_hint, make_compute
    from radpref.generation.training.study_training import run_train

    compute = make_compute(device)
    if hint := launch_hint(compute, study):
        typer.echo(hint, err=True)
    result = run_train(opened, device=device)
    if compute.is_main:
        emit(result, as_json)
    compute.close()


@app.command()
def networks(
    study: StudyOption = Path(),
    n_steps: Annotated[int, typer.Option(min=1, help="Optimizer steps per network.")] = 400,
    as_json: JsonOption = False,
) -> None:
    """Train the study's own measuring networks (raters', judge, fidelity) on its real training images."""
    from radpref.data.study.study import Study
    from radpref.generation.measuring.study_networks import run_networks

    emit(run_networks(Study(study), n_steps=n_steps), as_json)


@app.command()
def sets(
    study: StudyOption = Path(),
    n: Annotated[
        int | None,
        typer.Option(
            "--n", min=1, help="Number of sets; default sets.n of study.toml, for a comparison at most that many."
        ),
    ] = None,
    mix: Annotated[str | None, typer.Option(help="Percent T2I/M2I/TM2I, e.g. 75/15/10; default sets.mix.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; default sets.seed.")] = None,
    arms: Annotated[
        str,
        typer.Option(
            help="One arm, or two for a blinded comparison: baseline,aligned (aligned minus baseline is reported)."
        ),
    ] = "baseline",
    as_json: JsonOption = False,
) -> None:
    """Sample sets of four images of one condition, modes allotted exactly. Run again to resume.

    With two arms: sets for a blinded reader comparison, two images of each arm, of patients that no rating set used.
    """
    from radpref.data.study.study import Study
    from radpref.generation.sampling.sets import run_sets

    emit(
        run_sets(Study(study), n=n, mix=parse_mix(mix), seed=seed, arms=tuple(a.strip() for a in arms.split(","))),
        as_json,
    )


@app.command()
def pool(
    study: StudyOption = Path(),
    arm: Annotated[list[str] | None, typer.Option(help="Arm to sample (repeatable); default downstream.arms.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Task to sample for (repeatable); default all.")] = None,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="Images of each pool; default what the grid needs.")
    ] = None,
    multiple: Annotated[
        int | None, typer.Option(min=1, help="Or: this multiple of the largest real training subset.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="process or ray; default pool.engine of study.toml.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Ray workers; 0: one a GPU, or one a core; default pool.workers.")
    ] = None,
    gpus: Annotated[float, typer.Option(min=0.0, help="Part of a GPU that each Ray worker takes, e.g. 0.5.")] = 1.0,
    threads: Annotated[
        int, typer.Option(min=0, help="Processor threads; 0: all of them, a Ray worker one. Equal: equal bytes.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Sample the synthetic training images that the downstream grid needs, for every arm. Run again to resume."""
    from radpref.data.study.study import Study
    from radpref.generation.pools.options import EngineOptions
    from radpref.generation.pools.pool import run_pool

    opened = Study(study)
    settings = opened.config.pool
    options = EngineOptions(
        engine or settings.engine, settings.workers if workers is None else workers, gpus, threads, device
    )
    emit(run_pool(opened, arms=arm, tasks=task, n=n, multiple=multiple, engine=options), as_json)


@app.command()
def fidelity(
    study: StudyOption = Path(),
    arm: Annotated[
        list[str] | None, typer.Option(help="Arm (repeatable); default the baseline and trained downstream.arms.")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="Images of each; default 400, of --images all.")] = None,
    against: Annotated[str, typer.Option(help="Real split that FID and KID compare with: val, train or test.")] = "val",
    prompts: Annotated[str, typer.Option(help="Split whose captions and masks are sampled: val or train.")] = "val",
    images: Annotated[
        Path | None, typer.Option(help="Measure a folder of images (any generator's; subfolders: one prompt each).")
    ] = None,
    network: Annotated[
        str, typer.Option(help="Features by auto, torchxrayvision (its weights must be on disk) or fidelity.")
    ] = "auto",
    pictures: Annotated[bool, typer.Option(help="Show samples, and nearest training images on a page apart.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of prompts, samples and resampling.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """One page: FID and KID, diversity, asked masks and sides, and whether images are copies of training images."""
    from radpref.data.study.study import Study
    from radpref.generation.fidelity.request import FidelityRequest

    opened = Study(study)
    request = FidelityRequest(tuple(arm or ()), n, against, prompts, images, network, pictures, seed)
    request.check(opened)
    from radpref.generation.fidelity.report import run_fidelity

    report = run_fidelity(opened, request)
    emit(report.as_json() if as_json else report.summary(), as_json)


@app.command()
def share(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    credits_file: Annotated[Path, typer.Option("--credits", help="Markdown: whose images they are, known faults.")],
    name: Annotated[str, typer.Option(help="The model's name.")],
    structures: Annotated[str, typer.Option(help="Mask structures that it was trained on, with commas.")],
    study: StudyOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Write the trained generator as a folder to share: fp16, with its card. Refused where it may copy patients."""
    from radpref.data.study.study import Study
    from radpref.generation.fidelity.request import FidelityRequest, check_share

    if not credits_file.is_file():
        raise InvalidInput(f"no file {credits_file}; write whose images the model was trained on, and its known faults")
    try:
        text = credits_file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{credits_file} is not UTF-8 text ({error.reason}); write it as Markdown") from error
    opened = Study(study)
    check_share(opened, out)
    FidelityRequest().check(opened)
    from radpref.generation.fidelity.shipping import ship

    emit(ship(opened, out, name, [part.strip() for part in structures.split(",")], text), as_json)
