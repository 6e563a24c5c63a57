"""Retraining again and again, on MLflow over PostgreSQL and an S3 server that asks for credentials.

Each job is a process of its own, as a schedule starts it, on a Ray cluster that outlives it.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from pipelines import tracking
from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.data.sources import SAMPLE
from pipelines.models.bundle import load_bundle
from pipelines.models.load import fetch
from pipelines.storage.store import open_store
from tests.conftest import SMALL, Runner
from tests.support.mlflow_server import MLflowServer
from tests.support.postgres import postgres
from tests.support.ray_nodes import Nodes
from tests.support.run import Job
from tests.support.s3_server import BUCKET, S3Server, use_environment

pytestmark = pytest.mark.slow

MODEL = "grown"
#: What jobs/retrain.py prints when a step begins.
HEADING = re.compile(r"^── (\d)/(\d) (.+?): ")


@dataclass(frozen=True)
class Site:
    """The servers, and the settings by which jobs use them."""

    address: str
    mlflow: str
    bucket: str

    def settings(self, name: str, *extra: str) -> list[str]:
        return [
            f"recipe={SMALL}", f"run.name={name}", f"source={self.bucket}/photos",
            f"data={self.bucket}/shards", f"run.storage={self.bucket}/runs",
            f"output={self.bucket}/out/{name}", f"mlflow.uri={self.mlflow}",
            f"retrain.records={self.bucket}/records", f"mlflow.model={MODEL}",
            "shard.shard_mib=0.1", "evaluate.metrics=[psnr_y]", "evaluate.latency_sizes=[16]",
            f"gate.benchmark={self.bucket}/held-out", *extra,
        ]  # fmt: skip

    def add_photos(self, first: int, last: int) -> None:
        """Puts parts of some of the sample's photos into the bucket."""
        bucket = open_store(f"{self.bucket}/photos")
        for path in sorted(SAMPLE.glob("*.jpg"))[first:last]:
            bucket.write(path.name, encoded(path, (0, 0, 300, 200)))

    def versions(self) -> dict[str, str]:
        """Returns the digest of the bundle of each version; every one of them is whole."""
        client = MlflowClient(self.mlflow)
        found = {}
        for version in client.search_model_versions(f"name = '{MODEL}'"):
            bundle = self.load(f"models:/{MODEL}/{version.version}")
            assert version.tags["srmill.bundle"] == bundle
            found[str(version.version)] = bundle
        return found

    def load(self, reference: str) -> str:
        """Loads a registered model as its users do; returns the bundle's digest."""
        config = load_config(self.settings("any"))
        bundle = load_bundle(fetch(ModelReference.parse(reference), config.mlflow))
        bundle.network()
        return bundle.digest

    def champion(self) -> str | None:
        model = tracking.lookup(MlflowClient(self.mlflow).get_registered_model, MODEL)
        return str(model.aliases["champion"]) if model and "champion" in model.aliases else None


def encoded(path: Path, box: tuple[int, int, int, int]) -> bytes:
    """Returns a part of a photo as PNG."""
    with Image.open(path) as image:
        return as_png(image.crop(box))


def as_png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def site(
    head: Nodes, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    bucket = f"s3://{BUCKET}/retraining"
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as environment, postgres() as database:
        use_environment(s3_server.environment, environment)
        environment.setenv("SRMILL_HOME", str(home))
        head.add(2)
        server = MLflowServer(home, database, f"{bucket}/mlflow")
        server.start()
        found = Site(head.address, server.url, bucket)
        held_out = open_store(f"{bucket}/held-out")
        for path in sorted(SAMPLE.glob("*.jpg"))[9:]:
            for number, x in enumerate((0, 400)):
                held_out.write(f"{path.stem}-{number}.png", encoded(path, (x, 300, x + 96, 396)))
        found.add_photos(0, 6)
        yield found
        server.kill()
        head.clear()


@pytest.fixture(scope="module")
def first(site: Site, run_python: Runner) -> list[str]:
    """The arguments of the first retraining, of one step a stage, which ended with a champion."""
    arguments = ["jobs/retrain.py", *site.settings("first", "train.steps=1")]
    done = run_python(*arguments, RAY_ADDRESS=site.address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Promoted: {MODEL}@champion is version 1" in done.stdout
    return arguments


def test_without_anything_new_it_ends_at_once_without_ray(
    site: Site, first: list[str], run_python: Runner
) -> None:
    before = open_store(site.bucket).sizes()
    done = run_python("-X", "importtime", *first, RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing to do: all 7 steps have the inputs that they had" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "torch" in imported
    assert not {"ray", "deepspeed", "onnxruntime", "scipy.special", "torchvision"} & imported
    assert open_store(site.bucket).sizes() == before


def test_new_photos_are_appended_trained_and_promoted(
    site: Site, first: list[str], run_python: Runner
) -> None:
    known = open_store(f"{site.bucket}/shards").sizes()
    site.add_photos(6, 9)
    longer = site.settings("second", "train.steps=60", "train.checkpoint_every=60")
    done = run_python("jobs/retrain.py", *longer, RAY_ADDRESS=site.address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stage autoencoder: runs: never done" in done.stdout
    now = open_store(f"{site.bucket}/shards").sizes()
    tars = {name: size for name, size in known.items() if name.endswith(".tar")}
    assert tars.items() < now.items()
    assert "better by psnr_y_crop4" in done.stdout
    assert site.champion() == "2"
    assert site.load(f"models:/{MODEL}@champion") == site.versions()["2"]


def test_a_worse_model_is_refused_and_a_rollback_is_one_command(
    site: Site, first: list[str], run_python: Runner
) -> None:
    worse = site.settings("third", "train.steps=1", "seed=1")
    done = run_python("jobs/retrain.py", *worse, RAY_ADDRESS=site.address)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "worse by psnr_y_crop4" in done.stderr
    assert site.champion() == "2"
    versions = site.versions()
    assert sorted(versions) == ["1", "2", "3"]
    done = run_python("jobs/register.py", *site.settings("third"), "action=rollback")
    assert done.returncode == 0, done.stdout + done.stderr
    # A client that loads it now has the old one.
    assert site.load(f"models:/{MODEL}@champion") == versions["1"]
    done = run_python("jobs/register.py", *site.settings("third"), "action=history")
    moves = [line for line in done.stdout.splitlines() if "promote" in line or "rollback" in line]
    assert len(moves) >= 3


def test_a_broken_decoder_is_refused_for_its_images(
    site: Site, first: list[str], run_python: Runner
) -> None:
    """It starts from the champion, and its learning rate breaks it within a few steps."""
    champion = site.champion()
    arguments = site.settings(
        "broken", "stage1=[]", "stage2=[decoder]",
        f"stages.decoder.init_from=models:/{MODEL}@champion",
        "stages.decoder.train.learning_rate=100", "stages.decoder.train.steps=4",
        "evaluate.latency_runs=1", "evaluate.num_pictures=0",
    )  # fmt: skip
    done = run_python("jobs/retrain.py", *arguments, RAY_ADDRESS=site.address)
    assert done.returncode == 3, done.stdout + done.stderr
    version = max(site.versions(), key=int)
    said = f"not promoted: {MODEL} version {version}: worse by psnr_y_crop4, better by none: "
    assert said in done.stderr
    loss = re.search(r"psnr_y_crop4 (-\d+\.\d+) dB .*, better on 0% of \d+ images", done.stderr)
    assert loss, done.stderr
    # No training that is merely worse comes near to this.
    assert float(loss[1]) < -5
    assert site.champion() == champion
    tags = MlflowClient(site.mlflow).get_model_version(MODEL, version).tags
    assert tags["srmill.parent"] == f"models:/{MODEL}/{champion}"


def test_a_slower_artifact_is_refused_although_the_images_are_the_same(
    site: Site, first: list[str], run_python: Runner
) -> None:
    """It is the champion itself, exported for tiles so small that each pixel takes far longer."""
    champion, folder = site.champion(), f"{site.bucket}/out/slower"
    arguments = site.settings("slower", "export.tile=8", f"output={folder}")
    made = run_python("jobs/export.py", *arguments, f"model=models:/{MODEL}@champion")
    assert made.returncode == 0, made.stdout + made.stderr
    done = run_python("jobs/register.py", *arguments, f"bundle={folder}/slower")
    assert done.returncode == 3, done.stdout + done.stderr
    slower = (
        r"onnx_fp32 is \d+% slower \(gate\.max_slowdown=0\.25\); its images: no difference that"
    )
    version = max(site.versions(), key=int)
    assert re.search(f"not promoted: {MODEL} version {version}: {slower}", done.stderr), done.stderr
    assert site.champion() == champion


def test_photos_of_noise_stop_a_retraining_before_it_changes_anything(
    site: Site, first: list[str], run_python: Runner
) -> None:
    bucket, noise = open_store(f"{site.bucket}/photos"), np.random.default_rng(0)
    names = [f"noise-{number}.png" for number in range(3)]
    for name in names:
        pixels = noise.integers(0, 256, (200, 300, 3), np.uint8)
        bucket.write(name, as_png(Image.fromarray(pixels)))
    shards = open_store(f"{site.bucket}/shards").sizes()
    try:
        arguments = site.settings("noise")
        done = run_python("jobs/retrain.py", *arguments, RAY_ADDRESS=site.address)
    finally:
        for name in names:
            bucket.delete(name)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "3 of 3 new photos are junk, more than shard.max_junk=0.5 allows (3 noise" in done.stderr
    now = open_store(f"{site.bucket}/shards").sizes()
    tars = {name for name in now if name.endswith(".tar") or name == "manifest.json"}
    assert {name: now[name] for name in tars} == {name: shards[name] for name in tars}


def test_the_history_tells_what_became_of_each(
    site: Site, first: list[str], run_python: Runner
) -> None:
    done = run_python("jobs/retrain.py", *site.settings("any"), "action=history")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    verdicts = {row[2]: row[1] for row in rows if len(row) > 2}
    known = {"first": "promoted", "second": "promoted", "third": "refused", "noise": "failed"}
    assert {name: verdicts.get(name) for name in known} == known


@pytest.fixture(scope="module")
def killed(site: Site, first: list[str]) -> Job:
    """The retraining that the following tests kill at one step after the other."""
    arguments = site.settings("killed", "train.steps=4", "register.promote=always")
    return Job("jobs/retrain.py", arguments, {"RAY_ADDRESS": site.address})


@pytest.mark.parametrize("delay", [0.0, 1.0])
@pytest.mark.parametrize(
    "step",
    ["shard", "stage autoencoder", "stage joint", "stage decoder", "evaluate", "export",
     "register"],
)  # fmt: skip
def test_killed_at_any_step_it_leaves_nothing_half_done(
    site: Site, killed: Job, step: str, delay: float
) -> None:
    champion, versions = site.champion(), site.versions()
    killed.start()
    killed.until(lambda: begun(killed, step), f"step {step}")
    time.sleep(delay)
    killed.kill()
    now = site.versions()
    assert len(now) <= len(versions) + (step == "register")
    assert versions.items() <= now.items()
    assert site.champion() in {champion, max(now, key=int)}
    killed.lines.clear()


def begun(job: Job, step: str) -> bool:
    return any(m and m[3] == step for _, line in list(job.lines) if (m := HEADING.match(line)))


def test_killed_at_every_step_it_still_ends_with_one_version(site: Site, killed: Job) -> None:
    killed.start()
    assert killed.wait() == 0, killed.output
    client = MlflowClient(site.mlflow)
    versions = site.versions()
    assert len(versions) == len(set(versions.values())), "no bundle is there twice"
    newest = max(versions, key=int)
    assert site.champion() == newest
    run = client.get_run(str(client.get_model_version(MODEL, newest).run_id))
    assert run.info.status == "FINISHED"
    assert site.load(f"models:/{MODEL}@champion") == versions[newest]
