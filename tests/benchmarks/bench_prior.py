"""Measures the knowledge of an image that is in the prior of the shipped RDSR.

It compares PSNR-Y on BSD100 with the image's own prior, with that of the next image, and with the
mean of all. The differences have 95 % intervals.

Needs SRMILL_DATA.
"""

import numpy as np
import pytest
import torch

from docs.tools.ablations_table import interval
from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.evaluation.benchmarks import open_benchmark
from pipelines.models.load import load_model
from srmodels.metrics.fidelity import psnr_y
from srmodels.rdsr.network import RDSR
from srmodels.tiling import mirror_to
from srmodels.upscale import to_pixels, to_tensor
from tests.conftest import ROOT, data_directory


@torch.inference_mode()
def test_what_the_prior_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRMILL_HOME", str(ROOT))
    config = load_config(["recipe=rdsr"])
    benchmark = open_benchmark(str(data_directory() / "benchmarks" / "BSD100"), config)
    network = load_model(ModelReference.parse("rdsr"), config).network
    assert isinstance(network, RDSR)
    side = config.export.tile
    images = [benchmark.load(key) for key in benchmark.keys]
    inputs = [mirror_to(to_tensor(lr), side, side) for lr, _ in images]
    own = [network.prior(x_l) for x_l in inputs]
    priors = {"own": own, "the next image's": own[1:] + own[:1]}
    priors["the mean"] = [torch.stack(own).mean(0)] * len(own)
    found = {name: [] for name in priors}
    for name, given in priors.items():
        for (_, hr), x_l, prior in zip(images, inputs, given, strict=True):
            sr = to_pixels(network.decoder(x_l, prior))[: hr.shape[0], : hr.shape[1]]
            found[name].append(psnr_y(sr, hr, config.crop_border))
    spread = torch.cat(own).std(0).mean() / torch.cat(own).abs().mean()
    print(f"\nstandard deviation over the images, of the mean magnitude: {spread:.3f}")
    for name, scores in found.items():
        difference = np.array(scores) - np.array(found["own"])
        low, high = interval(difference[None])
        print(
            f"{name:<17} {np.mean(scores):.4f} dB, {difference.mean():+.4f} ({low:+.4f} … "
            f"{high:+.4f}) beside its own"
        )
