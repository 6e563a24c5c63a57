"""The shard job on real Ray: killed and started again, on one node and on two, the same bytes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.cluster import connect, ray_map
from pipelines.config.load import load_config
from pipelines.data.shard import make_dataset
from pipelines.data.sources import find_entries
from tests.conftest import ROOT, SMALL, write_dataset
from tests.support.photos import noise, sample, save
from tests.support.ray_nodes import Nodes

pytestmark = pytest.mark.slow

SETTINGS = ("recipe=edge_sd_sr_tiny", "source=sample", "shard.shard_mib=1.5", "shard.effort=4")


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The sample set, sharded without Ray."""
    directory = tmp_path_factory.mktemp("expected")
    write_dataset("sample", directory, *SETTINGS)
    return files(directory)


def kill_all(process: "subprocess.Popen[bytes]") -> None:
    """Kills the job, its tasks and its Ray, like a machine that loses power."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    psutil.wait_procs(family, timeout=20)


def test_killed_again_and_again_it_arrives_at_the_same_bytes(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    environment = os.environ | {"RAY_ADDRESS": "local"}
    command = [sys.executable, "jobs/shard.py", *SETTINGS, f"output={tmp_path}"]
    for done in (1, 3):
        with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
            deadline = time.monotonic() + 120
            while len(list(tmp_path.glob("*.tar"))) < done and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert process.poll() is None, "it ended before it could be killed"
            kill_all(process)
        assert not (tmp_path / "manifest.json").exists()
        for path in tmp_path.glob("*.tar"):
            assert path.read_bytes() == expected[path.name], "a shard is whole or absent"
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=200)
    assert files(tmp_path) == expected


@pytest.fixture
def two_nodes(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes.add(2)
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)


def num_nodes() -> int:
    """The nodes that take tasks."""
    import ray

    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())


def test_two_nodes_make_the_same_bytes_as_none(
    two_nodes: None, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    config = load_config([*SETTINGS, f"output={tmp_path}"])
    with connect():
        assert num_nodes() == 2
        make_dataset(config, find_entries("sample"), ray_map)
    assert files(tmp_path) == expected


def test_two_nodes_leave_out_the_same_photos_as_none(two_nodes: None, tmp_path: Path) -> None:
    """Noise, copies, and a photo of the benchmark, which one node at a time compares."""
    folder, frozen = tmp_path / "photos", tmp_path / "frozen"
    for number in range(8):
        save(sample(number, 0.5), folder / f"{number}.png")
        save(noise("uniform", 300, number), folder / f"{number} noise.png")
        save(sample(number, 0.4), folder / f"{number} smaller.png")
    save(sample(9, 0.5), folder / "shown.png")
    save(sample(9)[450:674, 800:1024], frozen / "crop.png")
    settings = [*SETTINGS[2:], f"source={folder}", f"gate.benchmark={frozen}"]
    write_dataset(folder, tmp_path / "none", *settings)
    config = load_config([f"recipe={SMALL}", *settings, f"output={tmp_path / 'two'}"])
    with connect():
        assert num_nodes() == 2
        make_dataset(config, find_entries(str(folder)), ray_map)
    assert files(tmp_path / "two") == files(tmp_path / "none")
    reasons = json.loads((tmp_path / "two" / "report.json").read_text())["reasons"]
    copies = sum(count for reason, count in reasons.items() if reason.startswith("near-dup"))
    assert (reasons["noise"], reasons["shown in the benchmark"], copies) == (8, 1, 8)
