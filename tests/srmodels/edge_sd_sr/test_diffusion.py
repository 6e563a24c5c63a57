"""The forward processes against their definitions, and each prediction against the process."""

import itertools
import math
from collections.abc import Iterator

import pytest
import torch

from srmodels.edge_sd_sr.diffusion import PREDICTIONS, ForwardProcess, Prediction, sample_timesteps

T = 1000
PROCESSES = {
    "none": ForwardProcess.towards_noise(T),
    "additive": ForwardProcess.towards_latent(T),
    "resshift": ForwardProcess.residual_shift(T, kappa=2.0, power=0.3),
}
ZERO_TERMINAL = {
    "none": ForwardProcess.towards_noise(T, zero_terminal_snr=True),
    "additive": ForwardProcess.towards_latent(T, zero_terminal_snr=True),
    "resshift": ForwardProcess.residual_shift(T, 2.0, 0.3, zero_terminal_snr=True),
}


@pytest.mark.parametrize("name", ["none", "additive"])
def test_signal_and_noise_share_the_variance(name: str) -> None:
    process = PROCESSES[name]
    assert torch.allclose(process.signal**2 + process.noise**2, torch.ones(T), atol=1e-6)
    assert torch.all(process.signal.diff() < 0)
    # Stable Diffusion's last signal level.
    assert abs(float(process.signal[-1]) ** 2 - 0.00466) < 1e-5


def test_what_the_processes_end_at() -> None:
    assert not PROCESSES["none"].end.any()
    assert torch.equal(PROCESSES["additive"].end, PROCESSES["additive"].noise)
    resshift = PROCESSES["resshift"]
    assert torch.allclose(resshift.signal + resshift.end, torch.ones(T))
    assert torch.allclose(resshift.noise, 2.0 * resshift.end.sqrt(), atol=1e-6)
    assert float(resshift.end[-1]) == pytest.approx(0.999, abs=1e-6)
    assert float(resshift.noise[0]) == pytest.approx(0.04, abs=1e-6)


def test_residual_shift_takes_the_steps_of_its_paper() -> None:
    """√η_t = √η_1 · b0^{β_t}, with β_t and b0 as ResShift defines them, for its 15 steps."""
    steps, kappa, power = 15, 2.0, 0.3
    process = ForwardProcess.residual_shift(steps, kappa, power)
    first, last = 0.04 / kappa, math.sqrt(0.999)
    base = math.exp(math.log(last**2 / first**2) / (2 * (steps - 1)))
    for t in range(1, steps + 1):
        exponent = ((t - 1) / (steps - 1)) ** power * (steps - 1)
        eta = (first * base**exponent) ** 2
        assert float(process.end[t - 1]) == pytest.approx(eta, rel=1e-5)


#: The factors of z, z_h, z_l and the noise in a step.
Step = tuple[float, float, float, float]


def diffusion_steps(end: bool) -> Iterator[Step]:
    """DDPM's transition, √(1 − β_t) z + √β_t n, with Stable Diffusion's β; one that ends at z_l
    drifts there as fast as the noise rises."""
    betas = [(0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * t / (T - 1)) ** 2 for t in range(T)]
    kept = 1.0
    for beta in betas:
        before, kept = math.sqrt(1 - kept), kept * (1 - beta)
        drift = math.sqrt(1 - kept) - math.sqrt(1 - beta) * before if end else 0.0
        yield math.sqrt(1 - beta), 0.0, drift, math.sqrt(beta)


def residual_shift_steps(kappa: float, power: float) -> Iterator[Step]:
    """ResShift's transition (equation 1): z + α_t (z_l − z_h) + κ √α_t n, α_t = η_t − η_{t−1}."""
    first, last, before = 0.04 / kappa, math.sqrt(0.999), 0.0
    for t in range(T):
        eta = first**2 * (last / first) ** (2 * (t / (T - 1)) ** power)
        alpha, before = eta - before, eta
        yield 1.0, -alpha, alpha, kappa * math.sqrt(alpha)


STEPS = {
    "none": lambda: diffusion_steps(end=False),
    "additive": lambda: diffusion_steps(end=True),
    "resshift": lambda: residual_shift_steps(kappa=2.0, power=0.3),
}


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_the_closed_form_marginal_is_that_of_small_steps(name: str) -> None:
    """Many samples, pushed through the Markov chain of the definition step by step, are scattered
    as the tables say."""
    process, last = PROCESSES[name], 400
    generator = torch.Generator().manual_seed(0)
    z_h, z_l, deviation = 1.5, -0.7, 0.6
    samples = torch.full((20_000,), z_h, dtype=torch.float64)
    for keep, image, drift, scatter in itertools.islice(STEPS[name](), last + 1):
        noise = torch.randn(len(samples), generator=generator, dtype=torch.float64)
        samples = keep * samples + image * z_h + drift * z_l + scatter * deviation * noise
    t = last
    mean = float(process.signal[t] * z_h + process.end[t] * z_l)
    spread = float(process.noise[t]) * deviation
    assert float(samples.mean()) == pytest.approx(mean, abs=0.03)
    assert float(samples.std()) == pytest.approx(spread, rel=0.03)
    many = torch.full((20_000, 1, 1, 1), t)
    z_t = process.diffuse(
        torch.full((20_000, 1, 1, 1), z_h),
        torch.full((20_000, 1, 1, 1), z_l),
        deviation * torch.randn(20_000, 1, 1, 1, generator=generator),
        many.flatten(),
    )
    assert float(z_t.mean()) == pytest.approx(mean, abs=0.03)
    assert float(z_t.std()) == pytest.approx(spread, rel=0.03)


@pytest.mark.parametrize("processes", [PROCESSES, ZERO_TERMINAL], ids=["usual", "zero"])
@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_inference_starts_at_the_last_timestep_with_z_l_for_the_hr_latent(
    name: str, processes: dict[str, ForwardProcess]
) -> None:
    process = processes[name]
    z_l, noise = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    last = torch.full((2,), T - 1)
    assert torch.allclose(process.start(z_l, noise), process.diffuse(z_l, z_l, noise, last))
    mean = process.diffuse(z_l, z_l, torch.zeros_like(noise), last)
    assert torch.allclose(process.start(z_l, None), mean)


def test_zero_terminal_snr_is_that_of_its_paper() -> None:
    """Algorithm 1 of arXiv 2305.08891: √ᾱ minus its last value, scaled so that its first stays."""
    usual, zero = PROCESSES["none"].signal, ZERO_TERMINAL["none"].signal
    assert float(zero[0]) == pytest.approx(float(usual[0]), abs=1e-6)
    assert float(zero[-1]) == 0
    ratio = (usual - usual[-1]) / zero.clamp(min=1e-12)
    assert torch.allclose(ratio[:-1], ratio[0].expand(T - 1), rtol=1e-3)
    for name in ("none", "additive"):
        process = ZERO_TERMINAL[name]
        assert torch.allclose(process.signal**2 + process.noise**2, torch.ones(T), atol=1e-6)


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_with_zero_terminal_snr_the_hr_latent_cannot_be_read_where_inference_starts(
    name: str,
) -> None:
    """However small the noise, two HR latents end at one z_T; in the usual schedule they do not."""
    z_l, noise = torch.randn(2, 4, 3, 3), torch.zeros(2, 4, 3, 3)
    z_h, other = torch.randn(2, 2, 4, 3, 3)
    last = torch.full((2,), T - 1)
    zero, usual = ZERO_TERMINAL[name], PROCESSES[name]
    ends = [zero.diffuse(latent, z_l, noise, last) for latent in (z_h, other)]
    assert torch.equal(*ends)
    legible = [usual.diffuse(latent, z_l, noise, last) for latent in (z_h, other)]
    assert not torch.allclose(*legible, atol=1e-4)
    # One step before, the UNet still has something to read.
    earlier = [zero.diffuse(latent, z_l, noise, last - 1) for latent in (z_h, other)]
    assert not torch.equal(*earlier)


#: Residual shift has no velocity, and where no signal is left, the noise does not tell z_h: the
#: configuration refuses both.
KINDS = sorted({*itertools.product(PROCESSES, PREDICTIONS)} - {("resshift", "v")})


@pytest.mark.parametrize(
    ("name", "kind", "process"),
    [(*case, PROCESSES[case[0]]) for case in KINDS]
    + [(*case, ZERO_TERMINAL[case[0]]) for case in KINDS if case[1] != "epsilon"],
)
def test_a_right_prediction_gives_the_hr_latent(
    name: str, kind: str, process: ForwardProcess
) -> None:
    prediction = Prediction(kind, process)
    generator = torch.Generator().manual_seed(0)
    z_h, z_l, noise = torch.randn(3, 5, 4, 3, 3, generator=generator)
    timesteps = torch.tensor([0, 1, 500, 900, 999])
    z_t = process.diffuse(z_h, z_l, noise, timesteps)
    target = prediction.target(z_h, z_l, noise, timesteps)
    found = prediction.z_h(target, z_t, z_l, timesteps)
    # What fp32 loses where a thousandth of the signal is left.
    assert torch.allclose(found, z_h, atol=2e-3)
    wrong = prediction.z_h(target + 0.1, z_t, z_l, timesteps)
    assert not torch.allclose(wrong, z_h, atol=2e-3)


def test_velocity_and_noise_are_those_of_the_papers() -> None:
    process = PROCESSES["none"]
    z_h, z_l, noise = torch.randn(3, 1, 4, 2, 2)
    timesteps = torch.tensor([300])
    alpha, sigma = float(process.signal[300]), float(process.noise[300])
    velocity = Prediction("v", process).target(z_h, z_l, noise, timesteps)
    assert torch.allclose(velocity, alpha * noise - sigma * z_h, atol=1e-6)
    assert torch.equal(Prediction("epsilon", process).target(z_h, z_l, noise, timesteps), noise)
    # Where the process ends at z_l + n, that takes the noise's place.
    conditioned = Prediction("v", PROCESSES["additive"]).target(z_h, z_l, noise, timesteps)
    assert torch.allclose(conditioned, alpha * (z_l + noise) - sigma * z_h, atol=1e-6)


def test_timesteps_cover_the_range_and_are_drawn_towards_the_last() -> None:
    uniform = torch.linspace(0, 1 - 1e-6, 10_001)
    even = sample_timesteps(uniform, T, power=1.0)
    late = sample_timesteps(uniform, T, power=4.0)
    assert even.min() == late.min() == 0
    assert even.max() == late.max() == 999
    assert abs(float(even.float().mean()) - 499.5) < 2
    # The mean of 1 - u⁴ is 4/5.
    assert abs(float(late.float().mean()) - 799.5) < 2
