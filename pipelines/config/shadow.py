"""Declares the keys of jobs/shadow.py."""

from dataclasses import dataclass

from pipelines.config.keys import MAX_SIDE, MAX_STEPS, key


@dataclass
class ShadowConfig:
    """The keys `shadow.*`: a model's shadow report on fresh photos."""

    num_photos: int = key(
        32, "fresh photos that a tick measures at most", minimum=1, maximum=MAX_STEPS
    )
    crop: int = key(
        256,
        "side of the part of each photo that is upscaled, LR px; the photo's name and seed say "
        "where it lies",
        minimum=64,
        maximum=MAX_SIDE,
    )
    min_ticks: int = key(
        5, "earlier ticks that it takes to tell drift", minimum=2, maximum=MAX_STEPS
    )
