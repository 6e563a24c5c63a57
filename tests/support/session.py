"""One Ray and one MLflow for all processes of a test session, and the order of its tests."""

import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from infra.local import platform as local_platform
from pipelines.ray_auth import MODE, OTHER_MACHINES, TOKEN, keep_token, new_token

#: Environment variable that names the folder of the session. Its processes inherit it.
FOLDER = "SRMILL_TEST_SESSION"
#: Fixtures that are servers. A test that uses one is marked `server`.
SERVERS = {"cluster", "s3_server", "running_mlflow"}
#: The files whose tests use the platform. Its two cores are for one test at a time.
PLATFORM_FILES = {
    "tests/docs/test_commands_run.py",
    "tests/infra/local/test_platform.py",
    "tests/pipelines/training/test_ray_recorder.py",
    "tests/pipelines/triggers/test_clusters.py",
    "tests/pipelines/triggers/test_on_cluster.py",
    "tests/test_end_to_end.py",
    "tests/test_retraining.py",
    "tests/test_your_own_network.py",
}

#: Where tests take seconds each: they train, measure or export networks, shard photos or run jobs.
LONG = tuple(
    f"tests/{room}"
    for room in (
        "infra/", "pipelines/evaluation/", "pipelines/export/", "pipelines/models/",
        "pipelines/registry/", "pipelines/retrain/", "pipelines/runs/", "pipelines/training/",
        "pipelines/test_job.py", "pipelines/test_cli.py", "pipelines/test_cli_compare.py",
        "pipelines/test_tracking.py", "pipelines/test_documents.py", "pipelines/triggers/",
        "pipelines/data/test_shard.py", "docs/test_commands.py",
        "srmodels/edge/", "srmodels/edge_sd_sr/test_stages.py", "test_ablations.py",
    )
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Gives the session a folder, and all of its clusters one token."""
    # A shell ignores interrupts for a command in the background, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if _is_worker(config):
        return
    os.environ[FOLDER] = tempfile.mkdtemp(prefix="srmill-", dir="/tmp")
    # Ray notes here which cluster runs. A job of a test must not find the user's own. The paths of
    # its sockets may have 107 characters only, so the folder's path is short.
    os.environ.setdefault("RAY_TMPDIR", os.environ[FOLDER])
    # Ray keeps the first token that it reads in a process.
    os.environ |= {MODE: "token", OTHER_MACHINES: "0", TOKEN: os.environ.get(TOKEN) or new_token()}
    if getattr(config.option, "numprocesses", None):
        # Several processes of several threads each would wait for one another.
        os.environ["OMP_NUM_THREADS"] = "1"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stops the platform, if a test has started it."""
    if not _is_worker(config):
        folder = Path(os.environ.pop(FOLDER))
        local_platform.down(folder / "platform", quiet=True)
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that need servers or trained networks, and puts those of the platform first.

    They take longest: the other process does the rest meanwhile.
    """
    for item in items:
        needed = SERVERS & set(getattr(item, "fixturenames", ()))
        if needed:
            item.add_marker("server")
        if _file(item.nodeid).startswith(LONG):
            item.add_marker("long")
        if "cluster" in needed:
            assert _file(item.nodeid) in PLATFORM_FILES, f"PLATFORM_FILES lacks {item.nodeid}"
    items.sort(key=lambda item: _file(item.nodeid) not in PLATFORM_FILES)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keeps in one process what shares the platform, and what shares a module's fixtures."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "platform" if _file(nodeid) in PLATFORM_FILES else _file(nodeid)

    config.option.loadscopereorder = False
    return ByFile(config, log)


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def platform() -> local_platform.Platform:
    """Returns the session's platform; starts it, if no process of the session has."""
    home = Path(os.environ[FOLDER]) / "platform"
    local_platform.token_file(home).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.with_suffix(".lock")), pytest.MonkeyPatch.context() as environment:
        keep_token(local_platform.token_file(home), os.environ[TOKEN])
        for name in (MODE, TOKEN, OTHER_MACHINES):  # A user's environment has none of them.
            environment.delenv(name)
        return local_platform.up(home)


def _is_worker(config: pytest.Config) -> bool:
    """Returns True in a process that another one of the session has started."""
    return hasattr(config, "workerinput")
