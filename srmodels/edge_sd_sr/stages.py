"""Stage 1 of Edge-SD-SR: an autoencoder where none is at hand, then UNet and LR encoder."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from srmodels.edge_sd_sr.diffusion import sample_timesteps
from srmodels.edge_sd_sr.network import EdgeSDSR, Teacher
from srmodels.randomness import per_sample_normal, per_sample_uniform
from srmodels.stage import ParameterGroup, Stage

# Independent random draws of one sample.
_NOISE, _TIMESTEP, _LATENT = 0, 1, 2


class AutoencoderStage(Stage):
    """Trains HR encoder and decoder on the image or residual that the latent codes.

    It is for a recipe that has no pretrained ones. With `train_encoder: false` it trains the
    decoder alone, for a pretrained encoder (`init.vae`).

    Loss: mean squared error + a penalty that holds each latent channel near zero mean and unit
    variance, which is what the diffusion assumes of z_h. A little noise on the latent keeps the
    decoder smooth. (Stable Diffusion's VAE takes this stage's place in the paper. L1 instead of
    the squared error never leaves zero here: most of a residual image is close to it.)

    The moments are those of the samples that a rank sees together, so this stage, unlike others,
    depends a little on the number of workers.
    """

    @dataclass
    class Options:
        train_encoder: bool = True
        latent_noise: float = 0.1
        latent_moments_weight: float = 0.1

    previews_inference = False
    network: EdgeSDSR
    options: Options

    def parameter_groups(self) -> list[ParameterGroup]:
        decoder = ParameterGroup("decoder", list(self.network.decoder.parameters()))
        if not self.options.train_encoder:
            return [decoder]
        return [ParameterGroup("hr_encoder", list(self.network.hr_encoder.parameters())), decoder]

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        coded = self.network.to_coded(x_h, x_l)
        z_h = self.network.hr_encoder(coded)
        noise = per_sample_normal(seeds, z_h.shape[1:], _LATENT, device=z_h.device)
        noised = z_h + self.options.latent_noise * noise
        mse = F.mse_loss(self.network.decoder(noised, x_l), coded)
        mean, std = z_h.mean(dim=(0, 2, 3)), z_h.std(dim=(0, 2, 3))
        moments = mean.square().mean() + (std - 1.0).square().mean()
        return {
            "loss": mse + self.options.latent_moments_weight * moments,
            "mse": mse,
            "latent_moments": moments,
        }

    def preview(self, x_l: Tensor, x_h: Tensor) -> Tensor:
        """Returns x_h after encoder and decoder. Inference needs a UNet, which learns later."""
        return self.network.decode(self.network.encode(x_h, x_l), x_l)


class JointStage(Stage):
    """Trains UNet and LR encoder together; HR encoder and decoder are frozen.

    Loss: the squared error of the UNet's prediction, at timesteps drawn towards the last. With
    learned variance, the negative log-likelihood of z_h under N(z_l, v²) is added. Without it v
    would shrink, since noise only makes the first term's task harder. The second term is a
    reconstruction; its weight is a switch.

    Raises:
        ValueError: impossible options.
    """

    @dataclass
    class Options:
        timestep_power: float = 4.0
        likelihood_weight: float = 0.1

    network: EdgeSDSR
    options: Options
    reads = ("hr_encoder",)

    def __init__(self, network: EdgeSDSR, options: Options) -> None:
        if options.timestep_power <= 0:
            raise ValueError(f"timestep_power must be above 0, not {options.timestep_power}.")
        super().__init__(network, options)

    @property
    def learner(self) -> EdgeSDSR | Teacher:
        """The networks whose UNet and LR encoder learn."""
        return self.network

    def learners_view(self, x_l: Tensor, x_h: Tensor) -> Tensor:
        """Returns the LR image that the learner sees."""
        return x_l

    def parameter_groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup("unet", list(self.learner.unet.parameters())),
            ParameterGroup("lr_encoder", list(self.learner.lr_encoder.parameters())),
        ]

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        network = self.network
        with torch.no_grad():
            z_h = network.encode(x_h, x_l)
        encoded = self.learner.lr_encoder(self.learners_view(x_l, x_h))
        at = self._diffused(z_h, encoded, seeds)
        output = network.predict(at.z_t, at.z_l, at.timesteps, self.learner)
        target = network.prediction.target(z_h, at.z_l, at.noise, at.timesteps)
        return self._losses(F.mse_loss(output, target), z_h, at)

    def _diffused(self, z_h: Tensor, encoded: tuple[Tensor, Tensor], seeds: Tensor) -> "_Diffused":
        network, (z_l, log_variance) = self.network, encoded
        unit = per_sample_normal(seeds, z_h.shape[1:], _NOISE, device=z_h.device)
        noise = network.noise(log_variance, unit)
        timesteps = sample_timesteps(
            per_sample_uniform(seeds, _TIMESTEP, device=z_h.device),
            network.process.num_timesteps,
            self.options.timestep_power,
        )
        z_t = network.process.diffuse(z_h, z_l, noise, timesteps)
        return _Diffused(z_t, z_l, log_variance, noise, timesteps)

    def _losses(self, latent: Tensor, z_h: Tensor, at: "_Diffused") -> dict[str, Tensor]:
        losses = {"loss": latent, "latent": latent}
        if self.network.config.conditioning.variance == "learned":
            error = (z_h - at.z_l).square()
            likelihood = 0.5 * (error * torch.exp(-at.log_variance) + at.log_variance).mean()
            losses["likelihood"] = likelihood
            losses["loss"] = latent + self.options.likelihood_weight * likelihood
        return losses


class TeacherStage(JointStage):
    """Trains the teacher's UNet and LR encoder as `JointStage` trains those of the network.

    The teacher's LR image is twice as large as x_l. This is the first half of scale distillation
    (YONOS-SR, Noroozi et al., arXiv 2401.17258).

    Raises:
        ValueError: there is no teacher.
    """

    previews_inference = False

    def __init__(self, network: EdgeSDSR, options: JointStage.Options) -> None:
        _check_teacher(network)
        super().__init__(network, options)

    @property
    def learner(self) -> Teacher:
        assert self.network.teacher is not None
        return self.network.teacher

    def learners_view(self, x_l: Tensor, x_h: Tensor) -> Tensor:
        return teachers_view(x_h, self.network.scale)

    def preview(self, x_l: Tensor, x_h: Tensor) -> Tensor:
        """Returns the teacher's result for its own, larger LR image."""
        network, noise = self.network, self.network.inference_noise(x_l)
        z_h = network.one_step_latent(self.learners_view(x_l, x_h), noise, self.learner)
        return network.decode(z_h, x_l)


class DistillationStage(JointStage):
    """Trains UNet and LR encoder on the frozen teacher's prediction for the same z_t.

    This is the second half of scale distillation. The UNet starts as a copy of the teacher's.

    Loss: ‖ẑ_h(z_t, z_l) − target‖², plus the joint stage's likelihood. The target mixes the
    teacher's ẑ_h(z_t, z_l′), in the proportion `teacher_weight`, with z_h. z_t is the student's,
    which ends at its own z_l. That, the mixture, and a weight of 1 at every t are reconstructions.

    Raises:
        ValueError: there is no teacher.
    """

    @dataclass
    class Options(JointStage.Options):
        teacher_weight: float = 1.0

    options: Options

    def __init__(self, network: EdgeSDSR, options: Options) -> None:
        _check_teacher(network)
        if not 0 <= options.teacher_weight <= 1:
            raise ValueError(f"teacher_weight must be from 0 to 1, not {options.teacher_weight}.")
        super().__init__(network, options)

    def start(self, x_l: Tensor, x_h: Tensor) -> Sequence[str]:
        assert self.network.teacher is not None
        self.network.unet.load_state_dict(self.network.teacher.unet.state_dict())
        return []

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        network, prediction = self.network, self.network.prediction
        with torch.no_grad():
            z_h = network.encode(x_h, x_l)
        at = self._diffused(z_h, network.lr_encoder(x_l), seeds)
        output = network.predict(at.z_t, at.z_l, at.timesteps)
        found = prediction.z_h(output, at.z_t, at.z_l, at.timesteps)
        with torch.no_grad():
            assert network.teacher is not None
            z_t, (z_l, _) = at.z_t, network.teacher.lr_encoder(teachers_view(x_h, network.scale))
            output = network.predict(z_t, z_l, at.timesteps, network.teacher)
            told = prediction.z_h(output, z_t, z_l, at.timesteps)
            target = torch.lerp(z_h, told, self.options.teacher_weight)
        return self._losses(F.mse_loss(found, target), z_h, at)


@dataclass(frozen=True)
class _Diffused:
    """A point of the forward process, and the values that it was made of."""

    z_t: Tensor
    z_l: Tensor
    log_variance: Tensor
    noise: Tensor
    timesteps: Tensor


def teachers_view(x_h: Tensor, scale: int) -> Tensor:
    """Returns the teacher's LR image x_l′ `[B, 3, 2h, 2w]`, for a network that enlarges by `scale`.

    It is x_h, reduced by `scale / 2` with an antialiased bicubic filter. It is degraded in no other
    way, which is a reconstruction.
    """
    reduced = F.interpolate(x_h, scale_factor=2 / scale, mode="bicubic", antialias=True)
    return reduced.clamp(0.0, 1.0)


def _check_teacher(network: EdgeSDSR) -> None:
    if network.teacher is None:
        raise ValueError("scale distillation needs a teacher: set networks.teacher=true.")
