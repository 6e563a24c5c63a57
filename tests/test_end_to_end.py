"""The jobs on a real local cluster: three ways to start one, then the whole chain."""

import json
import shlex
import time
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from infra.local.platform import Platform
from pipelines.models.bundle import load_bundle
from pipelines.models.load import weights_sha256
from tests.conftest import ROOT, SMALL, Runner


def submit(platform: Platform, entrypoint: str) -> tuple[str, str]:
    """Runs a job through the job API; returns its status and log."""
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(platform.dashboard)
    job = client.submit_job(entrypoint=entrypoint, runtime_env={"working_dir": str(ROOT)})
    deadline = time.monotonic() + 300
    while not client.get_job_status(job).is_terminal() and time.monotonic() < deadline:
        time.sleep(0.5)
    return str(client.get_job_status(job).value), client.get_job_logs(job)


@pytest.fixture(scope="module")
def arguments(cluster: Platform, photos: Path) -> list[str]:
    """Two workers; everything lands under the platform's home."""
    return [f"recipe={SMALL}", f"source={photos}", "train.workers=2"]


@pytest.fixture(scope="module")
def stage1(cluster: Platform, arguments: list[str]) -> str:
    """shard and stage 1, submitted; the log of the latter."""
    for job in ("shard", "stage1"):
        entrypoint = shlex.join([f"jobs/{job}.py", *arguments])
        status, log = submit(cluster, entrypoint)
        assert status == "SUCCEEDED", log
    return log


def weights(home: str, run: str) -> dict:
    [checkpoint] = (Path(home) / "work/runs" / run).glob("step-000004-*")
    return load_file(checkpoint / "model.safetensors")


def test_a_submitted_stage_trains_with_progress_and_lands_at_home(
    cluster: Platform, stage1: str
) -> None:
    assert "autoencoder 100%" in stage1
    assert "Trained small-joint: loss" in stage1
    assert set(weights(cluster.home, "small-joint"))


@pytest.mark.slow
def test_three_ways_to_start_a_job_give_the_same_weights(
    cluster: Platform, stage1: str, arguments: list[str], run_python: Runner
) -> None:
    environment = {"SRMILL_HOME": cluster.home, "MLFLOW_TRACKING_URI": cluster.mlflow}
    # On the running cluster, and alone: `local` makes Ray start one of its own.
    for name, address in (("joined", cluster.ray_address), ("alone", "local")):
        done = run_python(
            "jobs/stage1.py", *arguments, f"run.name={name}", RAY_ADDRESS=address, **environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
    for stage in ("autoencoder", "joint"):
        submitted = weights(cluster.home, f"small-{stage}")
        for name in ("joined", "alone"):
            other = weights(cluster.home, f"{name}-{stage}")
            assert submitted.keys() == other.keys()
            assert all((submitted[key] == other[key]).all() for key in submitted)


@pytest.mark.slow
def test_the_stages_of_another_system_run_on_the_same_cluster_and_shards(
    cluster: Platform, stage1: str
) -> None:
    recipe = ROOT / "tests" / "recipes" / "small_rdsr.yaml"
    for job, stage in (("stage1", "prior"), ("stage2", "diffusion")):
        status, log = submit(cluster, f"jobs/{job}.py recipe={recipe} train.workers=2")
        assert status == "SUCCEEDED", log
        assert f"Trained small_rdsr-{stage}: loss" in log
        assert set(weights(cluster.home, f"small_rdsr-{stage}"))


def test_a_mistake_in_a_submitted_job_fails_it_with_the_sentence(cluster: Platform) -> None:
    status, log = submit(cluster, f"jobs/stage1.py recipe={SMALL} train.stpes=3")
    assert status == "FAILED"
    assert "did you mean 'train.steps'?" in log
    assert "Traceback" not in log


@pytest.fixture(scope="module")
def environment(cluster: Platform) -> dict[str, str]:
    """Returns the settings by which a job finds the platform."""
    return {
        "SRMILL_HOME": cluster.home,
        "MLFLOW_TRACKING_URI": cluster.mlflow,
        "RAY_ADDRESS": cluster.ray_address,
    }


@pytest.fixture(scope="module")
def retrained(
    stage1: str, arguments: list[str], environment: dict[str, str], run_forked: Runner
) -> str:
    """Runs the rest of the chain, up to a champion, and returns what the job printed."""
    done = run_forked("jobs/retrain.py", *arguments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_retrain_finishes_what_is_there_and_registers_a_champion(
    cluster: Platform, retrained: str
) -> None:
    assert "Nothing to do: small-joint is trained already" in retrained
    assert "Promoted: small@champion is version 1" in retrained

    home = Path(cluster.home) / "work"
    results = json.loads((home / "evaluate" / "small-decoder" / "results.json").read_text())
    summary = results["benchmarks"]["validation"]["summary"]
    assert list(summary) == ["bicubic", "run:small-joint", "run:small-decoder"]
    report = (home / "evaluate" / "small-decoder" / "report.html").read_text()
    for stage in ("autoencoder", "joint", "decoder"):
        assert f"<figcaption>{stage}: " in report

    bundle = load_bundle(home / "export" / "small")
    assert bundle.facts.edge["onnx_fp32"].parity.max_error <= 1e-4
    assert bundle.facts.parent_version is None
    (found,) = bundle.facts.metrics.benchmarks.values()
    assert found.model == summary["run:small-decoder"]
    assert (bundle.path / "report.html").exists()
    assert not [p for p in bundle.path.rglob("*") if p.suffix in (".pkl", ".pt", ".pth")]


def test_retrain_does_nothing_twice(
    retrained: str, arguments: list[str], environment: dict[str, str], run_forked: Runner
) -> None:
    again = run_forked("jobs/retrain.py", *arguments, **environment)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Nothing to do: all 7 steps have the inputs that they had. The result " in again.stdout
    assert "Champion: models:/small@champion = version 1" in again.stdout


def test_a_mobile_engineer_upscales_with_the_champion(
    retrained: str, environment: dict[str, str], run_forked: Runner, tmp_path: Path
) -> None:
    Image.new("RGB", (50, 40), (90, 120, 30)).save(tmp_path / "a.png")
    done = run_forked(
        "-m", "pipelines.cli", "upscale", str(tmp_path / "a.png"), str(tmp_path / "b.png"),
        "--model", "models:/small@champion", **environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "b.png") as image:
        assert image.size == (200, 160)


@pytest.mark.slow
def test_a_candidate_is_measured_beside_the_champion(
    retrained: str, arguments: list[str], environment: dict[str, str], run_python: Runner
) -> None:
    done = run_python(
        "jobs/evaluate.py", *arguments, "model=run:small-joint",
        "evaluate.compare=[models:/small@champion]", **environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "models:/small@champion" in done.stdout


@pytest.mark.slow
def test_the_next_model_starts_from_the_champion_and_is_half_as_large(
    cluster: Platform,
    retrained: str,
    arguments: list[str],
    environment: dict[str, str],
    run_python: Runner,
) -> None:
    home = Path(cluster.home) / "work"
    bundle = load_bundle(home / "export" / "small")
    done = run_python(
        "jobs/retrain.py", *arguments, "run.name=next", "stage1=[joint]",
        "stages.joint.init_from=models:/small@champion", "export.weights=fp16",
        "export.artifacts=[]", **environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Starting from models:/small@champion." in done.stdout
    half = load_bundle(home / "export" / "next")
    assert half.facts.edge == {}
    assert (bundle.facts.parent_version, half.facts.parent_version) == (None, "models:/small/1")
    assert half.facts.weights_sha256 == weights_sha256(half.network().inference_state_dict())
    sizes = [b.facts.files["model.safetensors"].bytes for b in (half, bundle)]
    assert sizes[0] < 0.75 * sizes[1]  # beside the weights there are their names
    assert half.finetuning_weights().keys() == bundle.finetuning_weights().keys()


def test_a_dataset_of_other_photos_is_not_overwritten(
    cluster: Platform, stage1: str, arguments: list[str], run_forked: Runner
) -> None:
    manifest = Path(cluster.home) / "work/shards/manifest.json"
    before = manifest.read_bytes()
    done = run_forked("jobs/shard.py", f"recipe={SMALL}", "source=sample", SRMILL_HOME=cluster.home)
    assert done.returncode == 2
    assert "photos, of which 0 are in the source" in done.stderr
    assert manifest.read_bytes() == before
