"""A short job in the place of the real one, and a folder with one photo."""

from pathlib import Path

import pytest

from tests.support.triggered import ShortJob


@pytest.fixture
def job(tmp_path: Path) -> ShortJob:
    return ShortJob(tmp_path / "checkout")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"photo")
    return folder
