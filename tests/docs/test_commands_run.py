"""README.md and docs/, run as they stand there: each page in a fresh copy of the checkout.

The environment is all that a test adds. docs/your_own_network.md has a test of its own.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import pytest
from PIL import Image

from infra.local import platform
from pipelines.data.sources import SAMPLE
from pipelines.training.extensions import VARIABLE, extensions_folder
from tests.conftest import ROOT
from tests.docs.commands import NEEDS, PAGES, Fence, run_shell, shell_fences
from tests.test_your_own_network import PAGE as OWN_PAGE

#: What is not part of a checkout.
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "work", "shared", "__pycache__", ".*_cache")
#: The settings of this session. A reader's shell has none of them.
FOREIGN = ("RAY_", "SRMILL_HOME", "SRMILL_TEST", "MLFLOW_", "OMP_NUM_THREADS", "PYTEST_")


def story(page: Path) -> list[Fence]:
    """The fences of a page that need nothing more, in order."""
    return [fence for fence in shell_fences(page) if fence.needs is None]


STORIES = [page for page in PAGES if page != OWN_PAGE and story(page)]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout with an environment, and with photos where the pages have them."""
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    environment = copy / ".venv"
    environment.mkdir()
    for part in ("bin", "lib", "pyvenv.cfg"):
        (environment / part).symlink_to(Path(sys.prefix) / part)
    (environment / ".installed").touch()  # `make setup` has nothing to do
    for folder in (tmp_path / "home" / "photos", copy / "my" / "photos"):
        shutil.copytree(SAMPLE, folder, ignore=shutil.ignore_patterns("*.md"))
    photos = islice(cycle(sorted(SAMPLE.glob("*.jpg"))), 3)
    for name, photo in zip(("photo.jpg", "holiday/a.jpg", "holiday/b.png"), photos, strict=True):
        (copy / name).parent.mkdir(exist_ok=True)
        with Image.open(photo) as image:
            image.resize((150, 100)).save(copy / name)
    return copy


@pytest.fixture
def environment(checkout: Path) -> Iterator[dict[str, str]]:
    """The environment of a reader who has activated the copy's environment.

    Ray's folder has a short path, since its sockets' paths may have 107 characters only.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    with tempfile.TemporaryDirectory(prefix="srmill-", dir="/tmp") as folder:
        yield kept | {
            "HOME": str(checkout.parent / "home"),
            "PATH": f"{checkout}/.venv/bin{os.pathsep}{os.environ['PATH']}",
            "RAY_TMPDIR": folder,
            VARIABLE: str(extensions_folder().parent),
        }


def run(commands: str, folder: Path, environment: dict[str, str]) -> str:
    """Runs the commands of a fence, and returns them with what they print."""
    return run_shell(f"set -x\n{commands}", folder, environment, timeout=1800)


def test_the_pages_that_run_have_a_story() -> None:
    assert {page.name for page in STORIES} >= {"README.md", "data.md", "training.md"}
    marked = [fence for page in PAGES for fence in shell_fences(page) if fence.needs]
    assert {fence.needs for fence in marked} == set(NEEDS)


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("page", STORIES, ids=lambda page: str(page.name))
def test_a_page_runs_word_for_word(page: Path, checkout: Path, environment: dict[str, str]) -> None:
    try:
        told = ""
        for fence in story(page):
            # The pages name the usual port, and another platform may have taken it.
            if running := platform.load(checkout):
                environment["RAY_API_SERVER_ADDRESS"] = running.dashboard
            told += run(fence.text, checkout, environment)
    finally:
        run("make down", checkout, environment)
    if page == PAGES[0]:
        assert "Promoted: edge_sd_sr_tiny@champion is version 1" in told
        assert "Nothing to do: first-joint is trained already" in told
        for path in ("work/pairs.png", "work/export/first/bundle.json", "work/export/monday",
                     "large.png", "large_rdsr.png", "holiday-champion/b.png"):  # fmt: skip
            assert (checkout / path).exists(), path
