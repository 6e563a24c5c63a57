"""Tests the code that Ray takes along to its workers."""

import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from infra.local import platform
from pipelines import cluster
from pipelines.cluster import connect, ray_map
from pipelines.data.set_files import EMBEDDED_FOLDER
from pipelines.data.sources import SAMPLE
from pipelines.data.sources.entries import EXTENSIONS
from pipelines.errors import UserError
from srmodels import system
from tests.conftest import ROOT


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a system in the current directory, which is not the checkout."""
    package = tmp_path / "somebodys_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "network.py").write_text("from srmodels.rdsr.system import SYSTEM\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(system, "_own_packages", {})
    for name in ("somebodys_package", "somebodys_package.network"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return package


def test_a_system_of_ones_own_goes_to_the_workers_with_the_code(package: Path) -> None:
    assert cluster._runtime_env() == {"working_dir": str(ROOT)}
    system.load_system("rdsr")
    assert "py_modules" not in cluster._runtime_env()
    system.load_system("somebodys_package.network")
    assert cluster._runtime_env() == {"working_dir": str(ROOT), "py_modules": [str(package)]}


def test_a_submitted_job_brings_no_code_but_such_a_system(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert cluster._runtime_env() == {}
    system.load_system("somebodys_package.network")
    assert cluster._runtime_env() == {"py_modules": [str(package)]}


def test_a_package_inside_the_checkout_is_there_already(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ROOT", package.parent)
    system.load_system("somebodys_package.network")
    assert cluster._runtime_env() == {"working_dir": str(package.parent)}


def test_a_python_that_ray_cannot_start_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr(sys, "executable", "/home/me/my checkout/.venv/bin/python")
    with pytest.raises(UserError, match="the path holds a space"), connect():
        pass
    with pytest.raises(UserError, match="the path holds a space"):
        platform.up(tmp_path)
    assert not platform.state_file(tmp_path).exists()


def uploaded(folder: Path) -> set[str]:
    """The files of a folder that Ray uploads as a working directory."""
    from ray._private.runtime_env.packaging import create_package

    package = folder.parent / "package.zip"
    create_package(str(folder), package, include_gitignore=True)
    with zipfile.ZipFile(package) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_photos_and_secrets_are_not_uploaded_but_the_photos_that_ship_are(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    photos = [checkout / folder.relative_to(ROOT) for folder in (SAMPLE, EMBEDDED_FOLDER)]
    for folder in photos:
        shutil.copytree(ROOT / folder.relative_to(checkout), folder)
    shutil.copy(ROOT / ".rayignore", checkout)
    endings = {*EXTENSIONS, ".zip", ".tar", ".tgz", ".tar.gz", ".tar.xz"}
    for folder in (checkout, checkout / "photos" / "2026"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("network.py", "espcn.yaml"):
            (folder / name).touch()
        for ending in endings:
            (folder / f"a{ending}").touch()
            (folder / f"b{ending.upper()}").touch()
    secrets = checkout / "infra" / "containers" / ".env"
    secrets.parent.mkdir(parents=True)
    secrets.touch()
    own = {
        f"{place}{name}" for place in ("", "photos/2026/") for name in ("network.py", "espcn.yaml")
    }
    shipped = {str(path.relative_to(checkout)) for folder in photos for path in folder.iterdir()}
    assert uploaded(checkout) == {".rayignore", *own, *shipped}


@pytest.mark.slow
def test_workers_import_it(package: Path) -> None:
    """The cluster is the test's own. The package's folder is gone when the workers import it."""
    system.load_system("somebodys_package.network")

    def name_of(path: str) -> str:  # Local, so that Ray sends its code: workers lack `tests`.
        return system.load_system(path).name

    with connect():
        shutil.rmtree(package)
        assert list(ray_map(name_of, [("somebodys_package.network",)])) == ["rdsr"]
