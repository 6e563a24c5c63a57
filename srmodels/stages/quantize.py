"""The stage that lets any network learn to bear int8."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from srmodels.checks import check_one_of
from srmodels.compression.fake_quantisation import QUANTISED, find_ranges, quantise_layers
from srmodels.network import SRNetwork
from srmodels.stages.pixel import PixelStage

#: Samples that the first ranges are found on.
_NUM_SAMPLES = 32


class QuantizeStage(PixelStage):
    """Trains the networks that ship while their products are rounded, as PixelStage does otherwise.

    At its start, ranges are the extremes of the activations over a few samples; they are learned
    from there. With `steps: 1` and a rate of 0 that is quantisation without training. Stages that
    start from this one train rounded networks, too.

    The exporter of the same precision writes these ranges (`srmodels.edge.onnx_int8`).

    Raises:
        ValueError: there is no such precision, the networks have another one already, or as
            PixelStage.
    """

    @dataclass
    class Options(PixelStage.Options):
        precision: str = "int8"

    options: Options

    def __init__(self, network: SRNetwork, options: Options) -> None:
        super().__init__(network, options)
        network.check_compressible()
        check_one_of("precision", options.precision, tuple(QUANTISED))
        if network.quantised not in ("", options.precision):
            raise ValueError(f"these networks are quantised for {network.quantised} already.")
        if options.group_lasso_weight:
            raise ValueError(
                "what is quantised cannot be pruned: set group_lasso_weight to 0, or in a stage "
                "before the one that prunes."
            )

    @property
    def num_samples(self) -> int:
        return _NUM_SAMPLES

    def start(self, x_l: Tensor, x_h: Tensor) -> Sequence[str]:
        network, precision = self.network, self.options.precision
        if not network.quantised:
            quantise_layers(network.inference_modules().values(), precision)
            network.quantised = precision
        find_ranges(network, list(x_l[:, None]))
        return [f"Products of {precision}, with ranges found on {len(x_l)} samples."]
