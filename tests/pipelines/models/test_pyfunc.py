"""A registered bundle as a model of MLflow: loaded, asked, and served."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines import tracking
from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.errors import UserError
from pipelines.evaluation.methods import open_method
from pipelines.models.bundle import load_bundle
from pipelines.models.pyfunc import Upscaler
from pipelines.registry import register
from tests.conftest import SMALL
from tests.support.bundles import make_bundle


@pytest.fixture
def images() -> NDArray[np.uint8]:
    # Larger than a tile: their parts are blended.
    return np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), np.uint8)


def test_whoever_has_mlflow_loads_the_champion(
    tmp_path: Path, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config([f"recipe={SMALL}", f"bundle={tmp_path / 'a'}"])
    make_bundle(tmp_path / "a")
    register.run(config)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.tracking_uri(config.mlflow))
    model = mlflow.pyfunc.load_model("models:/small@champion")
    found = model.predict(images)
    assert (found.shape, found.dtype) == ((2, 160, 200, 3), np.uint8)
    ours = open_method(ModelReference.parse(str(tmp_path / "a")), config)
    for image, large in zip(images, found, strict=True):
        assert (large == ours(image)).all()
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, -1, -1, 3)
    # MLflow's note of where it came from is no damage.
    path = Path(mlflow.artifacts.download_artifacts("models:/small@champion"))
    assert (path / "registered_model_meta").is_file()
    assert load_bundle(path).facts.name == "small"


def test_what_is_no_image_is_refused(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    model = Upscaler(make_bundle(tmp_path))
    for wrong in (images / 255, images[0], images[..., :2], images[:0]):
        with pytest.raises(UserError, match=r"give uint8 \[N, H, W, 3\], RGB"):
            model.predict(wrong)


@pytest.mark.slow
def test_the_champion_is_served(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    config = load_config([f"recipe={SMALL}", f"bundle={tmp_path / 'a'}"])
    make_bundle(tmp_path / "a")
    register.run(config)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/small@champion"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"MLFLOW_TRACKING_URI": tracking.tracking_uri(config.mlflow), "PATH": path}
    with subprocess.Popen(
        [*command, "--env-manager", "local", "--port", str(port)],
        env=os.environ | environment,
        start_new_session=True,
    ) as server:
        try:
            _wait(f"http://127.0.0.1:{port}/ping")
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/invocations",
                json.dumps({"inputs": images.tolist()}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                found = np.array(json.load(response)["predictions"])
        finally:
            os.killpg(server.pid, signal.SIGTERM)
    ours = open_method(ModelReference.parse(str(tmp_path / "a")), config)
    assert (found == np.stack([ours(image) for image in images])).all()


def _wait(address: str) -> None:
    for _ in range(120):
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    pytest.fail("the server did not answer")
