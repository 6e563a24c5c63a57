"""The grids of ablations: each arm, the settings it changes, and the stages it trains."""

from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

_HERE = ROOT / "tests" / "benchmarks"


@dataclass(frozen=True)
class Arm:
    """One row: its changes of the recipe, and its stages. The last stage's result is measured.

    oracle: True where it is measured with the prior that HR images give.
    recipe: a recipe in place of the grid's.
    """

    title: str
    settings: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    oracle: bool = False
    recipe: Path | None = None

    @property
    def result(self) -> str:
        return self.stages[-1]


@dataclass(frozen=True)
class Grid:
    """The arms of a table; the others are compared with the first."""

    recipe: Path
    arms: dict[str, Arm]


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
        oracle=True,
    ),
    "none": Arm(
        "no prior (all steps in one stage)",
        stages=("prior",),
        recipe=_HERE / "ablations_rdsr_none.yaml",
    ),
    "repvgg": Arm("RepVGG", ("networks.decoder.conv=repvgg",), _RDSR_STAGES),
    "plain": Arm("plain convolutions", ("networks.decoder.conv=plain",), _RDSR_STAGES),
}
GRIDS = {
    "edge_sd_sr": Grid(_HERE / "ablations.yaml", _EDGE),
    "rdsr": Grid(_HERE / "ablations_rdsr.yaml", _RDSR),
}
