"""The model that ships: whole, small, the default, and better than bicubic."""

import pytest

from pipelines import cli
from pipelines.config import load_config
from pipelines.registry.bundle import load_bundle
from pipelines.registry.models import load_model
from pipelines.shipped import SHIPPED, shipped_models
from tests.conftest import needs_weights
from tests.support.quality import scores

NAME = "edge_sd_sr_tiny"
MIB = 2**20


def test_it_is_whole_small_and_the_default() -> None:
    assert shipped_models() == [NAME]
    bundle = load_bundle(SHIPPED / NAME)
    weights = [path for path in bundle.path.iterdir() if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in weights) <= 12 * MIB
    assert bundle.finetuning_weights()
    config = load_config([])
    assert cli.default_model(config) == NAME
    assert load_model(NAME, config).weights_sha256 == bundle.facts["weights_sha256"]


@pytest.mark.parametrize(("name", "every"), [("Set5", 1), ("BSD100", 5)])
def test_it_beats_bicubic(name: str, every: int) -> None:
    needs_weights()
    metrics = ("psnr_y", "ssim_y", "lpips_alex")
    simple, ours = (
        dict(zip(metrics, scores(method, [name], metrics, every=every).mean(0), strict=True))
        for method in ("bicubic", NAME)
    )
    assert ours["psnr_y"] > simple["psnr_y"]
    assert ours["ssim_y"] > simple["ssim_y"]
    assert ours["lpips_alex"] < 0.7 * simple["lpips_alex"]
