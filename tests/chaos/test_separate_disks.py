"""Clusters whose nodes share no disk: what works there, and what is refused before it begins."""

import os
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.storage.store import open_store
from tests.conftest import ROOT, SMALL, Runner
from tests.support.mlflow_server import MLflowServer
from tests.support.ray_nodes import Nodes
from tests.support.run import Run

pytestmark = pytest.mark.slow

FENCE = str(ROOT / "tests" / "support" / "fence")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The driver's home, which the nodes that train do not see."""
    return tmp_path / "home"


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """The file with a line for each path of another node that a node has asked for."""
    return tmp_path / "asked.log"


@pytest.fixture
def node_homes(tmp_path: Path, home: Path, asked: Path, photos: Path, nodes: Nodes) -> list[Path]:
    """The homes of two nodes, which see neither each other nor the driver nor the photos."""
    homes = [tmp_path / "node-a", tmp_path / "node-b"]
    for own in homes:
        hidden = [str(folder) for folder in (home, photos, *homes) if folder != own]
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("PYTHONPATH", FENCE)
            environment.setenv("HIDDEN_FOLDERS", os.pathsep.join(hidden))
            environment.setenv("FENCE_LOG", str(asked))
            environment.setenv("NODE_NAME", own.name)
            environment.setenv("SRMILL_HOME", str(own))
            nodes.add(1)
    return homes


def test_the_whole_chain_runs_without_a_shared_disk(
    s3_url: str,
    home: Path,
    node_homes: list[Path],
    asked: Path,
    nodes: Nodes,
    photos: Path,
    mlflow_server: MLflowServer,
    run_python: Runner,
) -> None:
    """Data, runs, results and bundles are in a bucket, and MLflow is a server."""
    bucket = open_store(f"{s3_url}/photos")
    for photo in photos.iterdir():
        bucket.write(photo.name, photo.read_bytes())
    shared = [
        f"recipe={SMALL}", "run.name=apart", f"data={s3_url}/shards", f"run.storage={s3_url}/runs",
        f"mlflow.uri={mlflow_server.url}", "mlflow.model=apart", "model=run:apart-joint",
    ]  # fmt: skip
    jobs = {
        "shard": [f"source={s3_url}/photos", "shard.shard_mib=0.1"],
        "train": ["stage=joint", "stages.joint.init_from=null", "train.workers=2",
                  "train.loader_processes=1"],
        "evaluate": [f"output={s3_url}/evaluate", "evaluate.metrics=[psnr_y]",
                     "evaluate.latency_sizes=[16]"],
        "export": [f"output={s3_url}/export", f"export.evidence={s3_url}/evaluate"],
        "register": [f"bundle={s3_url}/export/apart"],
    }  # fmt: skip
    # The driver does not see the disks of the nodes either.
    driver = {"RAY_ADDRESS": nodes.address, "PYTHONPATH": FENCE, "FENCE_LOG": str(asked)}
    driver["HIDDEN_FOLDERS"] = os.pathsep.join(map(str, node_homes))
    for job, settings in jobs.items():
        done = run_python(f"jobs/{job}.py", *shared, *settings, **driver)
        assert done.returncode == 0, done.stdout + done.stderr
        if job == "train":
            assert "Trained apart-joint: loss" in done.stdout
            # Each worker kept its shards and its part of the checkpoint on its own disk.
            for own in node_homes:
                assert sorted(path.name for path in own.glob("work/*")) == ["cache", "scratch"]
                assert list(own.glob("work/cache/*.tar"))
            assert not (home / "work/cache").exists()
    assert not asked.exists(), asked.read_text()
    assert "Promoted: apart@champion is version 1" in done.stdout
    registered = MlflowClient(mlflow_server.url).get_model_version_by_alias("apart", "champion")
    assert mlflow_server.files(registered.run_id, "bundle")


def test_a_local_folder_of_checkpoints_ends_the_job_with_one_sentence(
    home: Path,
    node_homes: list[Path],
    asked: Path,
    nodes: Nodes,
    dataset: Path,
    mlflow_server: MLflowServer,
) -> None:
    settings = (f"data={dataset}", f"mlflow.uri={mlflow_server.url}", "train.workers=2")
    with Run(nodes.address, "stage=autoencoder", *settings) as run:
        assert run.wait() == 2, run.output
    assert "0%|" not in run.output, "nothing was trained"
    told = f"does not see the folder {home}/work/runs/small-autoencoder as node"
    assert told in run.lines[-1][1], run.output
    remedy = "set run.storage to s3://bucket/prefix, or to a folder that all nodes share."
    assert run.lines[-1][1].endswith(remedy)
    assert f"open {home}/work/runs/small-autoencoder/" in asked.read_text()
