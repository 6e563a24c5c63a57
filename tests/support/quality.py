"""What a method scores on the benchmark sets at hand, image by image, in this process."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.config import load_config
from pipelines.evaluation.benchmarks import open_benchmark
from pipelines.evaluation.methods import open_method
from pipelines.progress import progress
from pipelines.schema import Config
from srmodels.metrics.suite import METRICS
from tests.conftest import data_directory


def scores(
    reference: str,
    benchmarks: Sequence[str],
    metrics: Sequence[str],
    config: Config | None = None,
    every: int = 1,
) -> NDArray[np.float64]:
    """`[images, metrics]`, sets one after the other, of every so many images of a set the first.

    Args:
        reference: as in evaluate.compare.
        metrics: their names; a border of the scale is left out of those that leave one out.
    """
    config = config or load_config([])
    method = open_method(reference, config)
    measures = [METRICS[name].create(config.crop_border) for name in metrics]
    sets = [
        open_benchmark(str(data_directory() / "benchmarks" / name), config) for name in benchmarks
    ]
    chosen = [(found, key) for found in sets for key in found.keys[::every]]
    rows = []
    with progress(reference, total=len(chosen), unit="image") as bar:
        for found, key in chosen:
            lr, hr = found.load(key)
            sr = method(lr)
            rows.append([measure(sr, hr) for measure in measures])
            bar.update(1)
    return np.array(rows)
