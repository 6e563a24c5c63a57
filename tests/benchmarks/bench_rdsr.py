"""RDSR on one CPU thread, fused, beside DiffIR's cost: whole and by part, in PyTorch as `srmill
upscale` runs it, compiled with frozen weights, and in ONNX Runtime, as a share of the machine's
measured matrix-multiply peak.

Weights are random: they take as long. DiffIR ×4 is not run here: 25.0 M parameters, 181 GMACs at an
LR image of 128 px, where it takes 9.2 s on one thread of such a machine, and 0.70 s at 48 px.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from torch import Tensor, nn

from pipelines.config.load import load_config
from pipelines.models.cost import network_cost
from srmodels.rdsr.network import RDSR
from tests.benchmarks.bench_cost import milliseconds, onnx_call, peak_gmacs, share
from tests.conftest import ROOT

#: Seconds by side of the LR image, measured for this project with DiffIR's released code.
DIFFIR_SECONDS = {48: 0.70, 128: 9.2}
DIFFIR_GMACS = 181.0
TOOLS = ("PyTorch", "compiled", "ONNX Runtime")


class Prior(nn.Module):
    """LR image → prior."""

    def __init__(self, network: RDSR) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_l: Tensor) -> Tensor:
        prior = self.network.prior(x_l)
        assert prior is not None
        return prior


@pytest.mark.parametrize("recipe", ["rdsr_small", "rdsr", "rdsr_large"])
def test_speed_on_one_thread(recipe: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            _speed(recipe, tmp_path)
    finally:
        torch.set_num_threads(threads)


def _speed(recipe: str, folder: Path) -> None:
    config = load_config([f"recipe={ROOT}/pipelines/recipes/{recipe}.yaml"])
    torch.manual_seed(0)
    network = RDSR(config.networks).fuse()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    cost = network_cost(config.system, config.networks, config.export.tile)
    prior = Prior(network)
    peak = peak_gmacs("cpu", folder)
    print(
        f"\n\n{recipe}: {cost.total_parameters / 1e6:.2f} M parameters, {cost.total_gmacs:.2f} "
        f"GMACs at 128 px (DiffIR {DIFFIR_GMACS / cost.total_gmacs:.0f} times), one thread, "
        f"peak {peak:.0f} GMAC/s\n"
    )
    print(f"| LR px | |{''.join(f' {tool} | of the peak |' for tool in TOOLS)}")
    print(f"|---|---|{'---|---|' * len(TOOLS)}")
    for side, theirs in DIFFIR_SECONDS.items():
        config.export.tile = side
        gmacs = network_cost(config.system, config.networks, config.export.tile).gmacs
        x_l = torch.rand(1, 3, side, side)
        inputs: dict[str, tuple[nn.Module, tuple[Tensor, ...], float]] = {
            "prior": (prior, (x_l,), gmacs["lr_encoder"] + gmacs["denoiser"]),
            "decoder": (network.decoder, (x_l, prior(x_l)), gmacs["decoder"]),
            "all": (network, (x_l,), sum(gmacs.values())),
        }
        calls: dict[str, Callable[[], Any]] = {}
        for name, (module, given, _) in inputs.items():
            calls[f"{name} PyTorch"] = lambda module=module, given=given: module(*given)
            file = folder / f"{name}-{side}.onnx"
            calls[f"{name} ONNX Runtime"] = onnx_call(module, given, file)
        compiled = torch.compile(network)
        with torch._inductor.config.patch(freezing=True):
            compiled(x_l)
        calls["all compiled"] = lambda run=compiled, x_l=x_l: run(x_l)
        found = milliseconds(calls, 30)
        for name, (_, _, macs) in inputs.items():
            times = [found.get(f"{name} {tool}") for tool in TOOLS]
            cells = [f"{t:.1f} ms | {share(macs, t, peak)}" if t else "– | –" for t in times]
            print(f"| {side} | {name} | {' | '.join(cells)} |")
        ratios = [theirs / (found[f"all {tool}"] / 1000) for tool in TOOLS]
        print(f"| {side} | DiffIR / all |{''.join(f' {ratio:.1f} | |' for ratio in ratios)}")
