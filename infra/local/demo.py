"""Runs `make demo`: the chain of a recipe on the local platform, job by job, by Ray's job API."""

import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from infra.local.platform import FOREIGN, Platform, up
from infra.local.servers.seaweedfs import BUCKET
from infra.local.servers.server import PlatformError
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.evaluation import evaluate
from pipelines.evaluation.results import REPORT
from pipelines.export import export
from pipelines.job import NOT_PROMOTED
from pipelines.models.load import champion
from pipelines.retrain import Step, chain, follow
from pipelines.storage.paths import ROOT
from pipelines.triggers.job_server import JobServer, runtime_env
from pipelines.triggers.logs import follow_log

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

MODEL = "edge_sd_sr_tiny"
RECIPE = f"{MODEL}_finetune"
PREVIEW = "work/preview.png"
#: The settings of the demo besides the recipe.
SETTINGS = (
    "source=sample",
    f"preview={PREVIEW}",
    f"evaluate.compare=[{MODEL}]",
    "export.artifacts=[onnx_fp32,onnx_int8]",
    "export.calibration_images=32",
)
#: What the demo adds on the full platform: all that lasts is in S3.
IN_S3 = tuple(
    f"{key}=s3://{BUCKET}/{folder}"
    for key, folder in {
        "data": "shards", "run.storage": "runs", "output": "out", "retrain.records": "retrain",
    }.items()
)  # fmt: skip


def demo(home: Path = ROOT, full: bool = False) -> None:
    """Runs the chain's jobs that are not done yet, and prints where the results are.

    Args:
        home: the platform's home.
        full: True for the full platform, with the results in S3.

    Raises:
        PlatformError: a job failed; its own message is above.
    """
    start = time.monotonic()
    platform = up(home, full)
    print(platform.describe(), flush=True)
    # The chain reads its inputs here, and the jobs read them on the platform.
    if platform.full:
        for name in FOREIGN:
            os.environ.pop(name, None)
    os.environ |= {"SRMILL_HOME": str(home), **platform.environment()}
    parts = steps(SETTINGS + IN_S3 if platform.full else SETTINGS)
    follow(parts, lambda step: run_job(platform, step))
    _summary(platform, home, parts, time.monotonic() - start)


def steps(settings: Sequence[str] = SETTINGS) -> list[Step]:
    """Returns the chain of the demo's recipe, as `jobs/retrain.py` runs it."""
    return chain(load_config([f"recipe={RECIPE}", *settings]), settings)


def results(parts: Sequence[Step]) -> tuple[str, str]:
    """Returns where these steps write the report, and the bundle."""
    evaluated, exported = _config(parts, "evaluate"), _config(parts, "export")
    measured = evaluate.output_location(
        evaluated.output, evaluate.wanted(evaluated), evaluated.benchmark
    )
    return f"{measured}/{REPORT}", export.output_location(exported)


def _config(parts: Sequence[Step], job: str) -> Config:
    """Returns the configuration of the step that a job does."""
    return next(step.config for step in parts if step.job == job)


def run_job(platform: Platform, step: Step) -> None:
    """Submits the job of a step and shows its log until it ends.

    Raises:
        PlatformError: the job did not succeed.
    """
    from ray.job_submission import JobStatus

    client = JobServer(platform.dashboard, os.environ.get("SSL_CERT_FILE")).client()
    entrypoint = shlex.join([f"jobs/{step.job}.py", *step.arguments])
    print(f"   {entrypoint}", flush=True)
    submitted = _running(client, entrypoint)
    if submitted is not None:
        print("   It runs already, from an interrupted demo: following it.", flush=True)
    else:
        submitted = client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env())
    done = follow_log(client, submitted, indent="   ")
    if done.driver_exit_code == NOT_PROMOTED:
        return  # The job did its work, and has said why the champion stays.
    if done.status != JobStatus.SUCCEEDED:
        raise PlatformError(
            f"jobs/{step.job}.py ended as {done.status}: its log is above and at "
            f"{platform.dashboard}. `make demo` goes on from there once it is mended; `make down` "
            "stops the platform."
        )


def _running(client: "JobSubmissionClient", entrypoint: str) -> str | None:
    """Returns the id of a job with this entry point that has not ended; None if there is none."""
    for job in client.list_jobs():
        if job.entrypoint == entrypoint and not job.status.is_terminal():
            return job.submission_id
    return None


def _summary(platform: Platform, home: Path, parts: Sequence[Step], seconds: float) -> None:
    from mlflow import MlflowClient

    client, settings = MlflowClient(platform.mlflow), _config(parts, "register").mlflow
    best = champion(settings)
    found = client.get_model_version_by_alias(best.name, best.alias)
    experiment = client.get_experiment_by_name(settings.experiment).experiment_id
    runs = f"{platform.mlflow}/#/experiments/{experiment}/runs?workflowType=machine_learning"
    report, bundle = results(parts)
    read = f". {shlex.quote(str(platform.environment_file))} && " if platform.full else ""
    print(
        f"\nDone in {seconds / 60:.1f} minutes.\n\n"
        f"Model       {best.name} version {found.version}, alias {best.alias} ({best})\n"
        f"Pairs       {home / PREVIEW}\n"
        f"Report      {report}\n"
        f"Bundle      {bundle}\n"
        f"MLflow      {runs}\n"
        f"Dashboard   {platform.dashboard}\n"
        f"Try it      {read}.venv/bin/srmill upscale photo.jpg large.png --model {best}\n"
        "Stop        make down"
    )
