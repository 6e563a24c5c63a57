"""The stages of RDSR: training with the prior of an oracle, then with the one that diffusion makes.

A third stage, which is optional, finetunes the networks until the image looks right.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from srmodels.checks import check_not_negative
from srmodels.randomness import per_sample_normal
from srmodels.rdsr.network import RDSR
from srmodels.stage import ParameterGroup, Stage
from srmodels.stages.perceptual import PerceptualStage


class PriorStage(Stage):
    """Trains the decoder and the encoder that reads LR and HR image.

    Without a prior it trains the decoder alone.

    Loss: L1 between the decoded image and x_h (DiffIR's first stage, arXiv 2303.09472, Eq. 5).
    """

    @dataclass
    class Options:
        pass

    network: RDSR

    def __init__(self, network: RDSR, options: Options) -> None:
        super().__init__(network, options)
        # With a prior, the picture needs x_h.
        self.previews_inference = network.hr_encoder is None

    def parameter_groups(self) -> list[ParameterGroup]:
        groups = [ParameterGroup("decoder", list(self.network.decoder.parameters()))]
        if self.network.hr_encoder is not None:
            groups.append(ParameterGroup("encoder", list(self.network.hr_encoder.parameters())))
        return groups

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        x = self.network.decoder(x_l, self.network.oracle_prior(x_l, x_h))
        return {"loss": F.l1_loss(x, x_h)}

    def preview(self, x_l: Tensor, x_h: Tensor) -> Tensor:
        """Returns the decoder's image for the oracle's prior."""
        x: Tensor = self.network.decoder(x_l, self.network.oracle_prior(x_l, x_h))
        return x


class DiffusionStage(Stage):
    """Trains the networks of inference: the encoder that reads the LR image alone, the denoiser and
    the decoder. The encoder of the first stage is frozen, and teaches.

    Loss: L1 between the decoded image and x_h, plus L1 between the prior that the reverse process
    makes and the oracle's (DiffIR, Eqs. 11 and 12). In training the process starts from the
    diffused prior of the oracle. A twentieth of that prior is left there.

    Raises:
        ValueError: impossible options, or a network without a prior.
    """

    @dataclass
    class Options:
        distillation_weight: float = 1.0

    network: RDSR
    options: Options
    reads = ("hr_encoder",)

    def __init__(self, network: RDSR, options: Options) -> None:
        check_not_negative("distillation_weight", options.distillation_weight)
        if network.config.prior == "none":
            raise ValueError(
                "with networks.prior=none there is no prior to learn: the stage before is all."
            )
        super().__init__(network, options)

    def parameter_groups(self) -> list[ParameterGroup]:
        network = self.network
        assert network.lr_encoder is not None
        groups = [
            ParameterGroup("decoder", list(network.decoder.parameters())),
            ParameterGroup("encoder", list(network.lr_encoder.parameters())),
        ]
        if network.denoiser is not None:
            groups.append(ParameterGroup("denoiser", list(network.denoiser.parameters())))
        return groups

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        network = self.network
        with torch.no_grad():
            oracle = network.oracle_prior(x_l, x_h)
            assert oracle is not None
            noise = per_sample_normal(seeds, oracle.shape[1:], device=oracle.device)
            start = network.process.q_sample(oracle, noise)
        prior = network.prior(x_l, start)
        assert prior is not None
        l1 = F.l1_loss(network.decoder(x_l, prior), x_h)
        distillation = F.l1_loss(prior, oracle)
        loss = l1 + self.options.distillation_weight * distillation
        return {"loss": loss, "l1": l1, "distillation": distillation}


class PerceptualFinetuning(PerceptualStage):
    """Trains the networks of inference with LPIPS, a discriminator or both, after the other stages.

    DiffIR does this for its GAN-trained models. It trades decibels for looks.

    Raises:
        ValueError: the options are impossible for a perceptual stage, or have neither loss.
    """

    network: RDSR
    turn_name = "generator"

    def __init__(self, network: RDSR, options: PerceptualStage.Options) -> None:
        super().__init__(network, options)
        if not options.lpips_weight and not options.adversarial_weight:
            raise ValueError(
                "a perceptual stage without a perceptual loss is the stage before: set "
                "options.lpips_weight (1.0, say), options.adversarial_weight (0.05), or both."
            )

    def parameter_groups(self) -> list[ParameterGroup]:
        modules = self.network.inference_modules().items()
        groups = {"lr_encoder": "encoder"}
        return [
            ParameterGroup(groups.get(name, name), list(module.parameters()))
            for name, module in modules
        ]

    def result(self, x_l: Tensor, seeds: Tensor) -> Tensor:
        """Returns the images `[B, 3, scale·h, scale·w]`, about [0, 1].

        The reverse process starts from noise that is drawn from each sample's own seed.
        """
        network = self.network
        start = per_sample_normal(seeds, network.noise.shape[1:], device=x_l.device)
        x: Tensor = network.decoder(x_l, network.prior(x_l, start))
        return x
