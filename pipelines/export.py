"""From trained weights to a bundle: edge artifacts that were run and compared, and the evidence."""

import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from pipelines import tracking
from pipelines.cluster import ROOT
from pipelines.config import config_digest, to_yaml
from pipelines.data.dataset import open_dataset
from pipelines.errors import UserError
from pipelines.evaluation import evaluate
from pipelines.evaluation.latency import threads
from pipelines.evaluation.methods import BICUBIC
from pipelines.evaluation.results import IMAGES, RESULTS
from pipelines.registry import bundle
from pipelines.registry.models import Model, at_precision, load_model
from pipelines.registry.register import champion_version
from pipelines.schema import Config
from pipelines.storage import new_directory, read_json, resolve
from pipelines.training.cost import network_cost
from pipelines.training.runs import run_name
from srmodels.edge.onnx import OnnxRunner, check_parity, export_onnx, measure_latency
from srmodels.upscale import to_tensor

#: Real validation images that an artifact is compared on.
PARITY_IMAGES = 4


def model_reference(config: Config) -> str:
    """`model`, else the run of the recipe's last stage."""
    return config.model or f"run:{run_name(config, list(config.stages)[-1])}"


def output_directory(config: Config) -> Path:
    assert config.run.name is not None
    return resolve(config.output or "work/export") / config.run.name


def plan(config: Config) -> str:
    tile = config.export.tile
    return (
        f"export {model_reference(config)} as ONNX (opset {config.export.opset}, LR tiles of "
        f"{tile}x{tile} px) into the bundle {output_directory(config)}"
    )


def run(config: Config) -> Path:
    """Writes the bundle, unless it is there already; returns its directory.

    Raises:
        UserError: the model was not evaluated, does not exist, or an artifact differs from
            PyTorch by more than `export.max_error`.
    """
    model = at_precision(load_model(model_reference(config), config), config.export.weights)
    evidence = _evidence(config, model)
    directory = output_directory(config)
    facts = _facts(config, model, evidence)
    if (directory / bundle.FILE_NAME).exists():
        try:
            known = bundle.load_bundle(directory).facts
        except UserError as error:
            print(f"Exporting anew, since {error}")
            known = {}
        same = (n for n in facts if n not in ("git_commit", "parent_version"))
        if all(known.get(name) == facts[name] for name in same):
            print(f"Nothing to do: {model.reference} is exported already, see {directory}.")
            return directory
    with new_directory(directory) as new:
        facts["edge"] = {}
        if "onnx_fp32" in config.export.artifacts:
            (new / "edge").mkdir()
            facts["edge"]["onnx_fp32"] = _export_onnx(config, model, new)
        _save(config, model.network.inference_state_dict(), new / bundle.WEIGHTS)
        if model.finetuning_weights:
            _save(config, model.finetuning_weights, new / bundle.FINETUNING)
        (new / bundle.CONFIG).write_text(to_yaml(model.config))
        for name in (evaluate.REPORT, IMAGES):
            shutil.copyfile(evidence.directory / name, new / name)
        (new / "MODEL_CARD.md").write_text(_model_card(config, facts))
        bundle.seal(new, facts)
    print(f"Bundle: {directory}")
    return directory


def _save(config: Config, weights: dict[str, Tensor], path: Path) -> None:
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[config.export.weights]
    save_file({n: w.to(dtype).contiguous() for n, w in weights.items()}, path)


@dataclass(frozen=True)
class _Evidence:
    """What jobs/evaluate.py found of exactly these weights, and where it is."""

    directory: Path
    results: dict[str, Any]

    def metrics(self) -> dict[str, Any]:
        """Of the first benchmark set, for `bundle.json`; all images are in `IMAGES`."""
        name, found = next(iter(self.results["benchmarks"].items()))
        reference = self.results["model"]
        return {
            "benchmark": name,
            "identity": found["identity"],
            "degradation": found["degradation"],
            "num_images": found["num_images"],
            "by": self.results["metrics"],
            "reference": self.results["titles"][reference],
            "model": found["summary"][reference],
            "bicubic": found["summary"][BICUBIC],
        }


def _evidence(config: Config, model: Model) -> _Evidence:
    directory = evaluate.output_directory(config.export.evidence, model.reference, config.benchmark)
    path = directory / RESULTS
    results = read_json(path) if path.exists() else {}
    if results.get("weights_sha256") != model.weights_sha256 or "benchmarks" not in results:
        raise UserError(
            f"{model.reference} has not been measured as it is now: run jobs/evaluate.py "
            f"model={model.reference} export.weights={config.export.weights} first, with the same "
            "benchmark and with output= where export.evidence is."
        )
    return _Evidence(directory, results)


def _facts(config: Config, model: Model, evidence: _Evidence) -> dict[str, Any]:
    cost = network_cost(model.config)
    return {
        "name": config.mlflow.model,
        "system": model.config.system,
        "recipe": model.config.recipe,
        "scale": model.network.scale,
        "tile": config.export.tile,
        "opset": config.export.opset,
        "artifacts": config.export.artifacts,
        "precision": config.export.weights,
        "parent_version": champion_version(tracking.connect(config), config),
        "weights_sha256": model.weights_sha256,
        "manifest": model.facts["manifest"],
        "config_digest": config_digest(model.config),
        "git_commit": git_commit(),
        "parameters": cost.total_parameters,
        "gmacs": round(cost.total_gmacs, 3),
        "metrics": evidence.metrics(),
    }


def git_commit() -> str | None:
    """The commit of this checkout (with `+dirty` if it was edited); None outside of one."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        status = subprocess.run(
            ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("SRMILL_GIT_COMMIT") or None
    return commit + "+dirty" * bool(status)


def _export_onnx(config: Config, model: Model, directory: Path) -> dict[str, Any]:
    tile = config.export.tile
    path = directory / "edge" / "model_fp32.onnx"
    print(f"Exporting ONNX for LR tiles of {tile}x{tile} px …", flush=True)
    export_onnx(model.network, path, tile, config.export.opset)
    images = _real_tiles(config, model, tile)
    parity = check_parity(model.network, OnnxRunner(path), images)
    if parity.max_error > config.export.max_error:
        raise UserError(
            f"the ONNX file differs from PyTorch by {parity.max_error:.2e}, more than "
            f"export.max_error={config.export.max_error:.2e}: try another export.opset, or "
            "raise export.max_error if that is good enough for you."
        )
    latency = measure_latency(path, images[0], config.export.latency_runs, threads())
    print(
        f"  max error {parity.max_error:.1e} ({parity.sqnr_db} dB) on {parity.num_images} real "
        f"images, {latency.median_ms} ms per tile on {latency.threads} threads"
    )
    return {
        "file": path.relative_to(directory).as_posix(),
        "input": {"name": "x_l", "shape": [1, 3, tile, tile], "range": [0, 1], "order": "RGB"},
        "output": {"name": "x_h", "shape": [1, 3] + [tile * model.network.scale] * 2},
        "parity": asdict(parity),
        "latency": asdict(latency) | {"machine": f"{platform.machine()}, {platform.system()}"},
    }


def _real_tiles(config: Config, model: Model, tile: int) -> list[Tensor]:
    """LR tiles made from validation photos by antialiased reduction."""
    dataset = open_dataset(config.data, config.stream)
    samples = dataset.manifest.split("val")
    step = max(1, len(samples) // PARITY_IMAGES)
    return [
        to_tensor(
            np.asarray(
                Image.fromarray(dataset.tile(sample)).resize((tile, tile), Image.Resampling.BICUBIC)
            )
        )
        for sample in samples[::step][:PARITY_IMAGES]
    ]


def _model_card(config: Config, facts: dict[str, Any]) -> str:
    metrics = facts["metrics"]
    rows = "\n".join(
        f"| {label} | {_shown(metrics['bicubic'][label])} | {_shown(value)} | "
        f"{metrics['by'][label]['protocol']} |"
        for label, value in metrics["model"].items()
    )
    return f"""# {facts["name"]}

{config.description}. ×{facts["scale"]} super-resolution.

- {facts["parameters"] / 1e6:.2f} M parameters
- {facts["gmacs"]:.2f} GMACs = {2 * facts["gmacs"]:.2f} GFLOPs for an LR tile of {facts["tile"]} px

## Use
`srmill upscale IN OUT --model FOLDER`, with the folder that this file lies in.
{"".join(_artifact_use(edge) for edge in facts["edge"].values())}
## Measured
On {metrics["num_images"]} images of {metrics["benchmark"]}, LR: {metrics["degradation"]}. Every
image's scores are in `{IMAGES}`.

| metric | bicubic | this model | protocol |
|---|---|---|---|
{rows}
{"".join(_artifact_evidence(edge) for edge in facts["edge"].values())}
## Trained on
- dataset `{facts["manifest"]}`
- recipe `{facts["recipe"]}`, configuration `{facts["config_digest"]}`
- commit `{facts["git_commit"]}`

## Limits
Trained for {metrics["degradation"]} degradation. It cannot know what the LR image does not show:
check results before they are used as evidence of anything.
"""


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _artifact_use(edge: dict[str, Any]) -> str:
    return f"""
`{edge["file"]}`: input `x_l` {edge["input"]["shape"]}, RGB in [0, 1]; output `x_h`
{edge["output"]["shape"]}. Larger images: cut tiles that overlap by a quarter and blend.
"""


def _artifact_evidence(edge: dict[str, Any]) -> str:
    return f"""
`{edge["file"]}` against PyTorch on {edge["parity"]["num_images"]} real images: largest error
{edge["parity"]["max_error"]:.1e}, {edge["parity"]["sqnr_db"]} dB. Latency
{edge["latency"]["median_ms"]} ms per tile (median of {edge["latency"]["runs"]},
{edge["latency"]["threads"]} threads, {edge["latency"]["machine"]}).
"""
