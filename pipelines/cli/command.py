"""Upscales photos and lists models: the work of the `srmill` command."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from pipelines import __version__, interrupts
from pipelines.cli import triggers
from pipelines.cli.bundles import add_commands, add_signature_options, check_options
from pipelines.cli.compare import add_compare
from pipelines.cli.metrics import add_metrics
from pipelines.cli.photos import Task, upscale_file
from pipelines.cli.prune import add_prune
from pipelines.cli.submit import add_submit
from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference, shipped_models
from pipelines.config.schema import Config, ShardConfig
from pipelines.config.wording import shown
from pipelines.data.image_files import FORMATS
from pipelines.errors import Terminated, UserError, printable, told
from pipelines.models.artifacts import load_artifact
from pipelines.models.bundle import load_bundle
from pipelines.models.load import Model, champion, fetch, load_model
from pipelines.standard_output import standard_output
from pipelines.storage.paths import check_path
from srmodels.color import COLOR_FIXES
from srmodels.edge.target import PRECISIONS, RUNTIMES
from srmodels.tiling import Tiling

#: The largest number of tiles that are upscaled at once.
MAX_BATCH = 4096


#: What asks a process to end: a person or a system, or a terminal that was closed.
_ENDS = (signal.SIGTERM, signal.SIGHUP)


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs the command, and ends the process.

    Args:
        arguments: those of the command line, instead of `sys.argv`.
    """
    with standard_output():
        parsed = _parser().parse_args(arguments)
        # What runs under nohup ignores that its terminal is closed.
        heard = [number for number in _ENDS if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, _terminate) for number in heard}
        try:
            interrupts.raise_again()
            code = parsed.run(parsed)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
        except (KeyboardInterrupt, Terminated) as error:
            how, code = (
                ("terminated", 143) if isinstance(error, Terminated) else ("interrupted", 130)
            )
            with contextlib.suppress(OSError):  # the terminal may be gone
                print(f"{how}: finished files are whole, others were not written.", file=sys.stderr)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        raise SystemExit(code)


def _terminate(*_: Any) -> NoReturn:
    raise Terminated


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="srmill", description="Upscale photos with models trained by SRMill."
    )
    parser.add_argument("--version", action="version", version=f"srmill {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    upscale = commands.add_parser(
        "upscale",
        help="upscale a photo, or every photo of a folder",
        description="Upscales a photo, or every photo of a folder, as many times as the model "
        "does. Reads and writes PNG, JPEG and WebP of any size; transparency and orientation are "
        "kept right. In a folder, photos that are there already are left alone.",
    )
    upscale.add_argument("input", metavar="IN", help="a photo, or a folder of photos")
    upscale.add_argument("output", metavar="OUT", help="the file or the folder to write")
    upscale.add_argument(
        "--model",
        metavar="REF",
        help="a bundle directory, models:/NAME@ALIAS, or a shipped model's name "
        "(default: the best model that ships, else the demo's champion)",
    )
    upscale.add_argument(
        "--overlap",
        type=int,
        default=None,
        metavar="PX",
        help="LR pixels that neighbouring tiles share",
    )
    upscale.add_argument(
        "--batch", type=int, default=1, metavar="N", help="tiles that are upscaled at once"
    )
    upscale.add_argument(
        "--color-fix",
        choices=COLOR_FIXES,
        help="give the result the colours of the photo: wavelet keeps only the model's details, "
        "adain gives each channel the photo's mean and contrast",
    )
    upscale.add_argument(
        "--max-megapixels",
        type=float,
        default=ShardConfig.max_megapixels,
        metavar="N",
        help="refuse larger photos, since a small file may unpack to any size "
        "(default: %(default)g)",
    )
    upscale.add_argument(
        "--runtime",
        choices=sorted(RUNTIMES),
        help="run the bundle's artifact for this runtime instead of PyTorch (jobs/export.py makes "
        "artifacts)",
    )
    upscale.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="precision of the artifact (default: the highest that the bundle has for the runtime)",
    )
    upscale.add_argument("--overwrite", action="store_true", help="replace files that exist")
    upscale.set_defaults(run=_upscale)
    add_signature_options(upscale)
    add_compare(commands)
    add_commands(commands)
    triggers.add_commands(commands)
    add_submit(commands)
    add_metrics(commands)
    add_prune(commands)
    models = commands.add_parser("models", help="list the models at hand")
    models.set_defaults(run=_models)
    return parser


def default_model(config: Config) -> str:
    """Returns the best model that ships; where none does, the default recipe's champion."""
    shipped = shipped_models()
    return (
        config.recipe
        if config.recipe in shipped
        else (shipped or [str(champion(config.mlflow))])[0]
    )


def _models(_: argparse.Namespace) -> int:
    config = load_config([])
    shipped = shipped_models()
    print("Shipped with this project:")
    print("\n".join(f"  {name}" for name in shipped) or "  none yet")
    print("In the registry:")
    try:
        facts = load_bundle(fetch(champion(config.mlflow), config.mlflow)).facts
        scores = ", ".join(f"{name} {score:.4f}" for name, score in facts.metrics.means().items())
        print(f"  {champion(config.mlflow)}: {told(facts.recipe)}, ×{facts.scale}, {scores}")
    except UserError as error:
        print(f"  none: {error}")
    print(f"Default: {default_model(config)}")
    return 0


def _upscale(parsed: argparse.Namespace) -> int:
    source, target = check_path(parsed.input), check_path(parsed.output)
    tasks = find_tasks(source, target, parsed.overwrite)
    if not tasks:
        print(f"Nothing to do: every photo of {parsed.input} is in {parsed.output} already.")
        return 0
    config = load_config([])
    reference = ModelReference.parse(parsed.model or default_model(config))
    model = load_model(reference, config, check=lambda bundle: check_options(bundle, parsed))
    if model.bundle is None:
        check_options(None, parsed)
    tiling, run = _engine(model, parsed.runtime, parsed.precision)
    if parsed.overlap is not None:
        tiling = replace(tiling, overlap=parsed.overlap)
    if not 0 <= tiling.overlap < tiling.tile:
        raise UserError(f"--overlap must be at least 0 and less than the tile's {tiling.tile} px.")
    if not 1 <= parsed.batch <= MAX_BATCH:
        raise UserError(f"--batch must be 1 to {MAX_BATCH}, not {shown(parsed.batch)}.")
    if not parsed.max_megapixels > 0:
        raise UserError(f"--max-megapixels must be more than 0, not {parsed.max_megapixels}.")
    options = {
        "batch_size": parsed.batch,
        "color_fix": COLOR_FIXES.get(parsed.color_fix),
        "max_megapixels": parsed.max_megapixels,
    }
    failures = 0
    for task in tasks:
        try:
            width, height = upscale_file(run, model.network.scale, task, tiling, **options)
            print(f"{printable(str(task.target))}: {width}x{height} px")
        except UserError as error:
            if len(tasks) == 1:
                raise
            failures += 1
            print(f"skipped: {error}", file=sys.stderr)
    if failures:
        print(f"{len(tasks) - failures} photos upscaled, {failures} skipped.", file=sys.stderr)
    return 1 if failures else 0


def find_tasks(source: Path, target: Path, overwrite: bool) -> list[Task]:
    """Returns the photos to read, each with the file to write.

    Args:
        source: a photo or a folder of photos.
        target: a file or folder.
        overwrite: False leaves photos of a folder out that are in `target` already.

    Raises:
        UserError: there is nothing to read, a format cannot be written, or a file is in the way.
    """
    if source.is_dir():
        if target.exists() and not target.is_dir():
            raise UserError(f"{target} is a file: give a folder to write the photos to.")
        photos = sorted(p for p in source.iterdir() if p.is_file() and p.suffix.lower() in FORMATS)
        if not photos:
            raise UserError(
                f"{source} holds no photo: expected files ending in {', '.join(FORMATS)}."
            )
        tasks = [Task(photo, target / photo.name) for photo in photos]
        if target.exists() and target.samefile(source):
            raise UserError("IN and OUT are the same folder: choose another one to write to.")
        # A link that leads nowhere may lead to a disk that is away.
        return [
            task
            for task in tasks
            if overwrite or not (task.target.is_file() or task.target.is_symlink())
        ]
    if not source.exists():
        raise UserError(f"{source} does not exist: correct the path.")
    if target.is_dir():
        target = target / source.name
    if target.suffix.lower() not in FORMATS:
        raise UserError(f"cannot write '{target.name}': its name must end in {', '.join(FORMATS)}.")
    if target.exists() and target.samefile(source):
        raise UserError("IN and OUT are the same photo: choose another name to write to.")
    if os.path.lexists(target) and not overwrite:
        raise UserError(f"{target} exists: choose another name, or add --overwrite.")
    if not target.parent.exists():
        raise UserError(f"the folder {target.parent} does not exist: make it first.")
    return [Task(source, target)]


def _engine(
    model: Model, runtime: str | None, precision: str | None
) -> tuple[Tiling, Callable[[Tensor], Tensor]]:
    """Returns how photos are cut, and what upscales the tiles: the network, or an artifact.

    Raises:
        UserError: there is no such artifact, or a precision is given without a runtime.
    """
    import torch

    threads = len(os.sched_getaffinity(0))
    if runtime is not None:
        artifact = load_artifact(model, runtime, precision, threads)
        return artifact.tiling, artifact.run
    if precision is not None:
        raise UserError(f"--precision is an artifact's: add --runtime {next(iter(RUNTIMES))}.")
    torch.set_num_threads(threads)
    return model.network.tiling(model.config.export.tile), model.network
