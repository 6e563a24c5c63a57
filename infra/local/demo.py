"""Runs `make demo`: the chain of a recipe on the local platform, job by job, by Ray's job API."""

import asyncio
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from infra.local.platform import Platform, PlatformError, up
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.evaluation import evaluate
from pipelines.evaluation.results import REPORT
from pipelines.export import export
from pipelines.job import NOT_PROMOTED
from pipelines.models.load import champion
from pipelines.ray_auth import private_environment
from pipelines.retrain import Step, chain, follow
from pipelines.storage.paths import ROOT
from pipelines.triggers.job_server import JobServer, runtime_env

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
_WORKER_PREFIX = re.compile(r"^(\x1b\[\d+m)?\(\w+ pid=\d+(, ip=[\d.]+)?\)(\x1b\[0m)? ")
_BAR = re.compile(r"^\S+ +\d+%\|")
_NOISE = re.compile(
    r"core_worker\.cc|INFO job_manager\.py|Running entrypoint for job|deepspeed_shm_comm_op"
)


def demo(home: Path = ROOT) -> None:
    """Runs the chain's jobs that are not done yet, and prints where the results are.

    Raises:
        PlatformError: a job failed; its own message is above.
    """
    start = time.monotonic()
    platform = up(home)
    print(platform.describe(), flush=True)
    # The chain reads its inputs here, and the jobs read them on the platform.
    os.environ |= {"SRMILL_HOME": str(home), "MLFLOW_TRACKING_URI": platform.mlflow}
    parts = steps()
    follow(parts, lambda step: run_job(platform, step))
    _summary(platform, home, parts, time.monotonic() - start)


def steps() -> list[Step]:
    """Returns the chain of the demo's recipe, as `jobs/retrain.py` runs it."""
    return chain(load_config([f"recipe={RECIPE}", *SETTINGS]), SETTINGS)


def results(parts: Sequence[Step]) -> tuple[Path, Path]:
    """Returns the report and the folder of the bundle that these steps write."""
    evaluated, exported = _config(parts, "evaluate"), _config(parts, "export")
    measured = evaluate.output_location(
        evaluated.output, evaluate.wanted(evaluated), evaluated.benchmark
    )
    return Path(measured) / REPORT, Path(export.output_location(exported))


def _config(parts: Sequence[Step], job: str) -> Config:
    """Returns the configuration of the step that a job does."""
    return next(step.config for step in parts if step.job == job)


def run_job(platform: Platform, step: Step) -> None:
    """Submits the job of a step and shows its log until it ends.

    Raises:
        PlatformError: the job did not succeed.
    """
    os.environ |= private_environment(platform.token_file)
    from ray.job_submission import JobStatus

    client = JobServer(platform.dashboard).client()
    entrypoint = shlex.join([f"jobs/{step.job}.py", *step.arguments])
    print(f"   {entrypoint}", flush=True)
    submitted = _running(client, entrypoint)
    if submitted is not None:
        print("   It runs already, from an interrupted demo: following it.", flush=True)
    else:
        submitted = client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env())
    printer = _Printer()
    asyncio.run(_follow(client, submitted, printer))
    printer.end_line()
    status = client.get_job_status(submitted)
    while not status.is_terminal():
        time.sleep(0.2)
        status = client.get_job_status(submitted)
    if client.get_job_info(submitted).driver_exit_code == NOT_PROMOTED:
        return  # The job did its work, and has said why the champion stays.
    if status != JobStatus.SUCCEEDED:
        raise PlatformError(
            f"jobs/{step.job}.py ended as {status}: its log is above and at {platform.dashboard}. "
            "`make demo` goes on from there once it is mended; `make down` stops the platform."
        )


def _running(client: "JobSubmissionClient", entrypoint: str) -> str | None:
    """Returns the id of a job with this entry point that has not ended; None if there is none."""
    for job in client.list_jobs():
        if job.entrypoint == entrypoint and not job.status.is_terminal():
            return job.submission_id
    return None


async def _follow(client: "JobSubmissionClient", submitted: str, printer: "_Printer") -> None:
    rest = ""
    async for chunk in client.tail_job_logs(submitted):
        *lines, rest = (rest + chunk).split("\n")
        for line in lines:
            printer.show(line)
    if rest:
        printer.show(rest)


class _Printer:
    """Prints a job's lines; on a terminal, a progress bar is redrawn in place."""

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()
        self.open = False

    def show(self, line: str) -> None:
        line = _WORKER_PREFIX.sub("", line.rstrip())
        if not line or _NOISE.search(line):
            return
        if self.terminal and _BAR.match(line):
            sys.stdout.write(f"\r\x1b[2K   {line}")
            self.open = True
        else:
            self.end_line()
            sys.stdout.write(f"   {line}\n")
        sys.stdout.flush()

    def end_line(self) -> None:
        if self.open:
            sys.stdout.write("\n")
            sys.stdout.flush()
        self.open = False


def _summary(platform: Platform, home: Path, parts: Sequence[Step], seconds: float) -> None:
    from mlflow import MlflowClient

    client, settings = MlflowClient(platform.mlflow), _config(parts, "register").mlflow
    best = champion(settings)
    found = client.get_model_version_by_alias(best.name, best.alias)
    experiment = client.get_experiment_by_name(settings.experiment).experiment_id
    runs = f"{platform.mlflow}/#/experiments/{experiment}/runs?workflowType=machine_learning"
    report, bundle = results(parts)
    print(
        f"\nDone in {seconds / 60:.1f} minutes.\n\n"
        f"Model       {best.name} version {found.version}, alias {best.alias} ({best})\n"
        f"Pairs       {home / PREVIEW}\n"
        f"Report      {report}\n"
        f"Bundle      {bundle}\n"
        f"MLflow      {runs}\n"
        f"Dashboard   {platform.dashboard}\n"
        f"Try it      .venv/bin/srmill upscale photo.jpg large.png --model {best}\n"
        "Stop        make down"
    )
