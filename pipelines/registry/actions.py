"""Runs the actions of jobs/register.py: register, promote, rollback, history and verify."""

from collections.abc import Callable
from itertools import pairwise

from pipelines import tracking
from pipelines.config.reference import Kind, ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError, listing
from pipelines.models.bundle import load_bundle
from pipelines.models.load import CHAMPION, fetch, registered_version
from pipelines.registry import register
from pipelines.registry.moves import PROMOTE, ROLLBACK, Move, Moves, champion_before


def plan(config: Config) -> str:
    """Returns what the action would do, in words.

    Raises:
        UserError: it cannot work.
    """
    action = _chosen(config)
    if action == "register":
        return register.plan(config)
    place = f"'{config.mlflow.model}' at {tracking.tracking_uri(config.mlflow)}"
    if action == "promote":
        return f"make {_wanted(config)} the champion of {place}"
    if action == "rollback":
        moves = config.register.back
        return f"take back the last {moves} {'move' if moves == 1 else 'moves'} of {place}"
    return {
        "history": f"print the moves of the champion of {place}",
        "verify": f"check history, aliases and champion of {place}",
    }[action]


def run(config: Config) -> str | None:
    """Does what `action` says; returns the version that it was about, if there is one.

    Raises:
        UserError: it cannot be done, or `verify` found something wrong.
        NotPromotedError: the gate refused the version that was registered.
    """
    actions: dict[str, Callable[[Config], str | None]] = {
        "register": _register,
        "promote": _promote,
        "rollback": _rollback,
        "history": _history,
        "verify": _verify,
    }
    return actions[_chosen(config)](config)


def _chosen(config: Config) -> str:
    if config.action == "retrain":
        raise UserError(
            "action=retrain is one of jobs/retrain.py: use register, promote, rollback, history or "
            "verify."
        )
    return config.action or "register"


def _register(config: Config) -> str:
    version = register.run(config)
    register.check_promoted(config, version)
    return version


def _promote(config: Config) -> str:
    reference = _wanted(config)
    version = registered_version(reference, config.mlflow).version
    assert version is not None
    moves = _moves(config)
    current, seen = moves.settle()
    if current == version:
        print(f"Nothing to do: {moves.name}@{CHAMPION} is version {version} already.")
        return version
    _move(moves, PROMOTE, version, config.register.reason or "somebody said so", seen)
    return version


def _rollback(config: Config) -> str:
    moves, back = _moves(config), config.register.back
    _, seen = moves.settle()
    version = champion_before(seen, back)
    if version is None:
        raise UserError(
            f"{moves.name} had no champion {back} {'move' if back == 1 else 'moves'} ago: "
            "jobs/register.py action=history lists them."
        )
    _move(moves, ROLLBACK, version, config.register.reason or f"back by {back}", seen)
    return version


def _move(moves: Moves, kind: str, version: str, reason: str, seen: list[Move]) -> None:
    if not moves.add(kind, version, reason, seen):
        raise UserError(
            f"another job has moved {moves.name}@{CHAMPION} at the same time: look at "
            "jobs/register.py action=history, and start this again if you still want it."
        )
    print(f"Champion: {moves.name}@{CHAMPION} is version {version} ({reason}).")


def _history(config: Config) -> None:
    moves = _moves(config)
    found = moves.all()
    if not found:
        print(f"{moves.name} has had no moves yet.")
    for move in found:
        print(
            f"{move.when}  {move.kind:<8}  {move.before or 'none'} → {move.to or 'none'}  "
            f"{move.who}: {move.reason}"
        )


def _verify(config: Config) -> str | None:
    moves, wrong = _moves(config), []
    found = moves.all()
    alias = moves.alias(CHAMPION)
    if found and found[-1].to != alias:
        wrong.append(
            f"{CHAMPION} is version {alias or 'none'}, but the last move made it "
            f"{found[-1].to or 'none'} (the next jobs/register.py mends that)"
        )
    for move, after in pairwise(found):
        if after.before != move.to:
            wrong.append(f"move {after.number} began at {after.before}, not at {move.to}")
    if alias is not None:
        wrong += _wrong_with(config, moves, alias)
    if wrong:
        raise UserError(f"{moves.name} is not as it should be: {listing(wrong, '; ')}.")
    print(f"{moves.name}: {len(found)} moves, champion {alias or 'none'}: all is well.")
    return alias


def _wrong_with(config: Config, moves: Moves, version: str) -> list[str]:
    """Returns what is wrong with the bundle of a version."""
    reference = ModelReference(Kind.REGISTRY, moves.name, version=version)
    try:
        digest = load_bundle(fetch(reference, config.mlflow)).digest
    except UserError as error:
        return [f"version {version}: {error}"]
    tag = moves.client.get_model_version(moves.name, version).tags.get(register.BUNDLE_TAG)
    return [] if tag == digest else [f"version {version} holds another bundle than was registered"]


def _moves(config: Config) -> Moves:
    client, name = tracking.connect(config.mlflow), config.mlflow.model
    assert name is not None
    if tracking.lookup(client.get_registered_model, name) is None:
        raise UserError(
            f"there is no model '{name}' at {tracking.tracking_uri(config.mlflow)}: "
            "register a bundle first, or set mlflow.model."
        )
    return Moves(client, name)


def _wanted(config: Config) -> ModelReference:
    """Returns the version that `model` names.

    Raises:
        UserError: it names none of this model.
    """
    name = config.mlflow.model
    reference = ModelReference.parse(config.model) if config.model else None
    if reference is None or reference.kind is not Kind.REGISTRY or reference.name != name:
        raise UserError(f"action=promote needs a version: set model=models:/{name}/NUMBER.")
    return reference
