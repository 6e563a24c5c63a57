"""Measures the cost of each part of Edge-SD-SR, as a share of the machine's peak.

The peak is that of matrix multiplications, and is measured too. The costs are those of one tile,
128 → 512 px, and of 25 tiles and their blending, 512 → 2048 px. They are measured in PyTorch and in
ONNX Runtime, and on a GPU, if there is one, in PyTorch. The weights are random: they take as long.
"""

import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from pipelines.config.load import load_config
from pipelines.models.cost import network_cost
from srmodels.network import SRNetwork
from srmodels.system import load_system
from srmodels.tiling import Tiling, run_tiled
from tests.conftest import ROOT

TILE, OVERLAP, LARGE = 128, 32, 512
Call = Callable[[], Any]


def milliseconds(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Median wall time of each, taken in turns, so that a slow moment of the machine meets all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(1000 * (perf_counter() - start))
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def peak_gmacs(device: str, folder: Path) -> float:
    """The fastest of twenty products of two fp32 matrices, in 10⁹ multiply-adds per second: of two
    sizes, by PyTorch and, on the CPU, by ONNX Runtime, whose products can be twice as fast."""
    found = []
    for side in (1024, 2048) if device == "cpu" else (4096, 8192):
        a = torch.rand(side, side, device=device)
        calls: dict[str, Call] = {"PyTorch": lambda a=a: a @ a}
        if device == "cpu":
            calls["ONNX"] = onnx_call(_Product(), (a, a.clone()), folder / "product.onnx")
        times = [milliseconds(calls, 1) for _ in range(20)]
        found += [side**3 / min(t[name] for t in times) / 1e6 for name in calls]
    return max(found)


class _Product(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


def inputs_of_parts(network: SRNetwork, x_l: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """Returns the inputs of each part when the network upscales x_l."""
    seen: dict[str, tuple[Tensor, ...]] = {}

    def remember(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: seen.update({name: tuple(t.clone() for t in inputs)})

    parts = network.inference_modules().items()
    hooks = [part.register_forward_pre_hook(remember(name)) for name, part in parts]
    network(x_l)
    for hook in hooks:
        hook.remove()
    return seen


def onnx_call(module: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> Call:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, inputs, str(path), dynamo=True, external_data=False, verbose=False
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Its threads would spin after a run and take the cores from whatever is measured next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # An input that the graph does not depend on is no input of it.
    feeds = {
        wanted.name: tensor.numpy()
        for wanted, tensor in zip(session.get_inputs(), inputs, strict=False)
    }
    return lambda: session.run(None, feeds)


@pytest.mark.parametrize("recipe", ["edge_sd_sr_tiny", "edge_sd_sr_lite", "edge_sd_sr"])
def test_cost_by_part(recipe: str, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    config = load_config([f"recipe={ROOT}/pipelines/recipes/{recipe}.yaml"])
    network = load_system(config.system).build(config.networks).eval()
    gmacs = network_cost(config.system, config.networks, config.export.tile).gmacs
    rounds = 15 if recipe == "edge_sd_sr_tiny" else 3
    with torch.inference_mode():
        _on_cpu(recipe, network, gmacs, rounds, tmp_path)
        if torch.cuda.is_available():
            _on_cuda(recipe, network.cuda(), gmacs, rounds, tmp_path)


def _on_cpu(
    recipe: str, network: SRNetwork, gmacs: dict[str, float], rounds: int, folder: Path
) -> None:
    x_l, large = torch.rand(1, 3, TILE, TILE), torch.rand(1, 3, LARGE, LARGE)
    blank = torch.zeros(1, 3, TILE * network.scale, TILE * network.scale)
    parts, inputs = network.inference_modules(), inputs_of_parts(network, x_l)
    calls: dict[str, Call] = {}
    for name, part in parts.items():
        calls[f"{name} PyTorch"] = lambda part=part, name=name: part(*inputs[name])
        calls[f"{name} ONNX"] = onnx_call(part, inputs[name], folder / f"{name}.onnx")
    tiled = network.for_tile(TILE)
    calls["all PyTorch"] = lambda: tiled(x_l)
    calls["all ONNX"] = onnx_call(tiled, (x_l,), folder / "all.onnx")
    calls["blending"] = lambda: _tiled(lambda tile: blank, large, network.scale)
    found = milliseconds(calls, rounds)
    peak = peak_gmacs("cpu", folder)
    print(
        f"\n\n{recipe}, {torch.get_num_threads()} threads, peak {peak:.0f} GMAC/s, 128 → 512 px:\n"
    )
    print("| part | GMACs | PyTorch | of the peak | ONNX Runtime | of the peak |")
    print("|---|---|---|---|---|---|")
    for name, macs in (gmacs | {"all": sum(gmacs.values())}).items():
        cells = [
            f"{found[f'{name} {tool}']:.1f} ms | {share(macs, found[f'{name} {tool}'], peak)}"
            for tool in ("PyTorch", "ONNX")
        ]
        print(f"| {name} | {macs:.2f} | {' | '.join(cells)} |")
    count = Tiling(TILE, OVERLAP).count(LARGE, LARGE)
    times = [count * found[f"all {tool}"] + found["blending"] for tool in ("PyTorch", "ONNX")]
    print(
        f"\n512 → 2048 px: {count} tiles and {found['blending']:.0f} ms of blending: "
        f"{times[0] / 1000:.2f} s in PyTorch, {times[1] / 1000:.2f} s in ONNX Runtime"
    )
    if recipe == "edge_sd_sr_tiny":
        whole = {"": lambda: _tiled(tiled, large, network.scale)}
        print(f"(measured in PyTorch: {milliseconds(whole, 3)[''] / 1000:.2f} s)")


def _on_cuda(
    recipe: str, network: SRNetwork, gmacs: dict[str, float], rounds: int, folder: Path
) -> None:
    torch.backends.cudnn.allow_tf32 = False  # as in the products that give the peak
    x_l = torch.rand(1, 3, TILE, TILE, device="cuda")
    inputs = inputs_of_parts(network, x_l)
    calls: dict[str, Call] = {
        name: lambda part=part, name=name: part(*inputs[name])
        for name, part in network.inference_modules().items()
    }
    found = milliseconds(calls | {"all": lambda: network(x_l)}, 5 * rounds)
    peak = peak_gmacs("cuda", folder)
    print(f"\n{recipe} on {torch.cuda.get_device_name()}, peak {peak:.0f} GMAC/s (fp32)\n")
    for name, macs in (gmacs | {"all": sum(gmacs.values())}).items():
        print(f"| {name} | {macs:.2f} | {found[name]:.2f} ms | {share(macs, found[name], peak)} |")


def _tiled(network: Callable[[Tensor], Tensor], x_l: Tensor, scale: int) -> Tensor:
    return run_tiled(network, x_l, scale=scale, tiling=Tiling(TILE, OVERLAP))


def share(gmacs: float, milliseconds: float, peak: float) -> str:
    return f"{100 * gmacs / (milliseconds / 1000) / peak:.0f} %"
