"""The schedules hold commands that exist, in documents that systemd and Kubernetes understand."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cli import command as srmill_command
from pipelines.config.load import load_config
from pipelines.notify import choose_channels
from pipelines.notify.channels import SMTP, WEBHOOK
from pipelines.storage.clock import utc
from pipelines.storage.store import open_store
from pipelines.triggers import starters
from tests.conftest import ROOT
from tests.pipelines.test_cli import srmill
from tests.support.jobs import keys_of, takes

SCHEDULES = ROOT / "infra" / "schedules"
SYSTEMD, KUBERNETES = SCHEDULES / "systemd", ROOT / "infra" / "kubernetes" / "schedules"
FILES = [path for room in (SYSTEMD, KUBERNETES) for path in room.iterdir()]
CRON = re.compile(r"(\S+ ){4}\S+")


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(SYSTEMD / name)
    return parser


def manifest(name: str) -> dict[str, Any]:
    [document] = yaml.safe_load_all((KUBERNETES / name).read_text())
    assert isinstance(document, dict)
    return document


def pod() -> dict[str, Any]:
    return manifest("cronjob.yaml")["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def commands() -> dict[str, list[str]]:
    """The command of each schedule, by file."""
    service = unit("srmill-retrain.service")["Service"]["ExecStart"]
    return {
        "srmill-retrain.service": shlex.split(service),
        "cronjob.yaml": pod()["containers"][0]["command"],
        "raycronjob.yaml": shlex.split(
            manifest("raycronjob.yaml")["spec"]["jobTemplate"]["entrypoint"]
        ),
    }


by_file = pytest.mark.parametrize("name", sorted(commands()))


def test_every_schedule_is_tested() -> None:
    files = {path.name for path in FILES}
    assert files == {*commands(), "srmill-retrain.timer", "kustomization.yaml"}


@by_file
def test_its_command_is_one_poll_whose_settings_the_job_takes(name: str) -> None:
    program, *arguments = commands()[name]
    assert Path(program).name == "srmill"
    parsed = srmill_command._parser().parse_args(arguments)
    assert parsed.once
    config = load_config([f"source={parsed.source}", *parsed.settings])
    assert choose_channels(config.notify) == []  # who is told stands in the environment alone
    keys = keys_of(ROOT / "jobs" / "retrain.py")
    assert all(takes(keys, setting.partition("=")[0]) for setting in parsed.settings)


@by_file
def test_its_command_polls_a_real_bucket(
    name: str, s3_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(starters, "JobServer", lambda url: None)  # nothing is started
    monkeypatch.setattr(starters, "OnCluster", lambda server: starters.Here())
    open_store(f"{s3_url}/photos/incoming").write("a.png", b"photo")
    arguments = [word.replace("s3://", f"{s3_url}/") for word in commands()[name][1:]]
    if "--tick" in arguments:  # the test runs at any time of the day
        arguments[arguments.index("--tick") + 1] = utc(time.time())
    assert srmill(*arguments, "--dry-run") == 0
    assert "1 photo, 1 new; nothing was started yet: starts" in capsys.readouterr().out


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    # Where this checkout and its environment lie; systemd asks whether the user and the file exist.
    places = {
        "/opt/srmill/.venv/bin": str(Path(sys.executable).parent),
        "/opt/srmill": str(ROOT),
        "User=srmill": "User=root",
    }
    for path in SYSTEMD.iterdir():
        text = path.read_text()
        for place, real in places.items():
            text = text.replace(place, real)
        (tmp_path / path.name).write_text(text)

    def verify() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [program, "verify", *sorted(map(str, tmp_path.iterdir()))],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = verify()
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    service = tmp_path / "srmill-retrain.service"
    service.write_text(service.read_text().replace("KillMode=mixed", "KilMode=mixed"))
    assert "KilMode" in verify().stderr


def test_the_timer_starts_the_service_and_makes_up_for_a_missed_tick() -> None:
    timer, service = unit("srmill-retrain.timer"), unit("srmill-retrain.service")["Service"]
    assert timer["Timer"]["Persistent"] == "true"
    assert timer["Install"]["WantedBy"] == "timers.target"
    assert service["Type"] == "oneshot"  # a tick that still runs is not started again
    # The main process alone gets the signal, and lets its job save.
    assert (service["KillMode"], service["SuccessExitStatus"]) == ("mixed", "143")


def test_the_cron_job_is_one_of_kubernetes() -> None:
    document = manifest("cronjob.yaml")
    assert (document["apiVersion"], document["kind"]) == ("batch/v1", "CronJob")
    spec = document["spec"]
    assert set(spec) <= {
        "schedule", "timeZone", "concurrencyPolicy", "startingDeadlineSeconds", "suspend",
        "successfulJobsHistoryLimit", "failedJobsHistoryLimit", "jobTemplate",
    }  # fmt: skip
    assert CRON.fullmatch(spec["schedule"])
    assert spec["concurrencyPolicy"] == "Forbid"
    assert pod()["restartPolicy"] == "Never"
    [container] = pod()["containers"]
    assert all(isinstance(word, str) for word in container["command"])
    variables = {each["name"] for each in container["env"]}
    assert {"SRMILL_HOME", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} <= variables
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod()["volumes"]}


def test_the_ray_cron_job_is_one_of_kuberay() -> None:
    """Its fields are those of KubeRay 1.6: `jobTemplate` holds the spec of a RayJob itself."""
    document = manifest("raycronjob.yaml")
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayCronJob")
    assert set(document["spec"]) == {"schedule", "jobTemplate"}
    assert CRON.fullmatch(document["spec"]["schedule"])
    job = document["spec"]["jobTemplate"]
    assert set(job) == {
        "entrypoint", "backoffLimit", "activeDeadlineSeconds", "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished", "rayClusterSpec", "submitterConfig", "submitterPodTemplate",
    }  # fmt: skip
    assert job["activeDeadlineSeconds"] < 24 * 3600  # no two ticks at once
    cluster = job["rayClusterSpec"]
    [workers] = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    parsed = srmill_command._parser().parse_args(commands()["raycronjob.yaml"][1:])
    assert f"train.workers={workers['replicas']}" in parsed.settings
    for group in (cluster["headGroupSpec"], workers):
        [container] = group["template"]["spec"]["containers"]
        assert {"name": "SRMILL_HOME", "value": "/home/srmill"} in container["env"]


def test_the_variables_that_they_name_are_those_that_are_read() -> None:
    text = "".join(path.read_text() for path in FILES)
    assert set(re.findall(r"SRMILL_\w+", text)) == {"SRMILL_HOME", WEBHOOK, SMTP}
