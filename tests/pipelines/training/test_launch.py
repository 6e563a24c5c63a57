"""Real DeepSpeed steps in one process: checkpoints, resuming, mistakes."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines import tracking
from pipelines.config.reference import ModelReference
from pipelines.config.schema import Config, StreamConfig
from pipelines.data.dataset import open_dataset
from pipelines.errors import UserError
from pipelines.models.load import load_model
from pipelines.runs.checkpoint import Checkpoints
from pipelines.runs.lease import lease, of_run
from pipelines.runs.names import run_checkpoints
from pipelines.training.launch import run_stages
from tests.conftest import SMALL, Runner, write_dataset
from tests.support.checkpoints import at
from tests.support.training import configure


def train(config: Config, stage: str = "autoencoder") -> Checkpoints:
    """The checkpoints of the run."""
    run_stages(config, [stage])
    return run_checkpoints(config, f"{config.run.name}-{stage}")


def test_a_checkpoint_has_all_weights_and_the_state(dataset: Path) -> None:
    config = configure(dataset)
    run = train(config)
    assert run.steps() == [2, 4]
    newest = run.newest()
    assert newest is not None
    state = newest.state()
    assert (state.step, state.samples, state.world_size) == (4, 16, 1)
    assert state.manifest == open_dataset(str(dataset), StreamConfig()).manifest.digest
    model, ema = load_file(newest.local() / "model.safetensors"), newest.ema()
    parts = {name.split(".")[0] for name in model}
    assert parts == {"hr_encoder", "lr_encoder", "unet", "decoder"}
    assert {name.split(".")[0] for name in ema} == {"hr_encoder", "decoder"}
    assert all(weight.dtype == torch.float32 for weight in model.values())
    history = tracking.connect(config.mlflow).get_metric_history(
        str(tracking.find_run(tracking.connect(config.mlflow), config.mlflow, "small-autoencoder")),
        "train/loss",
    )
    assert [metric.step for metric in history] == [1, 2, 3, 4]


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_resuming_is_bit_identical(dataset: Path, zero_stage: int) -> None:
    extra = (f"train.zero_stage={zero_stage}", "train.keep_checkpoints=9")
    whole = train(configure(dataset, "run.name=whole", *extra))
    stopped = train(configure(dataset, "run.name=stopped", *extra))
    # As a worker killed while it wrote the last checkpoint leaves it.
    left = at(stopped, 4).local()
    (left / "COMPLETE").unlink()
    (left / "model.safetensors").write_bytes(b"half")
    assert stopped.steps() == [2]
    train(configure(dataset, "run.name=stopped", *extra))
    assert not left.exists()
    for name in ("model.safetensors", "ema.safetensors"):
        a = load_file(at(whole, 4).local() / name)
        b = load_file(at(stopped, 4).local() / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    first = load_file(at(whole, 2).local() / "model.safetensors")
    last = load_file(at(whole, 4).local() / "model.safetensors")
    assert any(not torch.equal(first[key], last[key]) for key in first)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_an_adversarial_stage_resumes_with_its_discriminator(
    dataset: Path, zero_stage: int
) -> None:
    """Bit-identically, from before the adversarial loss begins to count, which is not when metrics
    are written."""
    extra = (
        f"train.zero_stage={zero_stage}", "train.log_every=4",
        "networks.discriminator={channels: 8, num_levels: 1}", "train.keep_checkpoints=9",
        "stages.decoder.init_from=null", "stages.decoder.options.adversarial_weight=0.1",
        "stages.decoder.options.adversarial_start=3",
    )  # fmt: skip
    runs = [train(configure(dataset, f"run.name={n}", *extra), "decoder") for n in ("a", "b")]
    at(runs[1], 4).remove()
    train(configure(dataset, "run.name=b", *extra), "decoder")
    first, last, again = at(runs[0], 2), at(runs[0], 4), at(runs[1], 4)
    for one, other in ((last.live_weights(), again.live_weights()), (last.ema(), again.ema())):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], value) for name, value in other.items())
    before, after = first.live_weights(), last.live_weights()
    moved = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert moved == {"decoder", "discriminator"}


def test_a_stage_starts_from_the_averaged_weights_of_the_one_before(dataset: Path) -> None:
    config = configure(dataset)
    expected = at(train(config), 4).weights()
    joint = at(train(config, "joint"), 4).weights()
    frozen = [key for key in joint if key.startswith(("decoder", "hr_encoder"))]
    assert frozen
    assert all(torch.equal(expected[key], joint[key]) for key in frozen)
    assert any(not torch.equal(expected[key], joint[key]) for key in joint)

    model = load_model(ModelReference.parse("run:small-joint"), config)
    assert model.network(torch.rand(1, 3, 16, 16)).shape == (1, 3, 64, 64)
    assert (
        model.weights_sha256
        == load_model(ModelReference.parse("run:small-joint"), config).weights_sha256
    )


def test_old_checkpoints_are_removed(dataset: Path) -> None:
    run = train(configure(dataset, "train.checkpoint_every=1", "train.keep_checkpoints=2"))
    assert run.steps() == [3, 4]
    assert len(list(Path(run.location).glob("*step-*"))) == 2


def test_only_the_same_run_resumes(dataset: Path) -> None:
    run = train(configure(dataset))
    [again] = run_stages(configure(dataset), ["autoencoder"])
    assert again.location == at(run, 4).location
    for argument, message in [
        ("train.learning_rate=1", r"other settings \(train.learning_rate\)"),
        ("seed=1", r"other settings \(seed\)"),
        ("networks.latent_channels=8", r"other settings \(networks\)"),
        ("train.steps=6", r"other settings \(train.steps\)"),
        ("degradation.preset=bsrgan", r"other settings \(degradation\)"),
        ("stream.window=1", r"other settings \(order\)"),
    ]:
        config = configure(dataset, argument)
        with pytest.raises(UserError, match=message):
            run_stages(config, ["autoencoder"])


def test_a_finished_run_with_other_settings_is_not_mistaken_for_done(dataset: Path) -> None:
    train(configure(dataset))
    with pytest.raises(UserError, match=r"other settings \(seed\)"):
        run_stages(configure(dataset, "seed=1"), ["autoencoder"])


def test_a_changed_dataset_is_refused_unless_it_is_accepted(photos: Path, tmp_path: Path) -> None:
    folder, data = tmp_path / "photos", tmp_path / "shards"
    folder.mkdir()
    for path in sorted(photos.iterdir())[:5]:
        shutil.copy(path, folder)
    before = write_dataset(folder, data)
    constant = "train.schedule=constant"
    train(configure(data, constant))
    shutil.copy(sorted(photos.iterdir())[5], folder)
    after = write_dataset(folder, data)
    more = (constant, "train.steps=6")
    with pytest.raises(
        UserError, match=rf"manifests/{before.digest}\.json .*train\.accept_changed_data"
    ):
        train(configure(data, *more))
    # Both ways that the message names.
    run = train(configure(data / "manifests" / f"{before.digest}.json", *more))
    assert at(run, 6).state().manifest == before.digest
    train(configure(data, constant, "train.steps=8", "train.accept_changed_data=true"))
    assert at(run, 8).state().manifest == after.digest


def test_what_a_run_keeps_names_no_path_of_this_machine(dataset: Path, tmp_path: Path) -> None:
    """It ends up in bundles: their bytes and digests must not depend on where they were made."""
    run = train(configure(dataset))
    kept = at(run, 4).state().config
    assert kept["stream"]["cache"] == "work/cache"
    assert (kept["run"]["storage"], kept["run"]["scratch"]) == ("work/runs", "work/scratch")
    for name in ("state.json", "COMPLETE", "notes/0.json"):
        assert str(tmp_path) not in (at(run, 4).local() / name).read_text()


def test_loader_processes_train_the_same(dataset: Path) -> None:
    alone = train(configure(dataset))
    weights = at(alone, 4).weights()
    ahead = train(configure(dataset, "train.loader_processes=2", "run.name=ahead"))
    again = at(ahead, 4).weights()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_constant_rate_can_go_on_but_not_back(dataset: Path) -> None:
    constant = "train.schedule=constant"
    run = train(configure(dataset, constant))
    train(configure(dataset, constant, "train.steps=6"))
    assert run.steps()[-1] == 6
    with pytest.raises(UserError, match=r"has 6 steps already, more than train\.steps=4"):
        train(configure(dataset, constant))


def test_the_stage_before_must_be_complete_and_have_the_same_networks(dataset: Path) -> None:
    with pytest.raises(UserError, match=r"run 'small-autoencoder' in .* is not complete"):
        train(configure(dataset), "joint")
    train(configure(dataset))
    with pytest.raises(UserError, match="which has other networks"):
        train(configure(dataset, "networks.decoder.channels=[16]"), "joint")
    # Complete for its own number of steps, whatever the next stage's is.
    train(configure(dataset, "train.steps=6"), "joint")


def test_a_run_is_trained_by_one_job_at_a_time(dataset: Path, run_forked: Runner) -> None:
    config = configure(dataset)
    with lease(run_checkpoints(config, "small-autoencoder").store, of_run("small-autoencoder")):
        done = run_forked(
            "jobs/train.py", f"recipe={SMALL}", f"data={dataset}", "train.workers=0",
            "stage=autoencoder",
        )  # fmt: skip
    assert done.returncode == 2
    assert "is being trained by another job" in done.stderr


def test_a_run_in_a_bucket_is_the_same_as_in_a_folder(dataset: Path, s3_url: str) -> None:
    here = train(configure(dataset), "autoencoder")
    bucket = (f"run.storage={s3_url}", "train.checkpoint_every=3")
    there = train(configure(dataset, *bucket))
    assert there.steps() == [3, 4]
    at(there, 4).remove()
    shutil.rmtree(there.workspace)
    assert train(configure(dataset, *bucket)).steps() == [3, 4]
    one, other = at(here, 4).weights(), at(there, 4).weights()
    assert all(torch.equal(one[name], other[name]) for name in one)

    config = configure(dataset, *bucket)
    joint = at(train(config, "joint"), 4).state()
    assert joint.identity["initial weights"] == at(there, 4).files["model.safetensors"].sha256
    assert load_model(ModelReference.parse("run:small-joint"), config).provenance.step == 4
    assert [path.name for path in there.workspace.glob("*step-*")] == [at(there, 4).folder]


@pytest.mark.parametrize("file", ["model.safetensors", "state.json"])
def test_a_run_whose_result_is_damaged_is_not_done(
    dataset: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(configure(dataset))
    weights, damaged = at(run, 4).weights(), at(run, 4).local()
    data = bytearray((damaged / file).read_bytes())
    data[-2] ^= 0xFF
    # Not in place: the loaded weights are views of the file.
    (damaged / file).unlink()
    (damaged / file).write_bytes(data)
    model = load_model(
        ModelReference.parse("run:small-autoencoder"), configure(dataset), to_train=True
    )
    assert model.provenance.step == 2
    train(configure(dataset))
    assert f"{damaged} is damaged (file {file}: " in capsys.readouterr().out
    again = at(run, 4).weights()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_loss_that_is_not_finite_names_its_samples_and_keeps_the_weights(
    dataset: Path,
) -> None:
    config = configure(dataset, "networks.residual_gain=1e30", "train.max_skipped_steps=1")
    with pytest.raises(UserError, match=r"step 2: the loss .* on samples [0-9a-f]{16}-\d{4}, "):
        train(config)
    assert run_checkpoints(config, "small-autoencoder").present() == {}
