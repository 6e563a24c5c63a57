"""A run that was trained for one step, which the tests of this room export again and again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from pipelines.config.schema import Config
from pipelines.models.load import weights_sha256
from pipelines.training.launch import run_stages
from srmodels.edge import onnx, onnx_int8
from srmodels.edge.target import ExportSettings
from tests.support.training import configure

#: The reference of that run.
MODEL = "run:small-joint"


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
def traced() -> dict[tuple[str, ...], tuple[bytes, Mapping[str, str]]]:
    """The graphs that were traced so far, by what they were made of."""
    return {}


@pytest.fixture(autouse=True)
def _traced_once(
    traced: dict[tuple[str, ...], tuple[bytes, Mapping[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracing takes most of an export, so equal modules with equal weights are traced once."""
    trace = onnx.export_graph

    def export_graph(
        module: nn.Module, path: Path, settings: ExportSettings, dynamic_shapes: Any = None
    ) -> Mapping[str, str]:
        weights = {name: tensor.detach() for name, tensor in module.state_dict().items()}
        made_of = repr(module), weights_sha256(weights), repr(settings), repr(dynamic_shapes)
        if made_of not in traced:
            made = trace(module, path, settings, dynamic_shapes)
            traced[made_of] = path.read_bytes(), made
        data, made = traced[made_of]
        path.write_bytes(data)
        return made

    for place in (onnx, onnx_int8):
        monkeypatch.setattr(place, "export_graph", export_graph)
