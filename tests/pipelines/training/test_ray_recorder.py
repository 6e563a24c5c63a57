"""The newest values of a training, as Prometheus reads them from a real Ray."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from infra.local.platform import Platform
from pipelines.training.ray_counters import COUNTERS
from pipelines.training.ray_recorder import GAUGES
from tests.conftest import ROOT

Scraped = dict[tuple[str, str], float]
#: Stands in for a rank: it records, lives until it is told to end, and ends.
RANK = """
import sys
import time
import ray
from PIL import Image
from pathlib import Path
from pipelines.training.ray_counters import telling
from pipelines.training.ray_recorder import RayRecorder

ray.init(log_to_driver=False)
labels = {"run": "r-" + sys.argv[1], "stage": "joint", "model": "m"}
recorder = RayRecorder(labels, steps=200, batch_size=4, first_step=5)
values = {
    "train/loss": 0.5, "train/discriminator/loss": 0.25, "train/gradient_norm": 3.0,
    "train/discriminator/gradient_norm": 4.0, "learning_rate/decoder": 1e-4,
    "speed/samples_per_second": 8.0, "speed/data_wait_share": 0.125, "speed/mfu": 0.375,
    "memory/resident_gib": 1.5, "steps/skipped": 7, "validation/psnr_y": 31.5,
}
print("shown", flush=True)
sys.stdin.readline()
recorder.metrics(values, 10)
recorder.metrics({}, 20)
recorder.picture("p", Image.new("RGB", (4, 4)), 20)
recorder.file(Path("absent"), "profile")
recorder.close()
totals = {"srmill_data_fetched_bytes_total": 100, "srmill_data_fetches_total": 2,
          "srmill_data_cache_hits_total": 0, "srmill_failed_attempts_total": 1}
with telling(labels, lambda: totals, 0.2):
    time.sleep(1)
    totals |= {"srmill_data_fetched_bytes_total": 150, "srmill_data_cache_hits_total": 6}
    sys.stdin.read()
"""


def scraped(port: int, run: str) -> Scraped:
    """The values of a run, by name and the value of the label that the name has of its own."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    own = ("loss", "turn", "group", "score")
    return {
        (s.name, "".join(s.labels.get(name, "") for name in own)): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if s.labels.get("run") == run and (s.labels["stage"], s.labels["model"]) == ("joint", "m")
    }


def until(port: int, run: str, wanted: Callable[[Scraped], bool]) -> Scraped:
    """Scrapes until the values are as wanted, and returns them. Ray's agent needs some seconds."""
    deadline = time.monotonic() + 90
    while not wanted(found := scraped(port, run)):
        assert time.monotonic() < deadline, found
        time.sleep(1)
    return found


def gauges(found: Scraped) -> set[str]:
    return {name.removeprefix("ray_") for name, _ in found} & GAUGES.keys()


def test_prometheus_reads_them_as_long_as_the_rank_lives(cluster: Platform) -> None:
    environment = os.environ | {"RAY_ADDRESS": cluster.ray_address}
    mark, port, pipe = str(os.getpid()), cluster.ports["metrics"], subprocess.PIPE
    command, run = [sys.executable, "-c", RANK, mark], f"r-{mark}"
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True
    ) as rank:
        assert rank.stdin is not None
        assert rank.stdout is not None
        assert "shown\n" in iter(rank.stdout.readline, "")
        # Before its first record, so that one that hangs there is seen.
        progress = {("ray_srmill_train_step", ""): 5, ("ray_srmill_train_steps", ""): 200}
        until(port, run, lambda found: found == progress)
        rank.stdin.write("go on\n")
        rank.stdin.flush()
        until(port, run, lambda found: found == EXPECTED)
        rank.stdin.close()
    assert {name.removeprefix("ray_") for name, _ in EXPECTED} == GAUGES.keys() | COUNTERS.keys()
    left = until(port, run, lambda found: not gauges(found))
    assert left["ray_srmill_data_fetched_bytes_total", ""] == 150


EXPECTED = {
    ("ray_srmill_train_step", ""): 20,
    ("ray_srmill_train_steps", ""): 200,
    ("ray_srmill_train_loss", "loss"): 0.5,
    ("ray_srmill_train_loss", "discriminator/loss"): 0.25,
    ("ray_srmill_train_gradient_norm", ""): 3,
    ("ray_srmill_train_gradient_norm", "discriminator"): 4,
    ("ray_srmill_train_learning_rate", "decoder"): 1e-4,
    ("ray_srmill_train_samples_per_second", ""): 8,
    ("ray_srmill_train_steps_per_second", ""): 2,
    ("ray_srmill_train_data_wait_ratio", ""): 0.125,
    ("ray_srmill_train_mfu_ratio", ""): 0.375,
    ("ray_srmill_train_memory_gib", ""): 1.5,
    ("ray_srmill_train_skipped_steps", ""): 7,
    ("ray_srmill_validation_score", "psnr_y"): 31.5,
    ("ray_srmill_data_fetched_bytes_total", ""): 150,
    ("ray_srmill_data_fetches_total", ""): 2,
    ("ray_srmill_data_cache_hits_total", ""): 6,
    ("ray_srmill_failed_attempts_total", ""): 1,
}
