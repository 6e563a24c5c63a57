"""The model that ships: whole, small, the default, and better than bicubic."""

import statistics

import pytest

from pipelines import cli
from pipelines.config import load_config
from pipelines.registry.bundle import load_bundle
from pipelines.registry.models import load_model
from pipelines.shipped import SHIPPED, shipped_models
from tests.conftest import data_directory, needs_weights
from tests.support.quality import bicubic, pairs, scores, upscaler

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
    data = data_directory()
    needs_weights()
    upscale = upscaler(load_model(NAME, load_config([])))
    found: dict[str, list[dict[str, float]]] = {"bicubic": [], "ours": []}
    for low, hr in pairs(data, name, every):
        found["bicubic"].append(scores(bicubic(low), hr, ["alex"]))
        found["ours"].append(scores(upscale(low), hr, ["alex"]))
    simple, ours = (
        {key: statistics.fmean(score[key] for score in side) for key in side[0]}
        for side in found.values()
    )
    assert ours["PSNR-Y"] > simple["PSNR-Y"]
    assert ours["SSIM-Y"] > simple["SSIM-Y"]
    assert ours["LPIPS (alex)"] < 0.7 * simple["LPIPS (alex)"]
