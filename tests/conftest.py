"""Fixtures that tests share: small real photos, a dataset of them, and one running platform."""

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import starmap
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from infra.local.platform import Platform
from pipelines import mlflow_client
from pipelines.config.load import load_config
from pipelines.data import shard
from pipelines.data.manifest import Manifest
from pipelines.data.sources import SAMPLE
from tests.support import processes, session  # noqa: F401
from tests.support.faulty_proxy import s3_proxy  # noqa: F401
from tests.support.forked import _no_command_stays, run_forked  # noqa: F401
from tests.support.http_server import web_server  # noqa: F401
from tests.support.jobs import run_here  # noqa: F401
from tests.support.mlflow_database import open_copy
from tests.support.mlflow_server import mlflow_server, running_mlflow  # noqa: F401
from tests.support.receivers import collector, mail_server, webhook  # noqa: F401
from tests.support.s3_server import s3_server, s3_url  # noqa: F401
from tests.support.session import (  # noqa: F401
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_unconfigure,
    pytest_xdist_make_scheduler,
)

ROOT = Path(__file__).resolve().parents[1]
SMALL = ROOT / "tests" / "recipes" / "small.yaml"

# A busy machine is no failure of what is tested.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

Runner = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the repository or talks to a server it did not start."""
    monkeypatch.setattr(mlflow_client, "open_client", open_copy)
    monkeypatch.setenv("SRMILL_HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six real photos, 300x200 px each."""
    folder = tmp_path_factory.mktemp("photos")
    for path in sorted(SAMPLE.glob("*.jpg"))[:6]:
        with Image.open(path) as image:
            image.convert("RGB").resize((300, 200), Image.Resampling.LANCZOS).save(
                folder / f"{path.stem}.png"
            )
    return folder


@pytest.fixture(scope="session")
def dataset(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded dataset of `photos` with tiles of 128 px, made without Ray."""
    directory = tmp_path_factory.mktemp("dataset")
    write_dataset(photos, directory)
    return directory


def write_dataset(photos: Path | str, directory: Path | str, *overrides: str) -> Manifest:
    """Shards photos in this process, without Ray."""
    settings = [f"recipe={SMALL}", f"source={photos}", f"output={directory}"]
    config = load_config([*settings, "shard.shard_mib=0.1", *overrides])
    return shard.make_dataset(config, shard.photo_files(config), starmap)


@pytest.fixture(scope="session")
def cluster() -> Platform:
    """The local platform, real Ray and MLflow servers, shared by all processes of the session."""
    return session.platform()


@pytest.fixture(scope="session")
def run_python() -> Runner:
    """Runs the test session's Python on arguments in the repository, and returns what it said."""

    def run(*arguments: str, timeout: int = 300, **environment: str) -> object:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run  # type: ignore[return-value]


def needs_weights() -> None:
    """Skips a test where the pretrained weights that it needs are not at hand."""
    if not os.environ.get("SRMILL_WEIGHTS"):
        pytest.skip("SRMILL_WEIGHTS is not set: no pretrained weights at hand")


def data_directory() -> Path:
    """Real photos and benchmark sets, for tests that need them."""
    value = os.environ.get("SRMILL_DATA")
    if not value:
        pytest.skip("SRMILL_DATA is not set: no benchmark sets at hand")
    return Path(value)
