"""What jobs/evaluate.py found of the weights that are exported, and of no others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.evaluation import evaluate
from pipelines.evaluation.methods import BICUBIC
from pipelines.evaluation.results import RESULTS
from pipelines.models.load import Model
from pipelines.storage.files import read_json


@dataclass(frozen=True)
class Evidence:
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


def find_evidence(config: Config, model: Model) -> Evidence:
    directory = evaluate.output_directory(config.export.evidence, model.reference, config.benchmark)
    path = directory / RESULTS
    results = read_json(path) if path.exists() else {}
    if results.get("weights_sha256") != model.weights_sha256 or "benchmarks" not in results:
        raise UserError(
            f"{model.reference} has not been measured as it is now: run jobs/evaluate.py "
            f"model={model.reference} export.weights={config.export.weights} first, with the same "
            "benchmark and with output= where export.evidence is."
        )
    return Evidence(directory, results)
