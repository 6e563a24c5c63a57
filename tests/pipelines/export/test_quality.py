"""Tests of the cost of an artifact, by which a search chooses the layers to spare."""

import pytest
import torch
from torch import Tensor

from pipelines.export.images import Pair, TileImages
from pipelines.export.quality import QualityJudge
from srmodels.upscale import to_pixels
from tests.srmodels.edge.test_onnx import Plain


@pytest.fixture(scope="module")
def judge() -> QualityJudge:
    torch.manual_seed(0)
    network, tiles = Plain().eval(), torch.rand(4, 1, 3, 16, 16)
    with torch.no_grad():  # the HR is the network's own picture, a little brighter
        pairs = [Pair(x_l, to_pixels(network(x_l) + 0.1), str(n)) for n, x_l in enumerate(tiles)]
    return QualityJudge(network, TileImages([], pairs, "random tiles"))


@pytest.mark.parametrize("strict", ["psnr_y", "ssim_y"])
def test_the_metric_that_is_nearest_to_its_limit_decides(judge: QualityJudge, strict: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def run(x_l: Tensor) -> Tensor:
        x_h = judge.run_pytorch(x_l)
        return x_h + torch.randn(x_h.shape, generator=generator.manual_seed(1)) / 4

    losses = judge.losses(run)
    lost = {name: losses[name].loss for name in ("psnr_y", "ssim_y")}
    assert min(lost.values()) > 0
    limits = {name: loss * (0.5 if name == strict else 2) for name, loss in lost.items()}
    cost = judge.cost(run, limits)
    assert cost.share == pytest.approx(2)
    assert not cost.is_small
    assert str(cost) == f"+{lost['psnr_y']:.3f} dB, +{lost['ssim_y']:.5f} SSIM-Y lost"
    assert judge.cost(run, {name: 2 * loss for name, loss in lost.items()}).is_small


def test_a_metric_without_a_limit_does_not_count(judge: QualityJudge) -> None:
    cost = judge.cost(judge.run_pytorch, {"psnr_y": 0.1})
    assert cost.share == 0
    assert str(cost) == "+0.000 dB lost"
