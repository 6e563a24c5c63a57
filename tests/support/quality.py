"""Measures a method on the benchmark sets at hand, image by image, in this process."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.config.schema import Config
from pipelines.evaluation.benchmarks import open_benchmark
from pipelines.evaluation.methods import open_method
from pipelines.evaluation.pictures import Pixels
from pipelines.models.build import with_structure
from pipelines.progress import progress
from pipelines.runs.checkpoint import RESULT
from pipelines.runs.names import run_checkpoints, run_name
from pipelines.training.build import build_stage
from srmodels.compression.structure import structure_of
from srmodels.metrics.suite import METRICS
from srmodels.tiling import mirror_to
from srmodels.upscale import to_pixels, to_tensor
from tests.conftest import data_directory


def scores(
    reference: str,
    benchmarks: Sequence[str],
    metrics: Sequence[str],
    config: Config | None = None,
    every: int = 1,
) -> NDArray[np.float64]:
    """Returns scores `[images, metrics]`, one set after the other.

    Args:
        reference: the method, as in evaluate.compare.
        metrics: names of metrics; those that leave out a border leave out `scale` pixels.
        every: number of images of which only the first is measured.
    """
    config = config or load_config([])
    method = open_method(ModelReference.parse(reference), config)
    return _scores(lambda lr, hr: method(lr), reference, benchmarks, metrics, config, every)


def preview_scores(
    config: Config, stage: str, benchmarks: Sequence[str], metrics: Sequence[str]
) -> NDArray[np.float64]:
    """Returns scores of a stage's preview: what training's validation sees.

    The images are not larger than the model's tiles, and are mirrored up to them.
    """
    newest = run_checkpoints(config, run_name(config, stage)).newest_intact(RESULT)
    assert newest is not None
    config = with_structure(config, stage, structure_of(newest.state().networks))
    built, tile = build_stage(config, stage, newest.weights()).eval(), config.export.tile
    scale = built.network.scale

    @torch.inference_mode()
    def preview(lr: Pixels, hr: Pixels) -> Pixels:
        assert max(lr.shape[:2]) <= tile
        x_l, x_h = mirror_to(to_tensor(lr), tile, tile), to_tensor(hr)
        x_h = mirror_to(x_h, scale * tile, scale * tile)
        return to_pixels(built.preview(x_l, x_h))[: hr.shape[0], : hr.shape[1]]

    return _scores(preview, stage, benchmarks, metrics, config)


def _scores(
    call: Callable[[Pixels, Pixels], Pixels],
    title: str,
    benchmarks: Sequence[str],
    metrics: Sequence[str],
    config: Config,
    every: int = 1,
) -> NDArray[np.float64]:
    measures = [METRICS[name].create(config.crop_border) for name in metrics]
    sets = [
        open_benchmark(str(data_directory() / "benchmarks" / name), config) for name in benchmarks
    ]
    chosen = [(found, key) for found in sets for key in found.keys[::every]]
    rows = []
    with progress(title, total=len(chosen), unit="image") as bar:
        for found, key in chosen:
            lr, hr = found.load(key)
            sr = call(lr, hr)
            rows.append([measure(sr, hr) for measure in measures])
            bar.update(1)
    return np.array(rows)
