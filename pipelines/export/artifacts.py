"""Edge artifacts: exported, loaded again, run on real images, compared and judged."""

import math
import platform
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pipelines.config.schema import ExportConfig
from pipelines.errors import UserError
from pipelines.export.images import TileImages
from pipelines.export.quality import QualityJudge
from pipelines.models.facts import EdgeArtifact, TensorSpec
from srmodels.edge.fresh import run_fresh
from srmodels.edge.target import (
    DELEGATES,
    Calibration,
    EdgeTarget,
    ExportSettings,
    Runner,
    check_parity,
    make_target,
)
from srmodels.latency import Latency, num_threads, time_by_turns
from srmodels.network import SRNetwork

#: Number of pairs that parity is measured on.
NUM_PARITY_IMAGES = 4
#: The largest difference of two runs of one file; runtimes add in the order that threads give.
_SAME = 1e-4


class _Remembering(Runner):
    """Runs each tile once."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.made: dict[bytes, Tensor] = {}

    def run(self, x_l: Tensor) -> Tensor:
        key = x_l.numpy().tobytes()
        if key not in self.made:
            self.made[key] = self.runner.run(x_l)
        return self.made[key]


class MissedError(UserError):
    """An artifact misses its threshold."""


@dataclass(frozen=True)
class Exporter:
    """Exports one network to any number of targets, and keeps what their evidence shares.

    Attributes:
        images: tiles of the size `settings.tile`.
        directory: directory of the bundle.
    """

    settings: ExportConfig
    network: SRNetwork
    images: TileImages
    directory: Path

    def export(self, name: str) -> EdgeArtifact:
        """Exports the network to the target called `name`, and returns the evidence.

        Raises:
            MissedError: the artifact differs from PyTorch by more than `export.max_error`, or
                costs more than `export.max_quality_loss` or `export.max_lpips_loss`, or one of
                `export.delegates` would not take all of it. No file stays.
        """
        target, tile = make_target(name), self.settings.tile
        folder = self.directory / "edge"
        path = folder / target.file
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"Exporting {name} for LR tiles of {tile}x{tile} px …", flush=True)
        try:
            made = self._written(name, target, path)
            made |= self._delegated(name, target, path)
            artifact = self._evidence(target, path)
            self._check(name, target, artifact)
            peak = self._run_fresh(name, target, path)
        except BaseException:
            for file in target.files:
                (folder / file).unlink(missing_ok=True)
            if path.parent != folder:
                shutil.rmtree(path.parent, ignore_errors=True)
            raise
        size, latency = sum((folder / f).stat().st_size for f in target.files), None
        took = "run in a simulator, and not timed"
        if artifact.latency is not None:
            latency = replace(artifact.latency, peak_bytes=peak)
            took = (
                f"{latency.median_ms} ms per tile on {latency.threads} threads, "
                f"{artifact.latency_ratio:.2f} of PyTorch's"
            )
        print(
            f"  max error {artifact.parity.max_error:.1e} ({artifact.parity.sqnr_db} dB), "
            f"{artifact.quality.loss:+.3f} dB lost on {artifact.quality.num_images} "
            f"{artifact.quality.images}; {size / 2**20:.1f} MiB, {took}",
            flush=True,
        )
        return replace(artifact, made=made, latency=latency)

    def _written(self, name: str, target: EdgeTarget, path: Path) -> dict[str, str]:
        try:
            return dict(target.export(self.network, path, self._settings(target)))
        except ValueError as error:
            raise MissedError(f"{name} cannot be made of this model: {error}.") from error

    def _delegated(self, name: str, target: EdgeTarget, path: Path) -> dict[str, str]:
        """Returns what each delegate would take, in words."""
        found = target.delegations(path)
        for delegate in self.settings.delegates:
            if delegate in found and found[delegate].left:
                raise MissedError(
                    f"{DELEGATES[delegate]} would not take all of {name} ({found[delegate]}), and "
                    f"export.delegates names it: choose networks of other operators, or leave "
                    f"{delegate} out."
                )
        return {DELEGATES[delegate]: str(each) for delegate, each in found.items()}

    def _settings(self, target: EdgeTarget) -> ExportSettings:
        settings = ExportSettings(self.settings.tile, self.settings.opset)
        if not target.quantises:
            return settings
        limits = {
            "psnr_y": self.settings.max_quality_loss,
            "lpips_alex": self.settings.max_lpips_loss,
        }
        calibration = Calibration(
            self.images.calibration,
            cost=lambda runner: self._judge.cost(runner.run, limits),
            on_trial=lambda text: print(f"  {text}", flush=True),
        )
        return replace(settings, calibration=calibration)

    def _evidence(self, target: EdgeTarget, path: Path) -> EdgeArtifact:
        tile, scale, judge = self.settings.tile, self.network.scale, self._judge
        runner, latency, ratio = target.load(path, num_threads()), None, None
        if target.simulated:
            runner = _Remembering(runner)
        if target.most_pairs is not None:
            few = self.images.pairs[: target.most_pairs]
            judge = QualityJudge(self.network, replace(self.images, pairs=few))
        pairs = judge.images.pairs
        parity = check_parity(self.network, runner, [p.x_l for p in pairs[:NUM_PARITY_IMAGES]])
        if not target.simulated:
            latency, ratio = self._latency(runner, pairs[0].x_l)
        quality, *others = judge.losses(runner.run).values()
        if target.most_pairs is not None:
            # The interval of two pairs holds nearly everything, and would excuse any loss.
            quality, *others = (replace(q, low=None, high=None) for q in (quality, *others))
        return EdgeArtifact(
            file=path.relative_to(self.directory).as_posix(),
            others=[f"edge/{file}" for file in target.files[1:]],
            input=_spec(0, target, tile, self.network.size_multiple),
            output=_spec(1, target, tile * scale, self.network.size_multiple * scale),
            parity=parity,
            quality=quality,
            other_losses=others,
            latency=latency,
            latency_ratio=ratio,
            machine=f"{platform.machine()}, {platform.system()}",
            made={},
        )

    def _check(self, name: str, target: EdgeTarget, artifact: EdgeArtifact) -> None:
        settings, parity, quality = self.settings, artifact.parity, artifact.quality
        limit = settings.max_error if target.exact else math.inf
        if not parity.max_error <= limit:  # NaN is no small error
            raise MissedError(
                f"{name} differs from PyTorch by {parity.max_error:.2e}, more than "
                f"export.max_error={limit:.2e}: try another export.opset, or "
                "raise export.max_error if that is good enough for you."
            )
        if not quality.loss <= settings.max_quality_loss:
            raise MissedError(
                f"{name} loses {quality.loss:.3f} dB of {quality.metric} beside PyTorch, more than "
                f"export.max_quality_loss={settings.max_quality_loss:g}: take a higher precision, "
                "or raise export.max_quality_loss if that is good enough for you."
            )
        for other in artifact.other_losses:
            if other.metric == "lpips_alex" and not other.loss <= settings.max_lpips_loss:
                raise MissedError(
                    f"{name} costs {other.loss:.4f} of LPIPS (alex) beside PyTorch, more than "
                    f"export.max_lpips_loss={settings.max_lpips_loss:g}: take a higher precision, "
                    "or raise export.max_lpips_loss if that is good enough for you."
                )

    def _run_fresh(self, name: str, target: EdgeTarget, path: Path) -> int | None:
        """Checks that a new process makes the same of the file; returns the memory it took."""
        x_l = self.images.pairs[0].x_l
        try:
            fresh = run_fresh(name, path, x_l, num_threads())
        except ValueError as error:
            raise MissedError(f"{name} does not run in a process of its own: {error}.") from error
        here = target.load(path, num_threads()).run(x_l)
        if fresh.x_h.shape != here.shape or not torch.allclose(fresh.x_h, here, rtol=0, atol=_SAME):
            raise MissedError(
                f"{name} gives another image in a process of its own than at its export: try "
                "another target, and report it with the model."
            )
        return fresh.peak_bytes

    @cached_property
    def _judge(self) -> QualityJudge:
        return QualityJudge(self.network, self.images)

    def _latency(self, runner: Runner, x_l: Tensor) -> tuple[Latency, float]:
        """Times one tile on all threads, and PyTorch beside it, after three runs to warm up."""
        threads = torch.get_num_threads()
        torch.set_num_threads(num_threads())
        try:
            times = time_by_turns(
                {
                    "artifact": lambda: runner.run(x_l),
                    "PyTorch": lambda: self._judge.run_pytorch(x_l),
                },
                self.settings.latency_runs,
                warm_up=3,
            )
        finally:
            torch.set_num_threads(threads)
        ours, theirs = (Latency.of(x_l.shape[-1], found, num_threads()) for found in times.values())
        return ours, round(ours.median_ms / theirs.median_ms, 3)


def _spec(number: int, target: EdgeTarget, side: int, multiple: int) -> TensorSpec:
    name, batch = target.names[number], (1,) * target.batched
    if target.dynamic:
        return TensorSpec(name, (*batch, 3, None, None), multiple=multiple)
    return TensorSpec(name, (*batch, 3, side, side))
