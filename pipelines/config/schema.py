"""Declares every key that a job or a recipe can set, with its default and its meaning."""

import math
from dataclasses import dataclass
from typing import Any

from pipelines.config.keys import (
    MAX_BATCH,
    MAX_PICTURES,
    MAX_PROCESSES,
    MAX_SECONDS,
    MAX_SIDE,
    MAX_STEPS,
    Place,
    key,
    section,
)
from pipelines.config.retrain import RetrainConfig
from pipelines.config.shadow import ShadowConfig
from pipelines.errors import listing
from pipelines.storage.retries import RetryPolicy
from srmodels.degradation import PRESETS
from srmodels.edge.target import DELEGATES, TARGETS
from srmodels.metrics.suite import METRICS, SET_METRICS
from srmodels.optimizers import MOMENTUM, OPTIMIZERS


@dataclass
class RunConfig:
    """The keys `run.*`: the run's name, and the places of its checkpoints."""

    name: str | None = key(
        None, "fixed name of the run; the same name resumes it (default: the recipe's name)"
    )
    storage: str = key(
        "work/runs",
        "directory or s3:// prefix that holds the checkpoints of all runs",
        place=Place.ANY,
    )
    scratch: str = key(
        "work/scratch",
        "node-local folder for checkpoints on their way to and from s3://",
        place=Place.LOCAL,
    )


@dataclass
class ShardConfig:
    """The keys `shard.*`: how photos become shards."""

    tile: int = key(256, "side of a training tile in HR pixels", minimum=1)
    val_tile: int = key(512, "side of a validation tile in HR pixels", minimum=1)
    overlap: int = key(0, "least overlap of neighbouring training tiles, pixels", minimum=0)
    min_contrast: float = key(
        2.0, "drops training tiles of less contrast (std of luma, 8-bit levels)", minimum=0
    )
    val_fraction: float = key(
        0.15,
        "share of photos held out for validation, at least one photo (div2k has its own split)",
    )
    val_source: Any = key(
        None,
        "photos that are validation and nothing else, as in source=; all others are training then, "
        "without those that are in both",
        place=Place.ANY,
    )
    shard_mib: float = key(32.0, "size that a shard should have, MiB", above=0)
    effort: int = key(1, "lossless WebP effort: 0 (fast) to 6 (small)", choices=tuple(range(7)))
    max_megapixels: float = key(150.0, "larger photos count as failures", above=0)
    max_file_mib: int = key(256, "larger photo files count as failures, MiB", minimum=1)
    max_unpacked_gib: float = key(
        100.0, "compressed tars (.tgz, .tar.xz) that unpack to more are refused, GiB", above=0
    )
    max_failures: float = key(
        0.05, "share of photo files that may be broken before the job stops", minimum=0
    )
    quality: bool = key(
        True,
        "leaves out new photos that are too small, blank, noise, near-duplicates, or show the "
        "benchmark (docs/data.md); false takes every photo, for textures and test patterns",
    )
    min_side: int | None = key(
        None, "new photos with a shorter side are junk, pixels (default: that of a tile)", minimum=1
    )
    max_junk: float = key(
        0.5,
        "share of the new photos that may be junk (too small, blank, noise, or of the benchmark) "
        "before the job stops; one or two never stop it, unless it is 0",
        minimum=0,
        maximum=1,
    )


@dataclass
class StreamConfig:
    """The keys `stream.*`: how shards are read."""

    window: int = key(4, "shards that are shuffled together, per lane", minimum=1)
    lanes: int = key(4, "parts of an epoch that are read in turn", minimum=1)
    cache: str = key(
        "work/cache", "node-local folder that keeps shards from s3://", place=Place.LOCAL
    )
    cache_mib: int = key(20480, "largest size of that folder, MiB", minimum=1)
    retry_seconds: float = key(
        600.0,
        "seconds without progress from object storage before a job gives up (10 at most for a "
        "server that has not answered yet, or 120 if it is busy)",
        above=0,
        maximum=MAX_SECONDS,
    )
    timeout_seconds: float = key(
        60.0, "longest wait for one answer of it, seconds", above=0, maximum=MAX_SECONDS
    )

    @property
    def policy(self) -> RetryPolicy:
        """The limits on waiting for object storage."""
        return RetryPolicy(budget_s=self.retry_seconds, timeout_s=self.timeout_seconds)


@dataclass
class DegradationConfig:
    """The keys `degradation.*`: how LR is made from HR."""

    preset: str = key(
        "bicubic", f"how LR is made from HR: {listing(PRESETS)}", choices=tuple(PRESETS)
    )
    options: Any = key(None, "the preset's parameters (--dry-run=full prints them)")


SCHEDULES = ("cosine", "constant", "step")
SCHEDULE_HELP = "learning rate after warm-up: cosine (to zero), constant, or step"


@dataclass
class GroupConfig:
    """The settings of one parameter group; None takes the value of the stage's `train`."""

    learning_rate: float | None = key(None, "peak learning rate", above=0, maximum=1e6)
    weight_decay: float | None = key(None, "weight decay", minimum=0)
    warmup_steps: int | None = key(None, "steps of linear warm-up", minimum=0, maximum=MAX_STEPS)
    schedule: str | None = key(None, SCHEDULE_HELP, choices=SCHEDULES)
    start_step: int = key(
        0, "first step that trains it; its rate is zero before", minimum=0, maximum=MAX_STEPS
    )


@dataclass
class TrainConfig:
    """The keys `train.*`: how a stage is trained."""

    steps: int = key(1000, "optimizer steps of the stage", minimum=1, maximum=MAX_STEPS)
    batch_size: int = key(8, "samples per step over all workers", minimum=1, maximum=MAX_BATCH)
    micro_batch_size: int | None = key(
        None,
        "samples of a worker per forward and backward; the gradients of a larger share are "
        "accumulated (default: all of the share)",
        minimum=1,
        maximum=MAX_BATCH,
    )
    workers: Any = key(
        1,
        "Ray Train workers, or [min, max] of them; 0 trains in the job's own process, without a "
        "cluster",
    )
    threads_per_worker: int = key(1, "CPU cores of a worker", minimum=1, maximum=MAX_PROCESSES)
    loader_processes: int = key(
        0,
        "processes of each worker that prepare samples ahead; 0: a thread does",
        minimum=0,
        maximum=MAX_PROCESSES,
    )
    accept_changed_data: bool = key(
        False, "lets a run resume with another dataset than it began with"
    )
    accelerator: str = key(
        "auto",
        "cpu, cuda, or auto: cuda where the cluster has a GPU per worker",
        choices=("auto", "cpu", "cuda"),
    )
    zero_stage: int = key(
        0,
        "DeepSpeed ZeRO stage, which splits among the workers: 0 nothing, 1 optimizer states, "
        "2 gradients too, 3 weights too",
        choices=(0, 1, 2, 3),
    )
    activation_checkpointing: bool = key(
        False, "recomputes activations in backward instead of keeping them"
    )
    precision: str = key(
        "fp32", "fp32, or bf16: autocast with fp32 weights", choices=("fp32", "bf16")
    )
    replay: float | None = key(
        None,
        "share of the samples that come from photos that the starting weights were trained on; the "
        "others come from newer photos (default: all photos equally often)",
        minimum=0,
        maximum=0.99,
    )
    crop: int = key(128, "side of an HR training crop in pixels", minimum=1, maximum=MAX_SIDE)
    optimizer: str = key(
        "adamw",
        f"{listing(OPTIMIZERS)} (sgd has a momentum of {MOMENTUM})",
        choices=tuple(OPTIMIZERS),
    )
    learning_rate: float = key(1e-3, "peak learning rate", above=0, maximum=1e6)
    weight_decay: float = key(
        0.0,
        "weight decay: decoupled (adamw, lion), or added to the gradient (adam, sgd)",
        minimum=0,
    )
    warmup_steps: int = key(20, "steps of linear warm-up", minimum=0, maximum=MAX_STEPS)
    schedule: str = key("cosine", SCHEDULE_HELP, choices=SCHEDULES)
    decay_steps: list[int] = key([], "schedule=step: the steps at which the learning rate drops")
    decay_factor: float = key(
        0.5,
        "schedule=step: factor of the learning rate at each of decay_steps",
        above=0,
        maximum=1,
    )
    groups: dict[str, GroupConfig] = key(
        {},
        "settings of single parameter groups by name: learning_rate, weight_decay, warmup_steps, "
        "schedule, start_step",
    )
    gradient_clip: float = key(1.0, "largest gradient norm", above=0)
    ema_half_life: float = key(20.0, "half-life of the averaged weights, in steps", above=0)
    checkpoint_every: int = key(100, "steps between checkpoints", minimum=1)
    keep_checkpoints: int = key(2, "newest checkpoints that are kept", minimum=1)
    keep_best: int = key(
        0,
        "best checkpoints that are kept, by validation PSNR; each validation writes one then",
        minimum=0,
    )
    keep_every: int = key(
        0, "checkpoints at multiples of this number of steps are kept for ever; 0: none", minimum=0
    )
    log_every: int = key(10, "steps between metrics in MLflow", minimum=1)
    validate_every: int = key(
        0,
        "steps between validations during training, with the averaged weights; 0: none",
        minimum=0,
    )
    validate_images: int = key(
        8, "validation images that are measured", minimum=1, maximum=MAX_STEPS
    )
    validate_crop: int = key(
        256, "largest side of their centre crops, HR pixels", minimum=1, maximum=MAX_SIDE
    )
    profile: Any = key(
        None, "[first_step, num_steps]: traces num_steps steps after first_step (torch.profiler)"
    )
    channels_last: bool = key(
        False, "stores images with channels last, which convolutions on a GPU read faster"
    )
    compile: bool = key(False, "compiles the networks with torch.compile")
    max_skipped_steps: int = key(
        10, "largest number of steps skipped for a gradient that is not finite", minimum=0
    )
    max_failures: int = key(
        5, "failures without a new checkpoint in between, before the run gives up", minimum=0
    )

    @property
    def min_workers(self) -> int:
        """The smallest number of workers that the run continues with."""
        return int(self.workers[0] if isinstance(self.workers, list) else self.workers)

    @property
    def max_workers(self) -> int:
        """The largest number of workers that the run uses."""
        return int(self.workers[-1] if isinstance(self.workers, list) else self.workers)

    @property
    def world_size(self) -> int:
        """The number of processes that share a step when all workers are there."""
        return max(self.max_workers, 1)

    def micro_batches(self, ranks: int) -> tuple[int, int]:
        """Returns a rank's micro-batches per step, and the largest number of samples in one."""
        share = math.ceil(self.batch_size / ranks)
        samples = min(self.micro_batch_size or share, share)
        return math.ceil(share / samples), samples


@dataclass
class StageConfig:
    """The keys `stages.<name>.*`: one stage of a recipe."""

    kind: str | None = key(None, "the system's stage to run (default: the stage's own name)")
    init_from: str | None = key(
        None,
        "the weights that it starts from: a stage of the same run.name, or a model (run:NAME, a "
        "shipped model's name, models:/NAME@ALIAS, a bundle directory); none: init.*, or random",
    )
    teacher: str | None = key(
        None,
        "the frozen teacher of a stage that takes one: a stage of the same run.name, a model as in "
        "init_from, spandrel:FILE, or a peer (span, realsr, realesrgan)",
    )
    networks: Any = key(None, "overrides of networks.* for this stage")
    options: Any = key(None, "the stage's own settings")
    train: Any = key(None, "overrides of train.* for this stage")


@dataclass
class EvaluateConfig:
    """The keys `evaluate.*`: the methods, metrics and timings of an evaluation."""

    compare: list[str] = key(
        [],
        "what to measure beside the model and bicubic: other models, lanczos, "
        "artifact:FILE, onnx:FILE, spandrel:FILE, or a peer (span, realsr, realesrgan)",
        place=Place.MODEL,
    )
    metrics: Any = key(
        "auto",
        f"a [list] of {listing([*METRICS, *SET_METRICS])}; auto: psnr_y, ssim_y, and of "
        "lpips_alex and niqe those whose weights are at hand",
    )
    preset: str = key(
        "plain",
        "how a folder of HR images becomes a benchmark: plain: whole images and the recipe's "
        "degradation; stablesr: 30 crops of 512 px of each, degraded by realsr_diffusion",
        choices=("plain", "stablesr"),
    )
    num_pictures: int = key(4, "comparison pictures in the report", minimum=0, maximum=MAX_PICTURES)
    latency_sizes: list[int] = key(
        [128], "sides of the square LR images that every method is timed on, pixels; [] for none"
    )
    latency_runs: int = key(10, "timed runs of each method", minimum=1)
    crop_border: int | None = key(
        None, "border left out of the metrics, px (default: the scale)", minimum=0
    )


@dataclass
class ExportConfig:
    """The keys `export.*`: the artifacts and weights of a bundle."""

    tile: int = key(
        128, "side of the LR input of the edge artifacts in pixels", minimum=1, maximum=MAX_SIDE
    )
    evidence: str = key(
        "work/evaluate",
        "directory or s3:// prefix of the results of jobs/evaluate.py",
        place=Place.ANY,
    )
    artifacts: list[str] = key(
        ["onnx_fp32"], f"edge artifacts of the bundle: {listing(TARGETS)}, or []"
    )
    weights: str = key(
        "fp32",
        "fp32, or fp16: rounds weights to half the size; set the same for jobs/evaluate.py",
        choices=("fp32", "fp16"),
    )
    opset: int = key(20, "ONNX opset", minimum=18)
    max_error: float = key(
        1e-4, "largest accepted difference of fp32 from PyTorch (pixels in [0, 1])", above=0
    )
    max_quality_loss: float = key(
        0.1,
        "largest accepted loss of PSNR-Y beside PyTorch, dB; int8 leaves layers in fp32 to keep it",
        above=0,
    )
    max_lpips_loss: float = key(
        0.01,
        "largest accepted loss of LPIPS (alex) beside PyTorch, where its weights are at hand; int8 "
        "leaves layers in fp32 to keep it",
        above=0,
    )
    delegates: list[str] = key(
        [],
        "delegates of phones that must take every node of their runtime's artifacts: "
        f"{listing(DELEGATES)}; see docs/edge.md",
    )
    calibration_images: int = key(
        128, "LR tiles on which int8 measures its ranges", minimum=1, maximum=MAX_STEPS
    )
    strict: bool = key(
        False, "an artifact that misses its threshold ends the job, instead of being left out"
    )
    latency_runs: int = key(10, "timed runs per artifact", minimum=1)
    latency_budget_ms: float | None = key(
        None,
        "largest accepted latency of an artifact on this machine, median ms for one LR tile; the "
        "job names the best artifact within it",
        above=0,
    )
    candidates: list[str] = key(
        [],
        "models to choose from, in place of model: the one with the best artifact within "
        "export.latency_budget_ms is exported",
        place=Place.MODEL,
    )


@dataclass
class RegisterConfig:
    """The keys `register.*`: the promotion of a registered bundle, and the way back."""

    promote: str = key(
        "gate",
        "gate: becomes champion if it is better by a metric and worse by none; always; never",
        choices=("gate", "always", "never"),
    )
    back: int = key(1, "number of moves that action=rollback takes back", minimum=1)
    reason: str = key("", "why action=promote or rollback moves the champion, for its history")


@dataclass
class GateConfig:
    """The keys `gate.*`: the images and the tolerances by which the gate decides."""

    benchmark: Any = key(
        "embedded",
        "the frozen sets that decide: embedded (crops that come with SRMill), a folder, an s3:// "
        "prefix, or a [list]; []: every set that the champion was measured on",
        place=Place.ANY,
    )
    digest: Any = key(
        None,
        "the digest of that set, or a [list] of one for each, as the dry run of jobs/evaluate.py "
        "prints it; another set is refused",
    )
    floor: bool = key(True, "the first model becomes champion only if it is better than bicubic")
    max_slowdown: float = key(
        0.25, "how much slower an artifact may be than the champion's, a share", minimum=0
    )
    max_growth: float = key(
        0.1, "how much larger an artifact may be than the champion's, a share", minimum=0
    )
    max_extra_loss: float = key(
        2.5,
        "how much more quality an artifact may lose than the champion's, in margins of the metric "
        "(docs/evaluation.md)",
        minimum=0,
    )
    allow_missing: bool = key(
        False, "lets a bundle become champion that lacks an artifact of the champion's"
    )


@dataclass
class MlflowConfig:
    """The keys `mlflow.*`: the tracking server and the names in it."""

    uri: str | None = key(
        None,
        "tracking server (default: $MLFLOW_TRACKING_URI, or else a local SQLite file)",
        place=Place.TRACKING,
    )
    experiment: str | None = key(None, "experiment (default: the recipe's name)")
    model: str | None = key(None, "name of the registered model (default: the recipe's name)")
    retry_seconds: float = key(
        600.0,
        "seconds that a job waits for a server that has answered it before (10 at most for one "
        "that has not, or 120 if it is busy)",
        above=0,
        maximum=MAX_SECONDS,
    )

    @property
    def policy(self) -> RetryPolicy:
        """The limits on waiting for the server."""
        return RetryPolicy(budget_s=self.retry_seconds, first_delay_s=1.0)


@dataclass
class NotifyConfig:
    """The keys `notify.*`: whom jobs/retrain.py and the triggers tell what has happened."""

    webhook: str | None = key(
        None,
        "address to which the news are posted as JSON (default: $SRMILL_NOTIFY_WEBHOOK, which no "
        "list of processes shows)",
        place=Place.WEB,
    )
    mail: str | None = key(None, "address to which the news are mailed", place=Place.MAIL)
    smtp: str | None = key(
        None,
        "the server that sends the mail, smtp://HOST:PORT or smtps://USER:PASSWORD@HOST (default: "
        "$SRMILL_NOTIFY_SMTP)",
        place=Place.SMTP,
    )
    stale_after: str | None = key(
        None,
        "tells when no promotion has come for so long: a number of days or hours, such as 30d or "
        "36h (default: never)",
    )


@dataclass
class Config:
    """The configuration of a job: the keys of the command line, then those of a recipe."""

    recipe: str = key("edge_sd_sr_tiny", "a name in pipelines/recipes or a path to a YAML")
    stage: str | None = key(None, "the stage's name in the recipe (jobs/train.py)")
    source: Any = key(
        None,
        "what to shard: a folder, zip, tar, s3:// prefix, div2k, flickr2k, sample (the default), "
        "or a [list]",
        place=Place.ANY,
    )
    mirror: str | None = key(
        None,
        "URL to download div2k and flickr2k from, instead of their own servers",
        place=Place.WEB,
    )
    data: str = key(
        "work/shards",
        "directory or s3:// prefix with manifest.json, as jobs/shard.py writes it",
        place=Place.ANY,
    )
    seed: int = key(
        0,
        "fixes every random number of a job: the same seed gives the same result",
        minimum=0,
    )
    output: str | None = key(
        None,
        "directory or s3:// prefix for the job's result (default: work/<job>)",
        place=Place.ANY,
    )
    model: str | None = key(
        None,
        "a bundle's directory or s3:// prefix, models:/NAME@ALIAS, run:NAME (a training run's "
        "newest checkpoint), or a shipped model's name",
        place=Place.MODEL,
    )
    bundle: str | None = key(
        None,
        "the bundle to register, a directory or s3:// prefix (default: what jobs/export.py wrote)",
        place=Place.ANY,
    )
    benchmark: Any = key(
        None,
        "sets to measure on, with commas between: folders, validation (the split of data), "
        "embedded (default: validation and gate.benchmark)",
        place=Place.SEVERAL,
    )
    action: str | None = key(
        None,
        "jobs/register.py: register the bundle (the default), promote the version that model "
        "names, rollback to the champion before, history of all moves, verify them; "
        "jobs/retrain.py: retrain (the default), history of all retrainings",
        choices=("register", "promote", "rollback", "history", "verify", "retrain"),
    )
    verify: bool = key(False, "check every byte of a dataset instead of making it (jobs/shard.py)")
    preview: str | None = key(
        None, "image file to draw 16 training pairs into (jobs/shard.py)", place=Place.LOCAL
    )
    run: RunConfig = section(RunConfig)
    shard: ShardConfig = section(ShardConfig)
    stream: StreamConfig = section(StreamConfig)
    degradation: DegradationConfig = section(DegradationConfig)
    train: TrainConfig = section(TrainConfig)
    evaluate: EvaluateConfig = section(EvaluateConfig)
    export: ExportConfig = section(ExportConfig)
    register: RegisterConfig = section(RegisterConfig)
    gate: GateConfig = section(GateConfig)
    shadow: ShadowConfig = section(ShadowConfig)
    retrain: RetrainConfig = section(RetrainConfig)
    mlflow: MlflowConfig = section(MlflowConfig)
    notify: NotifyConfig = section(NotifyConfig, secret=True)
    # The keys below describe the system. Recipes set them, so `--help` does not list them.
    description: str = key("", "one line about the recipe")
    system: str = key("", "package in srmodels, or a module of your own that defines SYSTEM")
    networks: Any = key(None, "the system's networks")
    init: Any = key(
        None, "weights of other people's models that the networks start from, without an init_from"
    )
    stages: Any = key(None, "the recipe's stages by name")
    stage1: list[str] = key([], "stages that jobs/stage1.py runs, in order")
    stage2: list[str] = key([], "stages that jobs/stage2.py runs, in order")

    @property
    def crop_border(self) -> int:
        """The width in HR pixels of the border that the metrics leave out."""
        own = self.evaluate.crop_border
        return int(self.networks.scale if own is None else own)
