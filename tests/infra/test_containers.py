"""The container files: what the linter and the house's rules say, and commands that exist."""

import fnmatch
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.local import platform as local_platform
from infra.local.servers import seaweedfs
from pipelines import __version__
from tests.conftest import ROOT

FOLDER = ROOT / "infra" / "containers"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
BIN = Path(sys.executable).parent


def compose() -> dict[str, Any]:
    found = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    assert isinstance(found, dict)
    return found


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


by_service = pytest.mark.parametrize("name", sorted(services()))


def test_the_linter_has_nothing_to_say() -> None:
    done = subprocess.run(
        [BIN / "hadolint", FOLDER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_linter_sees_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.replace("WORKDIR /tmp", "WORKDIR tmp"))
    done = subprocess.run(
        [BIN / "hadolint", tmp_path / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert "DL3000" in done.stdout


def test_what_is_copied_is_there_and_nothing_else_is_sent() -> None:
    sent = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = set()
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        copied |= set(line.split()[:-1])
    assert copied == sent
    assert all((ROOT / path).exists() for path in copied)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert any(fnmatch.fnmatch("infra/containers/.env", pattern) for pattern in ignored[2:])
    assert ignored[1] == "*"


def test_every_image_that_ships_runs_as_a_user_and_tells_its_health() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    named = {re.search(r" AS (\S+)", stage).group(1): stage for stage in stages}  # type: ignore[union-attr]
    for target in ("srmill", "mlflow"):
        assert "USER 1000:1000" in named[target]
        assert "HEALTHCHECK" in named[target]
        assert "pip install" not in named[target]  # built in another stage
    assert re.search(r"^ARG PYTHON=\S+:3\.11\.\d+-slim", DOCKERFILE, re.MULTILINE)
    for installed in re.findall(r"pip install (.*)", DOCKERFILE):
        assert "-c " in installed or "-r /tmp/torch.txt" in installed  # pinned by constraints.txt


@by_service
def test_no_service_may_do_more_than_it_must(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    # With fewer, the kernel does not start the program of Caddy's image.
    assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "caddy" else [])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"].partition(":")[0]) > 0
    assert service["mem_limit"]
    assert re.search(r":\d", service["image"])
    assert not service["image"].endswith(":latest")
    assert "healthcheck" in service or service["restart"] == "on-failure"
    assert service.get("ports", []) == [] or name == "caddy"
    assert "build" not in service or service["image"].endswith(f":{__version__}")


def test_secrets_come_from_the_file_that_the_script_writes(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "secrets.sh", tmp_path)
    for _ in range(2):
        subprocess.run(["sh", tmp_path / "secrets.sh"], check=True, capture_output=True)
        written = (tmp_path / ".env").read_text()
        assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    values = dict(line.split("=") for line in written.splitlines())
    assert (tmp_path / ".env").read_text() == written  # kept
    assert all(len(value) == 64 for value in values.values())
    assert len(set(values.values())) == len(values)
    text = (FOLDER / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+):\?", text)) == values.keys()
    for service in services().values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|TOKEN|SECRET|_KEY$", name):
                assert value.startswith("${"), name


def test_identities_are_those_of_the_full_platform() -> None:
    text = re.sub(r"\$\{[^}]*\}", "secret", services()["s3"]["environment"]["IDENTITIES"])
    found = {
        each["name"]: (each["credentials"][0]["accessKey"], tuple(each["actions"]))
        for each in json.loads(text)["identities"]
    }
    assert found == {name: (name, actions) for name, actions in seaweedfs.ALLOWED.items()}


def test_a_client_forgets_the_settings_of_other_servers() -> None:
    unset = re.search(
        r"unset ((?:AWS|MLFLOW)[\w\s\\]+?)\n    export", (FOLDER / "client.sh").read_text()
    )
    assert unset
    assert set(unset[1].replace("\\", "").split()) == set(local_platform.FOREIGN)


def test_git_leaves_the_secrets_alone() -> None:
    for name in (".env", ".env.new", "ca.pem", "root.crt"):
        done = subprocess.run(
            ["git", "check-ignore", "-q", "--no-index", f"infra/containers/{name}"],
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 0, name


def test_only_what_talks_to_the_world_is_on_the_outer_network() -> None:
    assert compose()["networks"]["inside"] == {"internal": True}
    outside = {name for name, each in services().items() if "outside" in each["networks"]}
    assert outside == {"caddy", "ray-head", "ray-worker"}  # Ray fetches weights and data sets
    known = set(services())
    for name, service in services().items():
        assert set(service.get("depends_on", ())) <= known - {name}


def test_mlflow_takes_its_options() -> None:
    from mlflow.cli import server

    options = services()["mlflow"]["command"]
    found = server.make_context("server", [o.replace("${SITE:-localhost}", "s") for o in options])
    assert found.params["app_name"] == "basic-auth"
    assert found.params["backend_store_uri"] == "postgresql+psycopg:///mlflow"


def test_seaweedfs_takes_its_flags() -> None:
    told = subprocess.run(
        [BIN / "weed", "server", "-h"], capture_output=True, text=True, check=False
    )
    known = set(re.findall(r"^  -([\w.]+)", told.stdout + told.stderr, re.MULTILINE))
    given = {word.partition("=")[0].lstrip("-") for word in services()["s3"]["command"][1:]}
    assert given <= known


def test_caddy_takes_its_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / "caddy", "validate", "--adapter", "caddyfile", "--config", FOLDER / "Caddyfile"],
        env=os.environ | {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "SITE": "sr"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    doors = set(re.findall(r":(\d{4}) \{", (FOLDER / "Caddyfile").read_text()))
    assert {f"{port}:{port}" for port in doors} == set(services()["caddy"]["ports"])
    assert {"mlflow", "ray-head", "s3"} == set(
        re.findall(r"reverse_proxy ([\w-]+):", (FOLDER / "Caddyfile").read_text())
    )


@pytest.mark.parametrize("name", ["ray-head", "ray-worker"])
def test_ray_takes_its_options(name: str) -> None:
    from ray.scripts.scripts import start

    ray, command, *options = services()[name]["command"]
    assert (ray, command) == ("ray", "start")
    assert start.make_context("start", options).params["block"] is True
