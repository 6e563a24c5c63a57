"""Clusters whose nodes share no disk: what cannot work there is refused before it begins."""

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.mlflow_server import MLflowServer
from tests.support.ray_nodes import Nodes
from tests.support.run import Run

pytestmark = pytest.mark.slow

FENCE = str(ROOT / "tests" / "support" / "fence")


@pytest.fixture
def home(tmp_path: Path, nodes: Nodes) -> Path:
    """The driver's home, which the nodes that train do not see."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", FENCE)
        environment.setenv("HIDDEN_FOLDERS", str(tmp_path / "home"))
        nodes.add(2)
    return tmp_path / "home"


def test_a_local_folder_of_checkpoints_ends_the_job_with_one_sentence(
    home: Path, nodes: Nodes, dataset: Path, mlflow_server: MLflowServer
) -> None:
    settings = (f"data={dataset}", f"mlflow.uri={mlflow_server.url}", "train.workers=2")
    with Run(nodes.address, "stage=autoencoder", *settings) as run:
        assert run.wait() == 2, run.output
    assert "0%|" not in run.output, "nothing was trained"
    told = f"does not see the folder {home}/work/runs/small-autoencoder as node"
    assert told in run.lines[-1][1], run.output
    remedy = "set run.storage to s3://bucket/prefix, or to a folder that all nodes share."
    assert run.lines[-1][1].endswith(remedy)
