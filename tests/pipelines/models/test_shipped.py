"""The models that ship: whole, small, and better than bicubic."""

import numpy as np
import pytest

from pipelines.cli import command
from pipelines.config.load import load_config
from pipelines.config.reference import SHIPPED, ModelReference, shipped_models
from pipelines.config.schema import GateConfig
from pipelines.evaluation.results import by_image, from_csv
from pipelines.models.bundle import IMAGES, load_bundle
from pipelines.models.load import load_model
from pipelines.registry.evidence import Contender
from pipelines.registry.gate import decide
from tests.conftest import needs_weights
from tests.support.quality import scores

#: Bytes that each may have.
SIZES = {
    "edge_sd_sr_tiny": 12 * 2**20,
    "f2srgan_student_pixel": 2**20,
    "light_f2srgan_pixel": 2**20,
    "light_mobile": 200_000,
    "rdsr": 5_000_000,
}


@pytest.mark.parametrize("name", SIZES)
def test_it_is_whole_and_small(name: str) -> None:
    bundle = load_bundle(SHIPPED / name)
    weights = [path for path in bundle.path.iterdir() if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in weights) <= SIZES[name]
    assert (
        load_model(ModelReference.parse(name), load_config([])).weights_sha256
        == bundle.facts.weights_sha256
    )


@pytest.mark.parametrize("name", SIZES)
def test_its_evidence_can_be_compared_with_a_candidate_s(name: str) -> None:
    bundle = load_bundle(SHIPPED / name)
    metrics = bundle.facts.metrics
    images = from_csv(bundle.path / IMAGES)
    for benchmark, found in metrics.benchmarks.items():
        for label, mean in found.model.items():
            measured = by_image(images, benchmark, metrics.reference, label)
            assert len(measured) == found.num_images
            assert np.mean(list(measured.values())) == pytest.approx(mean, abs=1e-6)
    both = Contender.of(bundle)
    decision = decide(both, both, GateConfig())
    assert decision.promote
    first = next(iter(metrics.benchmarks))
    several = f" on {first}" * (len(metrics.benchmarks) > 1)
    told = f"no difference that matters: psnr_y_crop4{several} +0.000 dB"
    assert decision.reason.startswith(told)


def test_the_default_can_be_finetuned() -> None:
    assert shipped_models() == sorted(SIZES)
    name = command.default_model(load_config([]))
    assert name == "edge_sd_sr_tiny"
    assert load_bundle(SHIPPED / name).finetuning_weights()


@pytest.mark.parametrize(
    ("benchmark", "bar"), [("Set5", 30.7), pytest.param("BSD100", 27.0, marks=pytest.mark.slow)]
)
def test_rdsr_reaches_fsrcnn(benchmark: str, bar: float) -> None:
    assert scores("rdsr", [benchmark], ["psnr_y"]).mean() >= bar


@pytest.mark.parametrize(
    ("benchmark", "bar"), [("Set5", 30.7), pytest.param("BSD100", 26.9, marks=pytest.mark.slow)]
)
def test_the_smallest_one_is_no_toy(benchmark: str, bar: float) -> None:
    assert scores("light_mobile", [benchmark], ["psnr_y"]).mean() >= bar


@pytest.mark.parametrize(
    ("name", "parameters", "bars"),
    [
        ("f2srgan_student_pixel", 75_000, (30.7, 27.0)),
        ("light_f2srgan_pixel", 39_185, (30.3, 26.85)),
    ],
)
@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_light_ones_are_small_and_good(
    name: str, parameters: int, bars: tuple[float, float], number: int
) -> None:
    weights = load_bundle(SHIPPED / name).network().inference_state_dict()
    assert sum(weight.numel() for weight in weights.values()) <= parameters
    assert scores(name, [("Set5", "BSD100")[number]], ["psnr_y"]).mean() >= bars[number]


@pytest.mark.parametrize(
    ("benchmark", "every"), [("Set5", 1), pytest.param("BSD100", 5, marks=pytest.mark.slow)]
)
def test_the_default_beats_bicubic(benchmark: str, every: int) -> None:
    needs_weights()
    metrics = ("psnr_y", "ssim_y", "lpips_alex")
    simple, ours = (
        dict(zip(metrics, scores(method, [benchmark], metrics, every=every).mean(0), strict=True))
        for method in ("bicubic", "edge_sd_sr_tiny")
    )
    assert ours["psnr_y"] > simple["psnr_y"]
    assert ours["ssim_y"] > simple["ssim_y"]
    assert ours["lpips_alex"] < 0.7 * simple["lpips_alex"]
