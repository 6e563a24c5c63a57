"""Judges what an artifact costs beside PyTorch, on the same pairs of tiles."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pipelines.evaluation.pictures import Pixels
from pipelines.evaluation.protocol import MAX_PSNR
from pipelines.evaluation.statistics import compare
from pipelines.export.images import TileImages
from pipelines.models.facts import QualityLoss
from srmodels.edge.target import Cost
from srmodels.metrics.fidelity import NoScoreError
from srmodels.metrics.suite import METRICS, Score
from srmodels.network import SRNetwork
from srmodels.upscale import to_pixels

#: Maps an LR tile `[1, 3, tile, tile]` to an HR tile `[1, 3, scale·tile, scale·tile]`, both in
#: [0, 1].
Run = Callable[[Tensor], Tensor]
#: The metrics of the evidence; LPIPS only where its weights are at hand.
_METRICS = ("psnr_y", "ssim_y", "lpips_alex")


@dataclass(frozen=True)
class QualityJudge:
    """Judges artifacts of one network by the pairs of `images`."""

    network: SRNetwork
    images: TileImages

    def losses(self, run: Run) -> dict[str, QualityLoss]:
        """Returns what an artifact costs, by metric; PSNR-Y comes first."""
        results = self._results(run)
        return {name: self._loss(name, results) for name in self._of_pytorch}

    def cost(self, run: Run, limits: Mapping[str, float]) -> Cost:
        """Returns the losses in the metrics that have limits, where their weights are at hand.

        Args:
            limits: the largest loss of each that is good enough, by name; that of PSNR-Y is one.
        """
        results = self._results(run)
        names = [name for name in limits if name in self._of_pytorch]
        losses = {name: self._loss(name, results).loss for name in names}
        told = (
            f"{loss:+.{METRICS[name].digits + 1}f} {METRICS[name].unit or METRICS[name].title}"
            for name, loss in losses.items()
        )
        return Cost(max(losses[name] / limits[name] for name in names), ", ".join(told))

    @cached_property
    def _scores(self) -> Mapping[str, Score]:
        found = {name: METRICS[name] for name in _METRICS if METRICS[name].is_at_hand()}
        return {name: metric.create(self.network.scale) for name, metric in found.items()}

    @cached_property
    def _of_pytorch(self) -> dict[str, dict[str, float]]:
        """PyTorch's scores, without the metrics that tiles are too small for."""
        results, scores = self._results(self.run_pytorch), {}
        for name in self._scores:
            with contextlib.suppress(NoScoreError):
                scores[name] = self._scored(name, results)
        return scores

    def run_pytorch(self, x_l: Tensor) -> Tensor:
        """Returns what the network makes of an LR tile, as a `Run` does."""
        with torch.inference_mode():
            x_h: Tensor = self.network(x_l)
        return x_h

    def _results(self, run: Run) -> Sequence[Pixels]:
        return [to_pixels(run(pair.x_l)) for pair in self.images.pairs]

    def _scored(self, name: str, results: Sequence[Pixels]) -> dict[str, float]:
        """Returns the score of each pair by its number."""
        score, pairs = self._scores[name], self.images.pairs
        return {
            str(number): min(score(result, pair.hr), MAX_PSNR)
            for number, (result, pair) in enumerate(zip(results, pairs, strict=True))
        }

    def _loss(self, name: str, results: Sequence[Pixels]) -> QualityLoss:
        metric, pairs = METRICS[name], self.images.pairs
        found = compare(
            self._of_pytorch[name],
            self._scored(name, results),
            {str(number): pair.photo for number, pair in enumerate(pairs)},
            higher_is_better=metric.higher_is_better,
            margin=metric.margin,
        )
        sign = 1 if metric.higher_is_better else -1
        low, high = sorted((sign * (found.low or 0), sign * (found.high or 0)))
        known = found.low is not None
        return QualityLoss(
            metric=metric.label(self.network.scale),
            # A loss is smaller than a score, so it has two digits more.
            loss=round(sign * found.difference, metric.digits + 2) + 0.0,  # no -0.0
            low=low if known else None,
            high=high if known else None,
            num_images=len(pairs),
            images=self.images.origin,
        )
