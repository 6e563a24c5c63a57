"""Edge artifacts: exported, loaded again, run on real images, and compared."""

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from pipelines.config.schema import Config
from pipelines.data.dataset import open_dataset
from pipelines.errors import UserError
from pipelines.models.load import Model
from srmodels.edge.target import EdgeTarget, ExportSettings, check_parity, make_target
from srmodels.latency import Latency, num_threads, time_by_turns
from srmodels.upscale import to_tensor

#: Real validation images that an artifact is compared on.
PARITY_IMAGES = 4


def export_artifact(name: str, config: Config, model: Model, directory: Path) -> dict[str, Any]:
    """Exports a model to one edge target, into a bundle's directory, and returns its evidence.

    Raises:
        UserError: the artifact differs from PyTorch by more than `export.max_error`.
    """
    settings, target = config.export, make_target(name)
    tile = settings.tile
    path = directory / "edge" / target.file
    path.parent.mkdir(exist_ok=True)
    print(f"Exporting {name} for LR tiles of {tile}x{tile} px …", flush=True)
    target.export(model.network, path, ExportSettings(tile, settings.opset))
    images = _real_tiles(config, model, tile)
    parity = check_parity(model.network, target.load(path), images)
    if parity.max_error > settings.max_error:
        raise UserError(
            f"{name} differs from PyTorch by {parity.max_error:.2e}, more than "
            f"export.max_error={settings.max_error:.2e}: try another export.opset, or "
            "raise export.max_error if that is good enough for you."
        )
    latency = _latency(target, path, images[0], settings.latency_runs)
    print(
        f"  max error {parity.max_error:.1e} ({parity.sqnr_db} dB) on {parity.num_images} real "
        f"images, {latency.median_ms} ms per tile on {latency.threads} threads"
    )
    return {
        "file": path.relative_to(directory).as_posix(),
        "input": {"name": "x_l", "shape": [1, 3, tile, tile], "range": [0, 1], "order": "RGB"},
        "output": {"name": "x_h", "shape": [1, 3] + [tile * model.network.scale] * 2},
        "parity": asdict(parity),
        "latency": asdict(latency) | {"machine": f"{platform.machine()}, {platform.system()}"},
    }


def _latency(target: EdgeTarget, path: Path, x_l: Tensor, runs: int) -> Latency:
    """Times one tile on all threads, after three runs to warm up."""
    runner = target.load(path, num_threads())
    times = time_by_turns({"": lambda: runner.run(x_l)}, runs, warm_up=3)
    return Latency.of(x_l.shape[-1], times[""], num_threads())


def _real_tiles(config: Config, model: Model, tile: int) -> list[Tensor]:
    """LR tiles made from validation photos by antialiased reduction."""
    dataset = open_dataset(config.data, config.stream)
    samples = dataset.manifest.split("val")
    step = max(1, len(samples) // PARITY_IMAGES)
    return [
        to_tensor(
            np.asarray(
                Image.fromarray(dataset.tile(sample)).resize((tile, tile), Image.Resampling.BICUBIC)
            )
        )
        for sample in samples[::step][:PARITY_IMAGES]
    ]
