"""Stage 1 of Edge-SD-SR: an autoencoder where none is at hand, then UNet and LR encoder."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from srmodels.edge_sd_sr.diffusion import sample_timesteps
from srmodels.edge_sd_sr.network import EdgeSDSR
from srmodels.system import ParameterGroup, Stage, per_sample_normal, per_sample_uniform

# Independent random draws of one sample.
_NOISE, _TIMESTEP, _LATENT = 0, 1, 2


class AutoencoderStage(Stage):
    """Trains HR encoder and decoder on what the latent codes, where no pretrained ones are at hand.

    Loss: mean squared error + a penalty that holds each latent channel near zero mean and unit
    variance, which is what the diffusion assumes of z_h. A little noise on the latent keeps the
    decoder smooth. (Stable Diffusion's VAE takes this stage's place in the paper. L1 instead of
    the squared error never leaves zero here: most of a residual image is close to it.)

    The moments are those of the samples that a rank sees together, so this stage, unlike others,
    depends a little on the number of workers.
    """

    @dataclass
    class Options:
        latent_noise: float = 0.1
        latent_moments_weight: float = 0.1

    previews_inference = False
    network: EdgeSDSR
    options: Options

    def parameter_groups(self) -> list[ParameterGroup]:
        network = self.network
        return [
            ParameterGroup("hr_encoder", list(network.hr_encoder.parameters())),
            ParameterGroup("decoder", list(network.decoder.parameters())),
        ]

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        coded = self.network.to_coded(x_h, x_l)
        z_h = self.network.hr_encoder(coded)
        noise = per_sample_normal(seeds, z_h.shape[1:], _LATENT)
        mse = F.mse_loss(self.network.decoder(z_h + self.options.latent_noise * noise), coded)
        mean, std = z_h.mean(dim=(0, 2, 3)), z_h.std(dim=(0, 2, 3))
        moments = mean.square().mean() + (std - 1.0).square().mean()
        return {
            "loss": mse + self.options.latent_moments_weight * moments,
            "mse": mse,
            "latent_moments": moments,
        }

    def preview(self, x_l: Tensor, x_h: Tensor) -> Tensor:
        """x_h through encoder and decoder, since inference needs a UNet, which learns later."""
        return self.network.decode(self.network.encode(x_h, x_l), x_l)


class JointStage(Stage):
    """Trains UNet and LR encoder together; HR encoder and decoder are frozen.

    Loss: the squared error of what the UNet predicts, at timesteps drawn towards the last, plus,
    with learned variance, the negative log-likelihood of z_h under N(z_l, v²), which makes the end
    of the forward process a calibrated guess of the HR latent. The second term is a reconstruction;
    its weight is a switch.
    """

    @dataclass
    class Options:
        timestep_power: float = 4.0
        likelihood_weight: float = 0.1

    network: EdgeSDSR
    options: Options

    def parameter_groups(self) -> list[ParameterGroup]:
        network = self.network
        return [
            ParameterGroup("unet", list(network.unet.parameters())),
            ParameterGroup("lr_encoder", list(network.lr_encoder.parameters())),
        ]

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        network = self.network
        with torch.no_grad():
            z_h = network.encode(x_h, x_l)
        z_l, log_variance = network.lr_encoder(x_l)
        noise = network.noise(log_variance, per_sample_normal(seeds, z_h.shape[1:], _NOISE))
        timesteps = sample_timesteps(
            per_sample_uniform(seeds, _TIMESTEP),
            network.process.num_timesteps,
            self.options.timestep_power,
        )
        z_t = network.process.diffuse(z_h, z_l, noise, timesteps)
        output = network.predict(z_t, z_l, timesteps)
        latent = F.mse_loss(output, network.prediction.target(z_h, z_l, noise, timesteps))
        losses = {"loss": latent, "latent": latent}
        if network.config.conditioning.variance == "learned":
            error = (z_h - z_l).square()
            likelihood = 0.5 * (error * torch.exp(-log_variance) + log_variance).mean()
            losses["likelihood"] = likelihood
            losses["loss"] = latent + self.options.likelihood_weight * likelihood
        return losses
