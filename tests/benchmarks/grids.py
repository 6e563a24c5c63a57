"""The grids of ablations: each arm, the settings it changes, and the stages it trains."""

from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

_HERE = ROOT / "tests" / "benchmarks"


@dataclass(frozen=True)
class Arm:
    """One row: its changes of the recipe, and its stages. The last stage's result is measured.

    previewed: True where it is measured as training validates it: with the prior that HR images
        give, or with products rounded to int8.
    recipe: a recipe in place of the grid's.
    start: the arm and the stage whose result the first stage starts from, of the same seed. That
        arm stands before this one.
    model: a model that is measured as it is, in place of stages.
    target: the edge artifact whose latency is measured; None where no latency is.
    """

    title: str
    settings: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    previewed: bool = False
    recipe: Path | None = None
    start: tuple[str, str] | None = None
    model: str | None = None
    target: str | None = None

    @property
    def result(self) -> str:
        return self.stages[-1]


@dataclass(frozen=True)
class Grid:
    """The arms of a table; the others are compared with the first.

    steps: what each arm is trained for, its start included.
    metrics: LPIPS with VGG would take longer than the training.
    """

    recipe: Path
    arms: dict[str, Arm]
    steps: int
    metrics: tuple[str, ...] = ("psnr_y", "ssim_y", "lpips_alex")


_EDGE_STAGES = ("autoencoder", "joint", "decoder")
_EDGE = {
    "base": Arm(
        "additive, learned variance, joint, decoder finetuned, not distilled", (), _EDGE_STAGES
    ),
    "forward-none": Arm(
        "`forward=none`, so a constant variance (1) and no likelihood loss",
        ("networks.conditioning={forward: none, variance: constant, constant_variance: 1.0}",),
        _EDGE_STAGES,
    ),
    "forward-resshift": Arm(
        "`forward=resshift`", ("networks.conditioning.forward=resshift",), _EDGE_STAGES
    ),
    "variance-zero": Arm(
        "`variance=zero`, so no likelihood loss",
        ("networks.conditioning.variance=zero",),
        _EDGE_STAGES,
    ),
    "variance-constant": Arm(
        "`variance=constant` (0.25), so no likelihood loss",
        ("networks.conditioning.variance=constant",),
        _EDGE_STAGES,
    ),
    "frozen-encoder": Arm(
        "LR encoder trained alone, then frozen",
        ("stages.decoder.init_from=frozen",),
        ("autoencoder", "encoder", "frozen", "decoder"),
    ),
    "distilled": Arm(
        "distilled from a ×2 teacher (half the budget each)",
        ("stages.decoder.init_from=student",),
        ("autoencoder", "teacher", "student", "decoder"),
    ),
    "no-finetune": Arm("decoder not finetuned (500 steps less)", stages=("autoencoder", "joint")),
}
_RDSR_STAGES = ("prior", "diffusion")
_RDSR = {
    "base": Arm("ECB, diffused prior", (), _RDSR_STAGES),
    "oracle": Arm(
        "oracle: the prior that stage 1 reads from LR and HR (all steps in that stage)",
        ("stages.prior.train.steps=1600",),
        ("prior",),
        previewed=True,
    ),
    "none": Arm(
        "no prior (all steps in one stage)",
        stages=("prior",),
        recipe=_HERE / "ablations_rdsr_none.yaml",
    ),
    "repvgg": Arm("RepVGG", ("networks.decoder.conv=repvgg",), _RDSR_STAGES),
    "plain": Arm("plain convolutions", ("networks.decoder.conv=plain",), _RDSR_STAGES),
}
_STUDENT = ("base", "pixel")
_LIGHT = {
    "base": Arm("the student alone", stages=("pixel", "longer"), target="onnx_fp32"),
    "f2srgan": Arm(
        "F2SRGAN, trained as long",
        ("networks={trunk: fourier, channels: 64, num_blocks: 16}",),
        ("pixel", "longer"),
        target="onnx_fp32",
    ),
    "rdsr": Arm("`rdsr`, the teacher, as it ships", model="rdsr", target="onnx_fp32"),
    "taught": Arm("taught, by images alone", stages=("distill",), start=_STUDENT),
    "at": Arm(
        "taught, with AT", ("stages.distill.options.features=at",), ("distill",), start=_STUDENT
    ),
    "afd": Arm(
        "taught, with AFD", ("stages.distill.options.features=afd",), ("distill",), start=_STUDENT
    ),
    "random": Arm(
        "pruned at random", ("stages.prune.options.importance=random",), ("prune",), start=_STUDENT
    ),
    "l1": Arm("pruned by L1", ("stages.prune.options.importance=l1",), ("prune",), start=_STUDENT),
    "lamp": Arm("pruned by LAMP", stages=("prune",), start=_STUDENT, target="onnx_fp32"),
    "quantised": Arm("in int8", stages=("quantize",), start=_STUDENT, previewed=True),
    "light": Arm(
        "taught with AT, pruned by LAMP, in int8",
        (
            "stages.distill.options.features=at",
            "stages.distill.train.steps=200",
            "stages.prune.init_from=distill",
            "stages.prune.train.steps=200",
            "stages.quantize.init_from=prune",
            "stages.quantize.train.steps=100",
        ),
        ("distill", "prune", "quantize"),
        previewed=True,
        start=_STUDENT,
        target="onnx_int8",
    ),
}
GRIDS = {
    "edge_sd_sr": Grid(_HERE / "ablations.yaml", _EDGE, steps=2600),
    "rdsr": Grid(_HERE / "ablations_rdsr.yaml", _RDSR, steps=1600),
    "light_f2srgan": Grid(
        _HERE / "ablations_light_f2srgan.yaml",
        _LIGHT,
        steps=1500,
        metrics=("psnr_y", "ssim_y", "lpips_alex", "niqe"),
    ),
}
