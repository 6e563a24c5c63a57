"""Edge artifacts: exported, loaded again, run on real images, and compared."""

import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from pipelines.config.schema import ExportConfig
from pipelines.data.dataset import Dataset
from pipelines.errors import UserError
from pipelines.models.facts import EdgeArtifact, TensorSpec
from srmodels.edge.target import EdgeTarget, ExportSettings, check_parity, make_target
from srmodels.latency import Latency, num_threads, time_by_turns
from srmodels.network import SRNetwork
from srmodels.upscale import to_tensor

#: Number of real validation images that an artifact is compared on.
NUM_PARITY_IMAGES = 4


def export_artifact(
    name: str,
    settings: ExportConfig,
    network: SRNetwork,
    images: Sequence[Tensor],
    directory: Path,
) -> EdgeArtifact:
    """Exports a network to one edge target, into a bundle's directory, and returns its evidence.

    Args:
        name: name of the target, see `srmodels.edge.target.TARGETS`.
        images: real LR tiles `[1, 3, tile, tile]` in [0, 1] to compare on.
        directory: directory of the bundle.

    Raises:
        UserError: the artifact differs from PyTorch by more than `export.max_error`.
    """
    target, tile = make_target(name), settings.tile
    path = directory / "edge" / target.file
    path.parent.mkdir(exist_ok=True)
    print(f"Exporting {name} for LR tiles of {tile}x{tile} px …", flush=True)
    target.export(network, path, ExportSettings(tile, settings.opset))
    parity = check_parity(network, target.load(path), images)
    if not parity.max_error <= settings.max_error:  # NaN is no small error
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
    return EdgeArtifact(
        file=path.relative_to(directory).as_posix(),
        input=TensorSpec("x_l", (1, 3, tile, tile)),
        output=TensorSpec("x_h", (1, 3, tile * network.scale, tile * network.scale)),
        parity=parity,
        latency=latency,
        machine=f"{platform.machine()}, {platform.system()}",
    )


def _latency(target: EdgeTarget, path: Path, x_l: Tensor, runs: int) -> Latency:
    """Times one tile on all threads, after three runs to warm up."""
    runner = target.load(path, num_threads())
    times = time_by_turns({"": lambda: runner.run(x_l)}, runs, warm_up=3)
    return Latency.of(x_l.shape[-1], times[""], num_threads())


def real_tiles(dataset: Dataset, tile: int) -> list[Tensor]:
    """Returns LR tiles `[1, 3, tile, tile]` in [0, 1], made from validation photos by antialiased
    reduction."""
    samples = dataset.manifest.split("val")
    step = max(1, len(samples) // NUM_PARITY_IMAGES)
    return [
        to_tensor(
            np.asarray(
                Image.fromarray(dataset.tile(sample)).resize((tile, tile), Image.Resampling.BICUBIC)
            )
        )
        for sample in samples[::step][:NUM_PARITY_IMAGES]
    ]
