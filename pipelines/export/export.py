"""From trained weights to a bundle: edge artifacts that were run and compared, and the evidence."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipelines import tracking
from pipelines.config.load import config_digest, to_yaml
from pipelines.config.reference import Kind, ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.evaluation import evaluate
from pipelines.evaluation.results import IMAGES
from pipelines.export.artifacts import export_artifact
from pipelines.export.card import model_card
from pipelines.export.evidence import Evidence, find_evidence
from pipelines.models import bundle
from pipelines.models.cost import network_cost
from pipelines.models.load import Model, at_precision, load_model
from pipelines.registry.register import champion_version
from pipelines.revision import git_commit
from pipelines.runs.names import run_name
from pipelines.storage.files import new_directory
from pipelines.storage.paths import resolve


def model_reference(config: Config) -> ModelReference:
    """Returns `model`, else the run of the recipe's last stage."""
    if config.model:
        return ModelReference.parse(config.model)
    return ModelReference(Kind.RUN, run_name(config, list(config.stages)[-1]))


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
    evidence = find_evidence(config, model)
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
        facts["edge"] = {
            name: export_artifact(name, config, model, new) for name in config.export.artifacts
        }
        _save(config, model.network.inference_state_dict(), new / bundle.WEIGHTS)
        if model.finetuning_weights:
            _save(config, model.finetuning_weights, new / bundle.FINETUNING)
        (new / bundle.CONFIG).write_text(to_yaml(model.config))
        for name in (evaluate.REPORT, IMAGES):
            shutil.copyfile(evidence.directory / name, new / name)
        (new / "MODEL_CARD.md").write_text(model_card(config, facts))
        bundle.seal(new, facts)
    print(f"Bundle: {directory}")
    return directory


def _save(config: Config, weights: dict[str, Tensor], path: Path) -> None:
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[config.export.weights]
    save_file({n: w.to(dtype).contiguous() for n, w in weights.items()}, path)


def _facts(config: Config, model: Model, evidence: Evidence) -> dict[str, Any]:
    cost = network_cost(model.config.system, model.config.networks, model.config.export.tile)
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
