"""Guesses the key that a user meant, for messages: no guess is better than a wrong one."""

import difflib
from collections.abc import Sequence

from pipelines.errors import listing

#: Names that other projects use, by the key that they mean here.
_ALIASES = {
    "train.learning_rate": "lr base_lr max_lr init_lr",
    "train.weight_decay": "wd decay l2",
    "train.batch_size": "bs batch batchsize global_batch_size train_batch_size",
    "train.micro_batch_size": "micro_batch accumulate grad_accum gradient_accumulation_steps",
    "train.steps": "epochs epoch num_epochs max_epochs iters iterations max_iters total_iter "
    "num_steps max_steps",
    "train.workers": "num_workers world_size nproc_per_node gpus num_gpus",
    "train.accelerator": "device devices",
    "train.optimizer": "optim opt",
    "train.schedule": "scheduler lr_schedule lr_scheduler",
    "train.warmup_steps": "warmup warmup_iters",
    "train.crop": "patch patch_size crop_size gt_size",
    "train.precision": "amp dtype mixed_precision",
    "train.gradient_clip": "clip grad_clip max_grad_norm gradient_clipping",
    "train.ema_half_life": "ema ema_decay",
    "train.zero_stage": "zero",
    "train.log_every": "log_interval print_freq",
    "train.validate_every": "val_every eval_every val_freq val_interval",
    "train.checkpoint_every": "save_every save_freq save_interval",
    "networks.scale": "scale upscale upscale_factor scale_factor sr_scale",
    "source": "input src images photos",
    "data": "dataset dataroot data_dir data_path train_data",
    "output": "out out_dir output_dir save_dir",
    "run.name": "run_name exp_name",
    "mlflow.uri": "tracking_uri",
    "seed": "random_seed manual_seed",
}
_MEANT = {alias: key for key, aliases in _ALIASES.items() for alias in aliases.split()}
_EPOCHS = tuple(alias for alias in _ALIASES["train.steps"].split() if "epoch" in alias)
#: The least similarity of a word to the one that was meant, as difflib measures it.
_SIMILAR = 0.75
_MOST = 3


def guess(name: str, valid: Sequence[str]) -> str:
    """Returns the end of a message about an unknown key: the key that was meant, else `--help`.

    Args:
        valid: the keys that exist.
    """
    found = known_elsewhere(name, valid) or _misspelt(name, valid)
    return did_you_mean(name, found) if found else ": see --help for the valid ones."


def did_you_mean(name: str, keys: Sequence[str]) -> str:
    """Returns the end of a message about an unknown key that proposes others."""
    steps = " Training is counted in steps, not in epochs." if _last(name) in _EPOCHS else ""
    return f": did you mean {listing(map(repr, keys), ' or ')}?{steps}"


def known_elsewhere(name: str, valid: Sequence[str]) -> list[str]:
    """Returns the keys that other projects call so, or that have the same last word elsewhere."""
    return _other_name(name, valid) or _same_end(name, valid)


def _other_name(name: str, valid: Sequence[str]) -> list[str]:
    """Returns the key of another project's name for it."""
    meant = _MEANT.get(_last(name))
    if meant is None:
        return []
    stage = name.split(".")[:2] if name.startswith("stages.") else []
    return [key for key in (".".join([*stage, meant]), meant) if key in valid][:1]


def _same_end(name: str, valid: Sequence[str]) -> list[str]:
    """Returns the keys whose last word is the same, those of single stages left out; none where
    they are too many to be a help."""
    parent, _, last = name.rpartition(".")
    if last in ("name", "type", "kind") and parent in valid:
        return [parent]
    found = [key for key in valid if _last(key) == last and not key.startswith("stages.")]
    return found if len(found) <= _MOST else []


def _misspelt(name: str, valid: Sequence[str]) -> list[str]:
    """Returns the key most similar to `name`, each of whose words is similar to the given one; else
    the one key whose last word is similar to a `name` of one word."""
    scores = {key: _similarity(name.split("."), key.split(".")) for key in valid}
    best = max(scores, key=lambda key: scores[key], default="")
    if scores.get(best):
        return [best]
    if "." in name:
        return []
    ends = [key for key in valid if not key.startswith("stages.")]
    close = difflib.get_close_matches(name, {_last(key) for key in ends}, n=1, cutoff=_SIMILAR)
    found = [key for key in ends if close and _last(key) == close[0]]
    return found if len(found) == 1 else []


def _similarity(given: Sequence[str], key: Sequence[str]) -> float:
    """Returns the mean similarity of the words; 0 where two of them are of different meaning.

    `given` may have more words than `key`: the key of an open mapping ends before its own keys.
    """
    if len(given) < len(key):
        return 0.0
    pairs = zip(given, key, strict=False)
    ratios = [difflib.SequenceMatcher(None, one, other).ratio() for one, other in pairs]
    return sum(ratios) / len(given) if min(ratios) >= _SIMILAR else 0.0


def _last(name: str) -> str:
    return name.rpartition(".")[2]
