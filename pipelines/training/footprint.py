"""What a worker keeps from step to step, and a checkpoint on disk, by DeepSpeed's ZeRO stage.

Weights are fp32 in either precision (autocast leaves them so); the optimizer keeps one or two
moments of each. As DeepSpeed 0.19 does it (runtime/zero/stage_1_and_2.py and stage3.py).
"""

from dataclasses import dataclass

from srmodels.optimizers import OPTIMIZERS
from srmodels.stage import Stage

#: Bytes of one fp32 number.
FP32 = 4
#: DeepSpeed's default `reduce_bucket_size`.
LARGEST_BUCKET = 500_000_000


def bucket_size(trained: int) -> int:
    """Numbers in a buffer through which ZeRO 1 to 3 reduce gradients. It is allocated whole, so it
    is no larger than there are numbers to reduce."""
    return min(trained, LARGEST_BUCKET)


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one rank, but for activations."""

    weights: int
    gradients: int
    optimizer: int
    ema: int
    bucket: int

    @property
    def parts(self) -> dict[str, int]:
        """By name, for people."""
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "EMA": self.ema,
            "bucket": self.bucket,
        }


def parameter_counts(stage: Stage) -> tuple[int, int]:
    """(all, trained) parameters of a stage, those of its losses included."""
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
    """Returns the memory of one of `ranks` for `total` parameters, `trained` of which learn.

    ZeRO 1 shares the optimizer's moments out, along with an fp32 copy of the rank's part of the
    weights that it steps (also where the weights are fp32 themselves); 2 shares gradients too; 3
    shares all weights, frozen ones too, and steps them in place. Under autocast to bf16 there is a
    second bucket: gradients of convolutions and linear layers travel apart from the others.

    The average covers what is trained; ZeRO 3's is that of the rank's part, others are whole.
    Left out: padding, weights under 1e5 elements, which ZeRO 3 leaves whole, and what ZeRO 3
    gathers for the modules at work.
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
    """What one of `ranks` writes of a checkpoint; where there is one, that is all of it.

    Rank 0 writes the weights and their average for readers. Of what is trained, the engine writes
    weights and moments, which ZeRO shares out; ZeRO 1 and 2 the weights once more, on rank 0.
    """
    part, kept = -(-trained // ranks), 1 + OPTIMIZERS[optimizer].num_moments
    shared, on_rank_0 = {0: (0, kept), 1: (kept, 1), 2: (kept, 1), 3: (kept, 0)}[zero_stage]
    own = shared * part
    if rank == 0:
        own += total + trained + on_rank_0 * trained
    return FP32 * own
