"""Measures a model against bicubic and others on the validation split, in parallel over images."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipelines import tracking
from pipelines.cluster import connect, ray_map
from pipelines.config import from_dict, to_dict
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.data.manifest import Manifest, Sample
from pipelines.errors import UserError
from pipelines.evaluation.pictures import Pictures, Pixels, enlarge, montage, most_detailed, to_png
from pipelines.evaluation.protocol import MAX_PSNR, low_resolution, psnr
from pipelines.evaluation.report import loss_curves, render
from pipelines.progress import progress
from pipelines.registry.models import Model, absolute, at_precision, champion, load_model
from pipelines.schema import Config
from pipelines.storage import (
    absolute_location,
    digest,
    new_directory,
    read_json,
    resolve,
    write_json,
)
from srmodels.metrics import ssim_y

RESULTS = "results.json"
REPORT = "report.html"
BICUBIC = "bicubic"
#: Images that one Ray task measures: enough to pay for loading the models.
IMAGES_PER_TASK = 3


@dataclass(frozen=True)
class ImageResult:
    """One method on one image."""

    key: str
    method: str
    psnr: float
    ssim: float


def model_reference(config: Config) -> str:
    """`model`, else the recipe's champion."""
    return absolute(config.model or champion(config))


def slug(reference: str) -> str:
    """A reference as a folder's name; a path gives its last part."""
    if reference.startswith("models:/"):
        return reference.removeprefix("models:/").replace("/", "_")
    return Path(reference.removeprefix("run:")).name


def title(method: str, model: str) -> str:
    """What a method is called under a picture."""
    return "model" if method == model else method.removeprefix("run:")


def output_directory(config: Config) -> Path:
    return resolve(config.output or "work/evaluate") / slug(model_reference(config))


def _check(config: Config) -> None:
    if config.benchmark is not None:
        raise UserError("benchmark sets are not supported yet: leave benchmark= unset.")


def plan(config: Config) -> str:
    """What would be measured, in words. Raises UserError for what cannot be."""
    _check(config)
    compared = ", ".join([BICUBIC, *config.evaluate.compare])
    return (
        f"measure {model_reference(config)} against {compared} on the validation split of "
        f"{absolute_location(config.data)} and write the report to "
        f"{output_directory(config) / REPORT}"
    )


def run(config: Config) -> Path:
    """Measures, writes results and report, logs them to MLflow; returns the report's path.

    Raises:
        UserError: no such model or dataset, or the MLflow server does not answer.
    """
    _check(config)
    dataset = open_dataset(config.data, config.stream)
    manifest = dataset.manifest
    client = tracking.connect(config)
    references = [*map(absolute, config.evaluate.compare), model_reference(config)]
    models = {reference: load_model(reference, config) for reference in references}
    model = at_precision(models[references[-1]], config.export.weights)
    models[model.reference] = model
    for other in models.values():
        if other.network.scale != config.networks.scale:
            raise UserError(
                f"'{other.reference}' enlarges by {other.network.scale}, the recipe by "
                f"{config.networks.scale}: set recipe= to the model's own."
            )

    identity = digest(
        {
            "models": {r: m.weights_sha256 for r, m in models.items()},
            "manifest": manifest.digest,
            "settings": asdict(config.evaluate) | asdict(config.degradation),
            "seed": config.seed,
        }
    )
    output = output_directory(config)
    if (output / RESULTS).exists() and read_json(output / RESULTS)["identity"] == identity:
        print(f"Nothing to do: {model.reference} is measured already, see {output / REPORT}.")
        return output / REPORT

    measured = _measure(config, models, dataset)
    results = _summary(config, model, manifest, measured) | {"identity": identity}
    pictures = {
        key: draw(config, models, dataset, key)
        for key in hardest(measured, config.evaluate.num_pictures)
    }
    report = render(results, pictures, loss_curves(client, model.config))
    with new_directory(output) as directory:
        (directory / REPORT).write_text(report)
        (directory / "pictures").mkdir()
        for key, kinds in pictures.items():
            titles = {title(kind, model.reference): image for kind, image in kinds.items()}
            (directory / "pictures" / f"{key}.png").write_bytes(to_png(montage(titles)))
        write_json(directory / RESULTS, results)
        # Before the results are in place: a rerun after a failure must not find them done.
        _log(client, config, results, directory)
    _print(results)
    print(f"Report: {output / REPORT}")
    return output / REPORT


def measure_images(
    models: dict[str, Model],
    dataset: Dataset,
    settings: dict[str, Any],
    samples: Sequence[Sample],
) -> list[ImageResult]:
    """A Ray task: every method on a few images. `settings` is a whole configuration."""
    config = from_dict(settings)
    crop = config.crop_border
    results = []
    for sample in samples:
        _, hr, outputs = run_methods(config, models, dataset.tile(sample), sample.key)
        for method, sr in outputs.items():
            scores = psnr(config, sr, hr), ssim_y(sr, hr, crop)
            results.append(ImageResult(sample.key, method, *scores))
    return results


def run_methods(
    config: Config, models: dict[str, Model], hr: Pixels, key: str
) -> tuple[Pixels, Pixels, dict[str, Pixels]]:
    """LR, HR and every method's output for one image; the degradation is seeded by its key."""
    scale = config.networks.scale
    lr = low_resolution(config, hr, key)
    outputs = {BICUBIC: enlarge(lr, scale, Image.Resampling.BICUBIC)}
    outputs |= {reference: upscale(model, lr) for reference, model in models.items()}
    return lr, hr, outputs


def hardest(measured: list[ImageResult], count: int) -> list[str]:
    """Keys of the images on which bicubic does worst, where a model has something to show: the
    worst of every photo first, then the next of every photo."""
    ranked = sorted((r for r in measured if r.method == BICUBIC), key=lambda r: r.psnr)
    turns: Counter[str] = Counter()
    order = []
    for place, result in enumerate(ranked):
        photo = result.key.partition("-")[0]
        order.append((turns[photo], place, result.key))
        turns[photo] += 1
    return [key for _, _, key in sorted(order)[:count]]


def draw(config: Config, models: dict[str, Model], dataset: Dataset, key: str) -> Pictures:
    """The same part of an image, where HR has most detail, as every method shows it."""
    sample = next(s for s in dataset.manifest.split("val") if s.key == key)
    lr, hr, outputs = run_methods(config, models, dataset.tile(sample), key)
    shown = {"LR": enlarge(lr, config.networks.scale, Image.Resampling.NEAREST), **outputs}
    area = most_detailed(hr)
    return {kind: image[area] for kind, image in (shown | {"HR": hr}).items()}


def upscale(model: Model, lr: Pixels) -> Pixels:
    """A model's output for one LR image `[h, w, 3]`, in tiles as it ships."""
    from srmodels.upscale import Tiling, upscale_image

    tiling = Tiling.for_tile(model.config.export.tile)
    image = Image.fromarray(lr)
    return np.asarray(upscale_image(model.network, image, scale=model.network.scale, tiling=tiling))


def _measure(config: Config, models: dict[str, Model], dataset: Dataset) -> list[ImageResult]:
    import ray

    samples = dataset.manifest.split("val")
    starts = range(0, len(samples), IMAGES_PER_TASK)
    chunks = [samples[start : start + IMAGES_PER_TASK] for start in starts]
    results: list[ImageResult] = []
    with connect(), progress("evaluate", total=len(samples), unit="image") as bar:
        # The very weights and the very dataset that were opened: an alias, a run or the newest
        # manifest may move on meanwhile.
        shared = ray.put(models), ray.put(dataset)
        calls = [(*shared, to_dict(config), chunk) for chunk in chunks]
        for measured, chunk in zip(ray_map(measure_images, calls), chunks, strict=True):
            results += measured
            bar.update(len(chunk))
    return results


def _summary(
    config: Config, model: Model, manifest: Manifest, measured: list[ImageResult]
) -> dict[str, Any]:
    crop = config.crop_border
    methods = list(dict.fromkeys(result.method for result in measured))
    rows = {
        method: {
            f"psnr_y_crop{crop}": statistics.fmean(r.psnr for r in measured if r.method == method),
            f"ssim_y_crop{crop}": statistics.fmean(r.ssim for r in measured if r.method == method),
        }
        for method in methods
    }
    return {
        "model": model.reference,
        "recipe": config.recipe,
        "weights_sha256": model.weights_sha256,
        "manifest": manifest.digest,
        "degradation": config.degradation.preset,
        "scale": model.network.scale,
        "num_images": len({r.key for r in measured}),
        "protocol": f"8-bit Y of BT.601 (16-235) from 8-bit RGB, border of {crop} px left out, "
        f"PSNR of an image at most {MAX_PSNR:.0f} dB",
        "summary": rows,
        "images": [asdict(result) for result in measured],
    }


def _log(client: Any, config: Config, results: dict[str, Any], output: Path) -> None:
    name = f"{config.run.name}-evaluate"
    run_id = tracking.new_run(client, config, name, {"srforge.manifest": results["manifest"]})
    shown = ("model", "degradation", "protocol", "num_images")
    status = "FAILED"
    try:
        for method, values in results["summary"].items():
            # MLflow takes no '@' in a metric's name.
            label = title(slug(method), slug(results["model"])).replace("@", ".")
            for metric, value in values.items():
                client.log_metric(run_id, f"val/{label}/{metric}", value)
        tracking.log_params(client, run_id, {k: results[k] for k in shown})
        client.log_artifacts(run_id, str(output))
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)


def _print(results: dict[str, Any]) -> None:
    for method, values in results["summary"].items():
        scores = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        print(f"  {method:<40} {scores}")
