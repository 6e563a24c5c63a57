"""Every key that a job or a recipe can set, with its default and its meaning."""

import math
from dataclasses import dataclass, field
from typing import Any

from pipelines.storage.retries import RetryPolicy
from srmodels.degradation import PRESETS
from srmodels.edge.target import TARGETS
from srmodels.metrics.suite import METRICS, SET_METRICS
from srmodels.optimizers import MOMENTUM, OPTIMIZERS


def key(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    choices: tuple[Any, ...] | None = None,
) -> Any:
    """A configuration key: its default, the line that `--help` prints, and which values make
    sense (`above` excludes the bound itself)."""
    metadata = {"help": help, "minimum": minimum, "above": above, "choices": choices}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(cls: type) -> Any:
    return field(default_factory=cls)


@dataclass
class RunConfig:
    name: str | None = key(None, "fixed name of the run; the same name resumes (default: recipe)")
    storage: str = key(
        "work/runs", "directory or s3:// prefix that holds the checkpoints of all runs"
    )
    scratch: str = key(
        "work/scratch", "node-local folder for checkpoints on their way to and from s3://"
    )


@dataclass
class ShardConfig:
    tile: int = key(256, "side of a training tile in HR pixels", minimum=1)
    val_tile: int = key(512, "side of a validation tile in HR pixels", minimum=1)
    overlap: int = key(0, "pixels that neighbouring training tiles share at least", minimum=0)
    min_contrast: float = key(
        2.0, "training tiles of less contrast are dropped (luma's std, 8-bit levels)", minimum=0
    )
    val_fraction: float = key(
        0.15, "share of photos held out, at least one photo (div2k brings its own)"
    )
    shard_mib: float = key(32.0, "size that shards are planned for, MiB", above=0)
    effort: int = key(1, "lossless WebP effort, 0 fast to 6 small", choices=tuple(range(7)))
    max_megapixels: float = key(150.0, "larger photos count as failures", above=0)
    max_file_mib: int = key(256, "larger photo files count as failures, MiB", minimum=1)
    max_failures: float = key(
        0.05, "share of photo files that may be broken before the job stops", minimum=0
    )


@dataclass
class StreamConfig:
    window: int = key(4, "shards that are shuffled together, per lane", minimum=1)
    lanes: int = key(4, "parts of an epoch that are read side by side", minimum=1)
    cache: str = key("work/cache", "node-local folder that keeps shards of s3:// data")
    cache_mib: int = key(20480, "largest size of that folder, MiB", minimum=1)
    retry_seconds: float = key(
        600.0, "how long object storage may fail before a job gives up", above=0
    )
    timeout_seconds: float = key(60.0, "how long one request to it may be silent", above=0)

    @property
    def policy(self) -> RetryPolicy:
        """How patient a job is with object storage."""
        return RetryPolicy(budget_s=self.retry_seconds, timeout_s=self.timeout_seconds)


@dataclass
class DegradationConfig:
    preset: str = key(
        "bicubic", f"how LR is made from HR: {', '.join(PRESETS)}", choices=tuple(PRESETS)
    )
    options: Any = key(None, "the preset's parameters (--dry-run prints them)")


SCHEDULES = ("cosine", "constant", "step")
SCHEDULE_HELP = "learning rate after warm-up: cosine (to zero), constant, or step"


@dataclass
class GroupConfig:
    learning_rate: float | None = key(None, "peak learning rate", above=0)
    weight_decay: float | None = key(None, "weight decay", minimum=0)
    warmup_steps: int | None = key(None, "steps of linear warm-up", minimum=0)
    schedule: str | None = key(None, SCHEDULE_HELP, choices=SCHEDULES)
    start_step: int = key(0, "step from which on it learns; before, its rate is zero", minimum=0)


@dataclass
class TrainConfig:
    steps: int = key(1000, "optimizer steps of the stage", minimum=1)
    batch_size: int = key(8, "samples per step over all workers", minimum=1)
    micro_batch_size: int | None = key(
        None,
        "samples of a worker per forward and backward; a larger share is accumulated "
        "(default: all)",
        minimum=1,
    )
    workers: Any = key(
        1,
        "Ray Train workers, or [min, max] of them; 0 trains in the job's own process, without a "
        "cluster",
    )
    threads_per_worker: int = key(1, "CPU cores of a worker", minimum=1)
    loader_processes: int = key(
        0, "processes of a worker that prepare samples ahead; 0: a thread of its own", minimum=0
    )
    accept_changed_data: bool = key(
        False, "lets a run go on with another dataset than it was started with"
    )
    accelerator: str = key(
        "auto",
        "cpu, cuda, or auto: cuda where the cluster has a GPU per worker",
        choices=("auto", "cpu", "cuda"),
    )
    zero_stage: int = key(
        0,
        "DeepSpeed ZeRO stage: workers share 0 nothing, 1 optimizer states, 2 gradients too, "
        "3 weights too",
        choices=(0, 1, 2, 3),
    )
    activation_checkpointing: bool = key(
        False, "recompute activations in backward instead of keeping them"
    )
    precision: str = key(
        "fp32", "fp32, or bf16: autocast with fp32 weights", choices=("fp32", "bf16")
    )
    crop: int = key(128, "side of an HR training crop in pixels", minimum=1)
    optimizer: str = key(
        "adamw",
        f"{', '.join(OPTIMIZERS)} (sgd has a momentum of {MOMENTUM})",
        choices=tuple(OPTIMIZERS),
    )
    learning_rate: float = key(1e-3, "peak learning rate", above=0)
    weight_decay: float = key(
        0.0,
        "weight decay: decoupled (adamw, lion), or added to the gradient (adam, sgd)",
        minimum=0,
    )
    warmup_steps: int = key(20, "steps of linear warm-up", minimum=0)
    schedule: str = key("cosine", SCHEDULE_HELP, choices=SCHEDULES)
    decay_steps: list[int] = key([], "schedule=step: the steps at which the learning rate drops")
    decay_factor: float = key(0.5, "schedule=step: what it is multiplied by there", above=0)
    groups: dict[str, GroupConfig] = key(
        {},
        "by name of a parameter group: learning_rate, weight_decay, warmup_steps, schedule, "
        "start_step",
    )
    gradient_clip: float = key(1.0, "largest gradient norm", above=0)
    ema_half_life: float = key(20.0, "half-life of the averaged weights, in steps", above=0)
    checkpoint_every: int = key(100, "steps between checkpoints", minimum=1)
    keep_checkpoints: int = key(2, "newest checkpoints that are kept", minimum=1)
    keep_best: int = key(0, "checkpoints of the best validation PSNR that are kept", minimum=0)
    keep_every: int = key(
        0, "a checkpoint at every multiple of so many steps is kept for ever; 0: none", minimum=0
    )
    log_every: int = key(10, "steps between metrics in MLflow", minimum=1)
    validate_every: int = key(
        0,
        "steps between validations during training, with the averaged weights; 0: none",
        minimum=0,
    )
    validate_images: int = key(8, "images of the validation split it takes", minimum=1)
    validate_crop: int = key(256, "side of their centre crops at most, HR pixels", minimum=1)
    profile: Any = key(
        None, "[first_step, num_steps]: traces num_steps steps after first_step (torch.profiler)"
    )
    channels_last: bool = key(False, "lets images lie in memory as convolutions on a GPU want them")
    compile: bool = key(False, "compiles the networks with torch.compile")
    max_skipped_steps: int = key(
        10, "steps with a gradient that is not finite are skipped, so many at most", minimum=0
    )
    max_failures: int = key(
        5, "failures in a row, without a new checkpoint, before the run gives up", minimum=0
    )

    @property
    def min_workers(self) -> int:
        """The fewest workers that the run goes on with."""
        return int(self.workers[0] if isinstance(self.workers, list) else self.workers)

    @property
    def max_workers(self) -> int:
        """The most workers that the run makes use of."""
        return int(self.workers[-1] if isinstance(self.workers, list) else self.workers)

    @property
    def world_size(self) -> int:
        """Number of processes that share a step, with all workers there."""
        return max(self.max_workers, 1)

    def micro_batches(self, ranks: int) -> tuple[int, int]:
        """How many go through each of `ranks` in a step, and how many samples each has at most."""
        share = math.ceil(self.batch_size / ranks)
        samples = min(self.micro_batch_size or share, share)
        return math.ceil(share / samples), samples


@dataclass
class StageConfig:
    kind: str | None = key(None, "the system's stage to run (default: the stage's own name)")
    init_from: str | None = key(
        None,
        "what it starts from: a stage of the same run name, or a model (run:NAME, a shipped "
        "one's name, models:/NAME@ALIAS, a bundle directory); none: init.*, else at random",
    )
    teacher: str | None = key(
        None,
        "what a stage that learns from a frozen teacher learns from: a stage of the same run name, "
        "a model as in init_from, spandrel:FILE, or a peer (span, realsr, realesrgan)",
    )
    networks: Any = key(None, "overrides of networks.* for this stage")
    options: Any = key(None, "the stage's own settings")
    train: Any = key(None, "overrides of train.* for this stage")


@dataclass
class EvaluateConfig:
    compare: list[str] = key(
        [],
        "what to measure beside it and bicubic: models, as in model; lanczos; onnx:FILE; "
        "spandrel:FILE; span, realsr, realesrgan",
    )
    metrics: Any = key(
        "auto",
        f"a [list] of {', '.join([*METRICS, *SET_METRICS])}; auto: psnr_y, ssim_y, and of "
        "lpips_alex and niqe those whose weights are at hand",
    )
    preset: str = key(
        "plain",
        "how a folder of HR images becomes a benchmark: plain: whole images and the recipe's "
        "degradation; stablesr: 30 crops of 512 px of each, degraded by realsr_diffusion",
        choices=("plain", "stablesr"),
    )
    num_pictures: int = key(4, "comparison pictures in the report", minimum=0)
    latency_sizes: list[int] = key(
        [128], "sides of the square LR images that every method is timed on, pixels; [] for none"
    )
    latency_runs: int = key(10, "timed runs of each", minimum=1)
    crop_border: int | None = key(
        None, "border left out of the metrics, px (default: the scale)", minimum=0
    )


@dataclass
class ExportConfig:
    tile: int = key(128, "side of the LR input of the edge artifacts in pixels", minimum=1)
    evidence: str = key("work/evaluate", "where jobs/evaluate.py wrote its results")
    artifacts: list[str] = key(
        ["onnx_fp32"], f"edge artifacts of the bundle: {', '.join(TARGETS)}, or []"
    )
    weights: str = key(
        "fp32",
        "fp32, or fp16: weights rounded to half the size; jobs/evaluate.py needs the same",
        choices=("fp32", "fp16"),
    )
    opset: int = key(20, "ONNX opset", minimum=18)
    max_error: float = key(
        1e-4, "largest accepted difference from PyTorch (pixels in [0, 1])", above=0
    )
    latency_runs: int = key(10, "timed runs per artifact", minimum=1)


@dataclass
class RegisterConfig:
    promote: str = key(
        "gate",
        "gate: champion if better by one metric and worse by none; always; never",
        choices=("gate", "always", "never"),
    )


@dataclass
class MlflowConfig:
    uri: str | None = key(
        None, "tracking server (default: $MLFLOW_TRACKING_URI, else local sqlite)"
    )
    experiment: str | None = key(None, "experiment (default: recipe)")
    model: str | None = key(None, "registered model's name (default: recipe)")


@dataclass
class Config:
    recipe: str = key("edge_sd_sr_tiny", "a name in pipelines/recipes or a path to a YAML")
    stage: str | None = key(None, "the stage's name in the recipe (jobs/train.py)")
    source: Any = key(
        None,
        "what to shard: a folder, zip, tar, s3:// prefix, div2k, flickr2k, sample (the default), "
        "or a [list]",
    )
    mirror: str | None = key(None, "URL to download div2k and flickr2k from instead of their own")
    data: str = key(
        "work/shards", "directory or s3:// prefix with manifest.json, as jobs/shard.py writes it"
    )
    seed: int = key(0, "of everything", minimum=0)
    output: str | None = key(None, "directory for the job's result (default: work/<job>)")
    model: str | None = key(
        None,
        "a bundle directory, models:/NAME@ALIAS, run:NAME (a training run's newest checkpoint), "
        "or a shipped model's name",
    )
    bundle: str | None = key(None, "bundle to register (default: what jobs/export.py wrote)")
    benchmark: Any = key(
        None,
        "folders of benchmark sets to measure on, with commas between; validation, the default, "
        "is the validation split of data",
    )
    verify: bool = key(False, "check every byte of a dataset instead of making it (jobs/shard.py)")
    preview: str | None = key(None, "picture to write of 16 training pairs (jobs/shard.py)")
    run: RunConfig = section(RunConfig)
    shard: ShardConfig = section(ShardConfig)
    stream: StreamConfig = section(StreamConfig)
    degradation: DegradationConfig = section(DegradationConfig)
    train: TrainConfig = section(TrainConfig)
    evaluate: EvaluateConfig = section(EvaluateConfig)
    export: ExportConfig = section(ExportConfig)
    register: RegisterConfig = section(RegisterConfig)
    mlflow: MlflowConfig = section(MlflowConfig)
    # What follows describes the system; a recipe sets it, and `--help` leaves it to the recipe.
    description: str = key("", "one line about the recipe")
    system: str = key("", "package in srmodels, or a module of your own that defines SYSTEM")
    networks: Any = key(None, "the system's networks")
    init: Any = key(None, "first weights of networks that start from no stage, by others")
    stages: Any = key(None, "the recipe's stages by name")
    stage1: list[str] = key([], "stages that jobs/stage1.py runs, in order")
    stage2: list[str] = key([], "stages that jobs/stage2.py runs, in order")

    @property
    def crop_border(self) -> int:
        """Pixels left out of the metrics at each border."""
        own = self.evaluate.crop_border
        return int(self.networks.scale if own is None else own)
