"""Counts the bytes of a worker between two steps, and of a checkpoint, by DeepSpeed's ZeRO stage.

The weights are fp32 in either precision, since autocast leaves them so. The optimizer keeps one or
two moments of each weight. The numbers follow DeepSpeed 0.19 (runtime/zero/stage_1_and_2.py and
stage3.py).
"""

from dataclasses import dataclass

from srmodels.optimizers import OPTIMIZERS
from srmodels.stage import Stage

#: Bytes of one fp32 number.
FP32 = 4
#: DeepSpeed's default `reduce_bucket_size`.
LARGEST_BUCKET = 500_000_000


def bucket_size(trained: int) -> int:
    """Returns the length of the buffer through which ZeRO 1 to 3 reduce `trained` gradients.

    DeepSpeed allocates all of it, so it is never longer than `trained`.
    """
    return min(trained, LARGEST_BUCKET)


@dataclass(frozen=True)
class RankMemory:
    """The bytes that one rank keeps, without activations."""

    weights: int
    gradients: int
    optimizer: int
    ema: int
    bucket: int

    @property
    def amounts(self) -> dict[str, int]:
        """The bytes by the name that people read."""
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "EMA": self.ema,
            "bucket": self.bucket,
        }


def parameter_counts(stage: Stage) -> tuple[int, int]:
    """Returns how many parameters a stage has, and how many of them it trains.

    The parameters of its losses count among the first.
    """
    return (
        sum(p.numel() for p in stage.parameters()),
        sum(p.numel() for p in stage.trained_parameters()),
    )


def rank_memory(
    total: int,
    trained: int,
    *,
    zero_stage: int,
    ranks: int,
    precision: str = "fp32",
    optimizer: str = "adamw",
) -> RankMemory:
    """Returns the memory of one of `ranks` for `total` parameters, of which `trained` learn.

    ZeRO 1 divides the optimizer's moments among the ranks, and each rank keeps an fp32 copy
    of its part of the weights as well, even where the weights are fp32 themselves. ZeRO 2 divides
    the gradients too. ZeRO 3 divides all weights, frozen ones too, and steps them in place. Under
    autocast to bf16 there is a second bucket: gradients of convolutions and linear layers travel
    apart from the others.

    The average covers the trained weights. Under ZeRO 3 a rank keeps its part of it, else all.

    Three things do not count: padding; weights under 1e5 elements, which ZeRO 3 leaves whole; and
    the weights that ZeRO 3 gathers for the modules at work.
    """
    part, moments = -(-trained // ranks), OPTIMIZERS[optimizer].num_moments
    second_bucket = {"fp32": 0, "bf16": FP32 if zero_stage < 3 else FP32 // 2}[precision]
    return RankMemory(
        weights=FP32 * (total if zero_stage < 3 else -(-total // ranks)),
        gradients=FP32 * (trained if zero_stage < 2 else part),
        optimizer=FP32
        * (trained if zero_stage == 0 else part)
        * (moments + (zero_stage in (1, 2))),
        ema=FP32 * (trained if zero_stage < 3 else part),
        bucket=(FP32 + second_bucket) * bucket_size(trained) if zero_stage > 0 else 0,
    )


def checkpoint_bytes(
    total: int,
    trained: int,
    *,
    zero_stage: int,
    ranks: int = 1,
    rank: int = 0,
    optimizer: str = "adamw",
) -> int:
    """Returns the bytes that rank `rank` of `ranks` writes of a checkpoint.

    Rank 0 writes the weights and their average for readers. For the trained weights, the engine
    writes the weights and their moments, which ZeRO divides among the ranks. Under ZeRO 1 and 2,
    rank 0 writes the trained weights once more.
    """
    part, kept = -(-trained // ranks), 1 + OPTIMIZERS[optimizer].num_moments
    shared, on_rank_0 = {0: (0, kept), 1: (kept, 1), 2: (kept, 1), 3: (kept, 0)}[zero_stage]
    own = shared * part
    if rank == 0:
        own += total + trained + on_rank_0 * trained
    return FP32 * own
