"""Bundles for tests: real ones, of networks that were never trained."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from pipelines.config.load import load_config, to_yaml
from pipelines.evaluation.measure import ImageResult
from pipelines.evaluation.results import to_csv
from pipelines.evaluation.summary import metric_facts
from pipelines.models.bundle import Bundle, load_bundle, seal
from pipelines.models.facts import BenchmarkFacts, BundleFacts, BundleMetrics
from pipelines.models.pyfunc import write_description
from srmodels.metrics.suite import METRICS
from srmodels.system import load_system
from tests.conftest import SMALL


def make_bundle(
    directory: Path, recipe: Path = SMALL, psnr: float = 30.0, ssim: float = 0.9
) -> Bundle:
    """A small bundle with untrained weights and the scores that it is told to have: on each of six
    photos as far from another bundle's as on the others."""
    config = load_config([f"recipe={recipe}"])
    torch.manual_seed(0)
    network = load_system(config.system).build(config.networks).fuse()
    directory.mkdir(parents=True, exist_ok=True)
    weights = network.inference_state_dict()
    save_file({n: w.contiguous() for n, w in weights.items()}, directory / "model.safetensors")
    (directory / "config.yaml").write_text(to_yaml(config))
    scores = {"bicubic": (29.0, 0.8), "run:small": (psnr, ssim)}
    rows = [
        ImageResult(
            "validation", f"{key}-0000", key, method,
            {"psnr_y_crop4": found[0] + place / 10, "ssim_y_crop4": found[1]},
        )
        for place, key in enumerate("abcdef")
        for method, found in scores.items()
    ]  # fmt: skip
    labels = {"psnr_y_crop4": METRICS["psnr_y"], "ssim_y_crop4": METRICS["ssim_y"]}
    (directory / "images.csv").write_text(to_csv(rows, list(labels)))
    means = {
        method: {"psnr_y_crop4": found[0] + 0.25, "ssim_y_crop4": found[1]}
        for method, found in scores.items()
    }
    by = {label: metric_facts(metric, config.crop_border) for label, metric in labels.items()}
    found = BenchmarkFacts("i", "bicubic", 6, model=means["run:small"], bicubic=means["bicubic"])
    metrics = BundleMetrics(by=by, reference="run:small", benchmarks={"validation": found})
    facts = BundleFacts(
        name="small", system=config.system, recipe="small", scale=4, tile=config.export.tile,
        opset=20, artifacts=(), precision="fp32", parent_version=None, weights_sha256="w",
        manifest="m", config_digest="d", git_commit="c", parameters=1000, gmacs=0.5,
        metrics=metrics,
    )  # fmt: skip
    write_description(directory)
    seal(directory, facts)
    return load_bundle(directory)
