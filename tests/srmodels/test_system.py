import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from srmodels.randomness import per_sample_normal, per_sample_uniform
from srmodels.system import load_system, system_names


def test_systems_are_found_by_their_folder() -> None:
    assert "edge_sd_sr" in system_names()
    assert load_system("edge_sd_sr").name == "edge_sd_sr"


def test_an_unknown_system_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no system 'nosuch': use one of .*edge_sd_sr"):
        load_system("nosuch")


def test_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    seeds = torch.tensor([5, 6, 7])
    batch = per_sample_normal(seeds, (3, 2))
    alone = per_sample_normal(seeds[1:2], (3, 2))
    assert torch.equal(batch[1:2], alone)
    assert not torch.equal(batch[0], batch[1])
    assert not torch.equal(alone, per_sample_normal(seeds[1:2], (3, 2), stream=1))
    assert torch.equal(per_sample_uniform(seeds)[2:], per_sample_uniform(seeds[2:]))


def test_seeds_without_values_draw_noise_without_values() -> None:
    seeds = torch.arange(3, device="meta")
    assert per_sample_normal(seeds, (2, 4)).is_meta
    assert per_sample_normal(seeds, (2, 4)).shape == (3, 2, 4)
    assert per_sample_uniform(seeds).is_meta
    assert per_sample_uniform(seeds).shape == (3,)
    with FakeTensorMode():
        fake = torch.arange(3)
        assert isinstance(per_sample_normal(fake, (2, 4)), FakeTensor)
        assert per_sample_normal(fake, (2, 4)).shape == (3, 2, 4)
        assert isinstance(per_sample_uniform(fake), FakeTensor)
