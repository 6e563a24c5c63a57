"""A run that was trained for one step, which the tests of this room export again and again."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from pipelines.config.schema import Config
from pipelines.export import artifacts
from pipelines.models.load import weights_sha256
from pipelines.training.launch import run_stages
from srmodels.edge import onnx, onnx_int8
from srmodels.edge.fresh import FreshRun
from srmodels.edge.target import ExportSettings
from tests.support.training import configure

#: The reference of that run.
MODEL = "run:small-joint"
_WEIGHTS = os.environ.get("SRMILL_WEIGHTS")


@pytest.fixture(scope="package")
def home(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a run that was trained for one step, in this process."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRMILL_HOME", str(folder))
        run_stages(configure(dataset, "train.steps=1"), ["autoencoder", "joint"])
    return folder


@pytest.fixture
def trained(dataset: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The configuration of the export, with folders of this test for evidence and bundle."""
    monkeypatch.setenv("SRMILL_HOME", str(home))
    folders = f"export.evidence={tmp_path / 'evidence'}", f"output={tmp_path / 'bundles'}"
    return configure(dataset, "train.steps=1", f"model={MODEL}", *folders)


@pytest.fixture(scope="session")
def known() -> dict[Any, Any]:
    """The graphs that were traced so far, and the files that ran in a process of their own."""
    return {}


@pytest.fixture
def _without_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of an artifact's evidence would be waited for while LPIPS is measured."""
    monkeypatch.delenv("SRMILL_WEIGHTS", raising=False)


@pytest.fixture
def lpips(_without_lpips: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test measure LPIPS; skips it where the weights are not at hand."""
    if not _WEIGHTS:
        pytest.skip("SRMILL_WEIGHTS is not set: no pretrained weights at hand")
    monkeypatch.setenv("SRMILL_WEIGHTS", _WEIGHTS)


@pytest.fixture(autouse=True)
def _once(known: dict[Any, Any], _without_lpips: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing, and the start of a process, take most of an export. So equal modules with equal
    weights are traced once, and equal files run once in a process of their own."""
    trace, run = onnx.export_graph, artifacts.run_fresh

    def export_graph(
        module: nn.Module, path: Path, settings: ExportSettings, dynamic_shapes: Any = None
    ) -> Mapping[str, str]:
        weights = {name: tensor.detach() for name, tensor in module.state_dict().items()}
        key = repr(module), weights_sha256(weights), repr(settings), repr(dynamic_shapes)
        if key not in known:
            made = trace(module, path, settings, dynamic_shapes)
            known[key] = path.read_bytes(), made
        data, made = known[key]
        path.write_bytes(data)
        return made

    def run_fresh(target: str, path: Path, x_l: Tensor, threads: int = 0) -> FreshRun:
        key = target, path.read_bytes(), x_l.numpy().tobytes(), threads
        if key not in known:
            known[key] = run(target, path, x_l, threads)
        return known[key]

    for place in (onnx, onnx_int8):
        monkeypatch.setattr(place, "export_graph", export_graph)
    monkeypatch.setattr(artifacts, "run_fresh", run_fresh)
