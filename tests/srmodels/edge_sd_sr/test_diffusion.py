import torch

from srmodels.edge_sd_sr.diffusion import Schedule, sample_timesteps


def test_signal_and_noise_share_the_variance() -> None:
    schedule = Schedule(1000)
    assert torch.allclose(schedule.alpha**2 + schedule.sigma**2, torch.ones(1000), atol=1e-6)
    assert torch.all(schedule.alpha.diff() < 0)
    # Stable Diffusion's last signal level.
    assert abs(float(schedule.alpha[-1]) ** 2 - 0.00466) < 1e-5


def test_the_forward_process_runs_from_the_latent_to_its_end() -> None:
    schedule = Schedule(1000)
    z, end = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    z_t = schedule.diffuse(z, end, torch.tensor([0, 999]))
    assert torch.allclose(z_t[0], z[0], atol=0.15)
    assert torch.allclose(z_t[1], end[1], atol=0.3)
    expected = schedule.alpha[999] * z[1] + schedule.sigma[999] * end[1]
    assert torch.allclose(z_t[1], expected)


def test_timesteps_cover_the_range_and_are_drawn_towards_the_last() -> None:
    uniform = torch.linspace(0, 1 - 1e-6, 10_001)
    even = sample_timesteps(uniform, 1000, power=1.0)
    late = sample_timesteps(uniform, 1000, power=4.0)
    assert even.min() == late.min() == 0
    assert even.max() == late.max() == 999
    assert abs(float(even.float().mean()) - 499.5) < 2
    # The mean of 1 - u⁴ is 4/5.
    assert abs(float(late.float().mean()) - 799.5) < 2
