from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from pipelines.config.load import documented_keys, from_dict, load_config, recipe_names, to_dict
from pipelines.config.refusals import check
from pipelines.errors import UserError
from srmodels.degradation import PRESETS
from srmodels.edge_sd_sr.network import EdgeSDSR
from srmodels.edge_sd_sr.system import SYSTEM
from tests.conftest import SMALL


def test_the_command_line_beats_the_stage_beats_the_recipe_beats_the_schema() -> None:
    config = load_config([])
    assert config.stages["joint"].train.steps == 1200  # the recipe's, for this stage
    assert config.stages["joint"].train.batch_size == 8  # the recipe's, for all stages
    assert config.stages["joint"].train.gradient_clip == 1.0  # the schema's
    config = load_config(["train.steps=5", "stages.decoder.train.steps=7"])
    assert config.stages["joint"].train.steps == 5
    assert config.stages["decoder"].train.steps == 7


def test_names_default_to_the_recipe() -> None:
    config = load_config([f"recipe={SMALL}"])
    assert (config.run.name, config.mlflow.model, config.mlflow.experiment) == ("small",) * 3
    assert load_config(["run.name=mine"]).mlflow.model == "edge_sd_sr_tiny"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("trian.steps=5", r"unknown key 'trian.steps' .* did you mean 'train.steps'\?"),
        ("train.stpes=5", r"did you mean 'train.steps'\?"),
        ("sorce=x", r"did you mean 'source'\?"),
        ("networks.unet.chanels=[1]", r"did you mean 'networks.unet.channels'\?"),
        ("stages.joint.options.timestep_pwer=1", "did you mean 'stages.joint.options.timestep_p"),
        ("zzz=1", r"unknown key 'zzz' on the command line: see --help"),
        ("seed.x=1", "'seed' has no keys of its own"),
        ("train=4", "'train' on the command line is a group of keys"),
        ("train.steps=soon", "train.steps is 'soon', but must be a whole number."),
        ("train.steps=0", r"train\.steps must be at least 1, not 0"),
        ("stages.joint.train.steps=0", r"stages\.joint\.train\.steps must be at least 1"),
        ("train.learning_rate=-1", r"learning_rate must be greater than 0, not -1\.0"),
        ("train.loader_processes=-1", "loader_processes must be at least 0"),
        ("shard.overlap=256", "shard.overlap=256 must be less than shard.tile=256"),
        ("shard.tile=16384", "tiles can be 16383 px wide at most"),
        ("shard.effort=9", "shard.effort is 9: use one of 0, 1"),
        ("degradation=5", "'degradation' on the command line is a group of keys"),
        ("stages=5", "'stages' on the command line is a group of keys"),
        ("stages.decoder=5", "'stages.decoder' on the command line is a group of keys"),
        ("stream.window=0", r"stream\.window must be at least 1"),
        ("degradation.options.nosuch=1", "unknown key 'degradation.options.nosuch'"),
        ("seed=-1", "seed must be at least 0"),
        ("evaluate.crop_border=-4", r"evaluate\.crop_border must be at least 0"),
        ("export.latency_runs=0", r"export\.latency_runs must be at least 1"),
        ("export.latency_budget_ms=0", r"export\.latency_budget_ms must be greater than 0"),
        ("export.candidates=[run:a]", r"export\.candidates needs export\.latency_budget_ms"),
        ("networks.unet.num_groups=0", r"networks\.unet\.num_groups must be greater than 0"),
        ("networks.lr_encoder.channels=-1", r"networks\.lr_encoder\.channels must be greater"),
        ("stages.joint.kind=decoder", "can only be set in a recipe"),
        ("seed=${x}", r"seed is '\$\{x\}', which leads to no value: write"),
        ("train.workers=[4,1]", r"\[min, max\] with 1 <= min < max, not \[4, 1\]"),
        ("train.workers=[0,4]", r"\[min, max\] with 1 <= min < max, not \[0, 4\]"),
        ("train.workers=[1,2,4]", r"\[min, max\] with 1 <= min < max, not \[1, 2, 4\]"),
        ("train.workers=[1,2.5]", r"must be a whole number, or \[min, max\]"),
        ("train.workers=true", "must be a whole number"),
        ("train.workers=-1", "train.workers must be at least 0, not -1"),
        ("train.workers=9", "train.batch_size=8 must be at least train.workers=9"),
        ("train.workers=[2,9]", r"train.batch_size=8 must be at least train.workers=\[2, 9\]"),
        ("train.zero_stage=4", "train.zero_stage is 4: use one of 0, 1, 2, 3"),
        ("train.micro_batch_size=0", r"micro_batch_size must be at least 1, not 0"),
        ("train.crop=100", "crop=100 must be a multiple of 32"),
        ("train.crop=512", r"fit into a tile \(shard.tile=256\)"),
        ("train.profile=5", r"train\.profile=5 must be \[first_step, num_steps\]"),
        ("train.profile=[3,0]", r"\[3, 0\] must be \[first_step, num_steps\], two whole numbers"),
        ("train.profile=[-1,1]", r"must be \[first_step, num_steps\]"),
        ("train.profile=[1,true]", r"must be \[first_step, num_steps\]"),
        ("train.profile=[1,2,3]", r"must be \[first_step, num_steps\]"),
        ("train.validate_every=-1", r"train\.validate_every must be at least 0"),
        ("train.precision=fp8", "use one of fp32, bf16"),
        ("degradation.preset=fog", "use one of bicubic, bsrgan, realesrgan, realsr_diffusion"),
        ("networks.scale=3", "networks.scale is 3: use one of 2, 4, 8"),
        ("recipe=nosuch", "there is no recipe 'nosuch': use edge_sd_sr, edge_sd_sr_lite"),
        ("stage=nosuch", "no stage 'nosuch': use autoencoder, joint, decoder"),
        ("run.name=a/b", "cannot be a run or model name"),
        ("steps", "cannot read 'steps': arguments are key=value"),
        ("--steps=3", "cannot read '--steps=3'"),
        ("--train.steps=5", "--dry-run or --help; write train.steps=5."),
        ("train.lr=1", "did you mean 'train.learning_rate'"),
        ("train.optimizer.lr=1", "did you mean 'train.learning_rate'"),
        ("train.optimizer.name=adam", "did you mean 'train.optimizer'"),
        ("stages.joint.train.lr=1", "did you mean 'stages.joint.train.learning_rate'"),
        ("scale=2", "did you mean 'networks.scale'"),
        ("bs=2", "did you mean 'train.batch_size'"),
        ("train.epochs=2", "did you mean 'train.steps'. Training is counted in steps, not in ep"),
        ("wd=2", "did you mean 'train.weight_decay'"),
        ("num_workers=2", "did you mean 'train.workers'"),
        ("tile=2", "did you mean 'shard.tile' or 'export.tile'"),
        ("train.crab=2", "unknown key 'train.crab' on the command line: see --help"),
        ("train.decay_steps=[a]", r"decay_steps\[0\] is 'a', but must be a whole number"),
        ("train.decay_steps=3", r"decay_steps is 3, but must be a list of whole numbers, such"),
        ("train.compile=9.5", "train.compile is 9.5, but must be true or false"),
        ("run.storage=null", "run.storage is None, but must be text"),
        ("train.groups=5", "train.groups is 5, but must be a group of keys"),
        ("train.steps=[1", r"cannot read 'train.steps=\[1': write KEY=VALUE, where VALUE is YAML"),
        ("train.steps=0100", "write train.steps=100 for the number, or train.steps='\"0100\"'"),
        ("run.name=-0_12", "would be another number to YAML: write run.name=-12 for the number, o"),
        ("run.name=1:30", """to YAML: write run.name='"1:30"' for the text"""),
        ("stage1=[[joint]]", r"stage1\[0\] is \['joint'\], but must be text"),
        ("shard.tile=???", r"shard.tile on the command line is '\?\?\?'"),
        ("system=rdsr", "system can only be set in a recipe"),
        ("train.learning_rate=inf", "train.learning_rate must be a finite number, not inf"),
        ("train.steps=100000000000000000000", "train.steps is too large"),
        ("train.steps=10000000000", "train.steps must be at most 1000000000, not 10000000000"),
        ("train.batch_size=1000000000", "train.batch_size must be at most 1000000, not 10000000"),
        (
            "stream.timeout_seconds=1e10",
            "timeout_seconds must be at most 100000000.0, not 100000000",
        ),
        ("stream.retry_seconds=1e300", r"stream.retry_seconds must be at most 100000000.0, not 1e"),
        (
            "mlflow.retry_seconds=1e10",
            "mlflow.retry_seconds must be at most 100000000.0, not 10000",
        ),
        ("train.decay_factor=1e300", r"train.decay_factor must be at most 1, not 1e\+300"),
        ("evaluate.num_pictures=1000000000", "evaluate.num_pictures must be at most 1000, not 100"),
        ("networks.unet.channels=[8,8,80000000]", r"unet.channels\[2\] is too large"),
        ("run.storage=http://u:pw@x", "storage must be a path or s3://bucket/prefix, not an addr"),
        ("run.storage=s3://", "run.storage names no bucket"),
        ("stream.cache=s3://a/b", "stream.cache must be a local folder"),
        ("source=ftp://x", "source must be a path or s3://bucket/prefix, not an address of 'ftp:"),
        (
            "source=[a,gs://x]",
            "source must be a path or s3://bucket/prefix, not an address of 'gs:",
        ),
        (
            "source=[{a: 1}]",
            r"source must be a name or a list of names such as \[a,b\], not \[\{'a'",
        ),
        ("source=s3://joe:p/w@b/a", "source names a user before the bucket: .* set AWS_PROFILE"),
        ("mlflow.uri=http://joe:p@s/w@b", r"mlflow.uri is not of the form http\(s\)://HOST:PORT"),
        ("source=s3://joe:pw@b/a", "source names a user before the bucket: .* set AWS_PROFILE"),
        ("benchmark=http://x", "benchmark must be a local folder, not an address of 'http://'"),
        ("mirror=ftp://x", r"mirror is not of the form http\(s\)://HOST/FOLDER"),
        ("mlflow.uri=ftp://x", r"mlflow.uri is not of the form http\(s\)://HOST:PORT or sqlite"),
        ("mlflow.uri=http://x:port", r"mlflow.uri is not of the form http\(s\)://HOST:PORT or"),
        ("mlflow.uri=sqlite:///", "mlflow.uri: the path is empty"),
        ("model=models:/tiny", "model: 'models:/tiny' is not of the form models:/NAME@ALIAS"),
        ("evaluate.compare=[http://x/y]", "evaluate.compare: 'http://x/y' names no model"),
        ("stages.joint.init_from='run:'", "stages.joint.init_from: 'run:' is not of the form run"),
        ("degradation.options=null", "'degradation.options' .* is a group of keys: leave it out"),
        ("train.groups=[]", r"train.groups is \[\], but must be a group of keys"),
        ("networks.unet.channels={}", r"channels is \{\}, but must be a list of whole numbers"),
        ("networks=null", "'networks' on the command line is a group of keys"),
        ("evaluate.metrics=null", "evaluate.metrics is null, but needs a value"),
        ("train.workers=null", "train.workers is null, but needs a value"),
        ("stages.joint.kind=null", "can only be set in a recipe"),
        ("system=null", "system can only be set in a recipe"),
        ("train.schedule=" + "x" * 5000, r"train.schedule is 'x+\.\.\.x+': use one of cosine"),
        ("run.name=" + "語" * 90, "cannot be a run or model name"),
        ("data=", "data is None, but must be text"),
        ('stage1=["${x}"]', r"stage1\[0\] is \['\$\{x\}'\], which leads to no value"),
        ("run.name=${oc.env:HOME}", r"run.name is '\$\{oc.env:HOME\}': .*never to the environment"),
    ],
)
def test_mistakes_get_one_clear_sentence(argument: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_config([argument])
    assert "\n" not in str(error.value)


def test_a_budget_of_latency_needs_artifacts() -> None:
    with pytest.raises(UserError, match=r"export\.latency_budget_ms judges artifacts: name some"):
        load_config(["export.latency_budget_ms=20", "export.artifacts=[]"])


def test_a_delegate_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"export\.delegates names 'gpu': use some of nnapi"):
        load_config(["export.delegates=[gpu]"])


def test_workers_are_a_number_or_a_range() -> None:
    train = load_config(["train.workers=[2,5]"]).stages["joint"].train
    assert (train.min_workers, train.max_workers, train.world_size) == (2, 5, 5)
    train = load_config(["train.workers=3"]).stages["joint"].train
    assert (train.min_workers, train.max_workers, train.world_size) == (3, 3, 3)
    train = load_config(["train.workers=0"]).stages["joint"].train
    assert (train.min_workers, train.max_workers, train.world_size) == (0, 0, 1)


def test_activations_are_only_recomputed_where_the_networks_say_which() -> None:
    class Unwilling(EdgeSDSR):
        def checkpointed_modules(self) -> list[nn.Module]:
            return []

    config = load_config(["stages.joint.train.activation_checkpointing=true"])
    with pytest.raises(UserError) as error:
        check(config, replace(SYSTEM, network=Unwilling))
    assert str(error.value) == (
        "stages.joint.train.activation_checkpointing must be false: the networks of edge_sd_sr "
        "name no modules to recompute."
    )


def test_a_validation_that_could_measure_nothing_is_refused_where_there_is_one() -> None:
    load_config(["train.validate_crop=16", "train.validate_every=0"])
    with pytest.raises(UserError, match=r"validate_crop=16 .* must be at least 32 HR pixels"):
        load_config(["train.validate_crop=16", "train.validate_every=1"])
    with pytest.raises(UserError, match=r"must be at least 64 HR pixels .* border of 20 px"):
        load_config(["train.validate_crop=32", "train.validate_every=1", "evaluate.crop_border=20"])
    load_config(["train.validate_crop=32", "train.validate_every=1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("networks: {}\n", "it needs 'system:'"),
        ("system: nosuch\n", "there is no system 'nosuch'"),
        ("system: edge_sd_sr\nstages: {warp: {}}\n", "stage 'warp' is of unknown kind 'warp'"),
        ("system: edge_sd_sr\nstage1: [joint]\n", "names stage 'joint', which the recipe"),
        ("system: rdsr\nstages: {my-init: {kind: pixel}}\n", "'my-init' must not end in -init or"),
        ("system: ./my/system.py\n", "'./my/system.py' is no name of a system"),
        ("system: edge_sd_sr\nlearning: 3\n", "unknown key 'learning' in mine.yaml"),
        ("- a\n- b\n", "is not a mapping"),
        ("'5'\n", "is not a mapping"),
        ("system: edge_sd_sr\nstages: joint\n", "stages is 'joint', but must be a mapping: write"),
        ("system: edge_sd_sr\nstages: [joint]\n", r"stages is \['joint'\], but must be a mapping"),
        ("system: edge_sd_sr\nstages: {joint: 5}\n", "stage 'joint' is 5, but must be a mapping"),
        (f"base: {SMALL}\ntrain: [1]\n", r"train in mine.yaml is \[1\], but must be a group of"),
        (
            f"base: {SMALL}\nstage1: {{a: 1}}\n",
            "stage1 in mine.yaml is {'a': 1}, but must be a list",
        ),
        ("system: edge_sd_sr\nstages: {joint: {kind: 0}}\n", "stage 'joint' is of unknown kind 0"),
        ("system: edge_sd_sr\nstages: {a/b: {kind: joint}}\n", "'a/b' cannot be a stage's name"),
        ("system: 5\n", "it needs 'system:'"),
        ("system: os\n", "there is no system 'os'"),
        ("system: os.path\n", r"has no SYSTEM"),
        ("system: sys.monitoring\n", r"there is no system 'sys.monitoring'"),
        ("system: edge_sd_sr\ntrain.steps: 5\n", r"YAML has no dots in keys; write train: \{steps"),
        (f"system: edge_sd_sr\nx: {'[' * 3000}{']' * 3000}\n", "is nested too deeply"),
        ("system: edge_sd_sr\ndescription: ${oc.env:HOME}\n", "never to the environment"),
        ("system: ${oc.env:HOME}\n", "never to the environment"),
        ('system: edge_sd_sr\ndescription: "\\0"\n', "remove the character"),
        ("a: !!int x\n", "cannot be read"),
        ("a: [\n", "cannot be read"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_config([f"recipe={path}"])


def test_a_recipe_changes_some_keys_of_its_base(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        f"base: {SMALL}\nnetworks: {{unet: {{channels: [8, 24]}}}}\n"
        "stages: {joint: {train: {steps: 9}}}\nstage1: [joint]\n"
    )
    config, base = load_config([f"recipe={mine}"]), load_config([f"recipe={SMALL}"])
    assert config.networks.unet.channels == [8, 24]
    assert config.networks.unet.num_groups == base.networks.unet.num_groups
    assert (config.stages["joint"].train.steps, config.stages["decoder"].train.steps) == (9, 4)
    assert config.stages["joint"].init_from == "autoencoder"
    assert (config.stage1, config.run.name) == (["joint"], "mine")
    # A base's parameters belong to the preset that it names, not to another one.
    other = tmp_path / "other.yaml"
    mine.write_text(
        f"base: {SMALL}\ndegradation: {{preset: realesrgan, options: {{webp_probability: 0.3}}}}\n"
    )
    other.write_text(f"base: {mine}\ndegradation: {{preset: bicubic}}\n")
    assert load_config([f"recipe={mine}"]).degradation.options.webp_probability == 0.3
    assert load_config([f"recipe={other}"]).degradation.options == PRESETS["bicubic"]()
    mine.write_text(f"base: {mine}\n")
    with pytest.raises(UserError, match=r"mine\.yaml is its own base"):
        load_config([f"recipe={mine}"])
    mine.write_text("base: nosuch\n")
    with pytest.raises(UserError, match="there is no recipe 'nosuch'"):
        load_config([f"recipe={mine}"])


@pytest.mark.parametrize("recipe", [*recipe_names(), str(SMALL)])
def test_configurations_survive_the_way_to_a_worker(recipe: str) -> None:
    config = load_config([f"recipe={recipe}", "train.steps=3"])
    assert from_dict(to_dict(config)) == config


def test_every_key_is_documented() -> None:
    keys = list(documented_keys())
    assert all(meaning for _, _, meaning in keys)
    assert {"recipe", "train.steps", "run.storage", "mlflow.uri"} <= {key for key, _, _ in keys}


def test_a_degradation_s_parameters_are_keys_of_the_recipe(tmp_path: Path) -> None:
    config = load_config(["degradation.preset=realesrgan"])
    assert config.degradation.options == PRESETS["realesrgan"]()
    quality = "degradation.options.first.quality=[50,60]"
    changed = load_config(["degradation.preset=realesrgan", quality])
    assert changed.degradation.options.first.quality == [50, 60]
    assert from_dict(to_dict(changed)) == changed
    with pytest.raises(UserError, match="quality"):
        load_config(["degradation.preset=realesrgan", quality.replace("60", "200")])
    # A recipe's parameters belong to the preset that it names, not to another one.
    recipe = tmp_path / "mine.yaml"
    text = SMALL.read_text()
    recipe.write_text(
        f"{text}degradation: {{preset: realesrgan, options: {{first: {{quality: [50, 60]}}}}}}\n"
    )
    assert load_config([f"recipe={recipe}"]).degradation.options.first.quality == [50, 60]
    other = load_config([f"recipe={recipe}", "degradation.preset=bicubic"])
    assert other.degradation.options == PRESETS["bicubic"]()


def test_a_stage_without_a_kind_is_of_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {SMALL}\nstages: {{joint: {{kind: null}}}}\n")
    assert load_config([f"recipe={path}"]).stages["joint"].kind == "joint"


def test_a_stage_that_every_system_has_is_set_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {SMALL}\nstages: {{pixel: {{}}, sharp: {{kind: pixel}}}}\n")
    config = load_config([f"recipe={path}", "stages.sharp.options.fft_weight=0.1"])
    assert config.stages["pixel"].options.fft_weight == 0.0
    assert config.stages["sharp"].options.fft_weight == 0.1
    with pytest.raises(UserError, match=r"stages.pixel.options: all weights are 0"):
        load_config([f"recipe={path}", "stages.pixel.options.l1_weight=0"])


def test_the_folders_of_a_list_are_checked_one_by_one() -> None:
    """All of them together are longer than the name of a file may be."""
    folders = [f"set{number}" for number in range(60)]
    assert load_config([f"benchmark={','.join(folders)}"]).benchmark == ",".join(folders)
    with pytest.raises(UserError, match="benchmark must be a local folder, not an address of 's3:"):
        load_config(["benchmark=set1,s3://bucket/set2"])


def test_a_recipe_may_refer_to_a_whole_group(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "base: light_f2srgan\n"
        "stages:\n"
        "  pixel: {train: {steps: 77}}\n"
        "  more: {kind: pixel, train: '${stages.pixel.train}'}\n"
        "  small: {kind: pixel, networks: {channels: 16}, train: {steps: '${train.log_every}'}}\n"
        "  other: {kind: pixel, networks: '${stages.small.networks}'}\n"
        "  again: {kind: prune, options: '${stages.prune.options}'}\n"
    )
    config = load_config([f"recipe={recipe}", "stages.again.options.importance=l1"])
    stages = config.stages
    assert (stages["more"].train.steps, stages["small"].train.steps) == (77, config.train.log_every)
    assert stages["other"].networks.channels == 16
    again = stages["again"].options
    assert (again.importance, again.at_most, again.measure) == ("l1", 39185, "parameters")
