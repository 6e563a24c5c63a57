"""Refuses keys that the schema does not have, and names the keys that were probably meant."""

import dataclasses
from collections.abc import Iterator
from typing import Any, get_origin

from omegaconf import DictConfig, ListConfig, OmegaConf

from pipelines.config.guesses import did_you_mean, guess, known_elsewhere
from pipelines.config.wording import expected, shown
from pipelines.errors import UserError, told


def refuse_unknown_keys(user: DictConfig, schema: DictConfig, where: str) -> None:
    """Refuses the keys of a user that are not the schema's, and values in place of groups of keys.

    Args:
        where: the place of the keys, for messages: "in mine.yaml".

    Raises:
        UserError: there is one.
    """
    _refuse_odd_names(user, where)
    for name in _leaves(user):
        _refuse_unknown_key(name, user, schema, where)


def _refuse_unknown_key(name: str, user: DictConfig, schema: DictConfig, where: str) -> None:
    node: Any = schema
    for position, part in enumerate(name.split(".")):
        if not isinstance(node, DictConfig):
            meant = known_elsewhere(name, list(_leaves(schema)))
            above = ".".join(name.split(".")[:position])
            hint = did_you_mean(name, meant) if meant else f": '{above}' has no keys of its own."
            raise UserError(f"unknown key '{told(name)}' {where}{hint}")
        if is_open(node):
            if not dataclasses.is_dataclass(node._metadata.element_type):
                return
            node = OmegaConf.structured(node._metadata.element_type)
            continue
        if part not in node:
            raise UserError(
                f"unknown key '{told(name)}' {where}{guess(name, list(_leaves(schema)))}"
            )
        node = node._get_node(part)
        if isinstance(node, DictConfig) and node._is_none():
            return
    given = OmegaConf.select(user, name, throw_on_missing=False)
    if isinstance(node, ListConfig) and isinstance(given, DictConfig):
        raise UserError(
            f"{name} is {shown(given)}, but must be {expected(node._metadata.ref_type)}."
        )
    if not isinstance(node, DictConfig) or isinstance(given, DictConfig):
        return
    if is_open(node):
        raise UserError(f"{name} is {shown(given)}, but must be a group of keys.")
    example = next((f"'{name}.{key!s}'" for key in node), None)
    remedy = (
        f"set one of them, for example {example}" if example else "leave it out, it is empty here"
    )
    raise UserError(f"'{name}' {where} is a group of keys: {remedy}.")


def refuse_other_kinds(user: DictConfig, base: DictConfig, where: str) -> None:
    """Refuses a list in place of a group of keys of the base, and the other way round.

    Args:
        where: the place of the keys, for messages.

    Raises:
        UserError: there is one.
    """
    for name in user:
        mine: Any = user._get_node(name)
        below: Any = base._get_node(name)
        if isinstance(mine, DictConfig) and isinstance(below, DictConfig):
            if not mine._is_none() and not below._is_none():
                refuse_other_kinds(mine, below, where)
        elif {type(mine), type(below)} == {DictConfig, ListConfig}:
            kind = "a group of keys" if isinstance(below, DictConfig) else "a list"
            key = told(mine._get_full_key(None))
            raise UserError(f"{key} {where} is {shown(mine)}, but must be {kind}.")


def _refuse_odd_names(node: DictConfig, where: str) -> None:
    """Refuses keys that are no text, and those with dots: YAML nests its keys."""
    for name in node:
        if not isinstance(name, str) or not name.isprintable():
            raise UserError(f"unknown key {shown(name)} {where}: keys are words.")
        if "." in name:
            section, _, rest = name.partition(".")
            raise UserError(
                f"unknown key '{told(name)}' {where}: YAML has no dots in keys; write "
                f"{told(section)}: {{{told(rest)}: …}}."
            )
        child: Any = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none():
            _refuse_odd_names(child, where)
        elif OmegaConf.is_missing(node, name):
            raise UserError(f"{child._get_full_key(None)} {where} is '???': give it a value.")


def is_open(node: DictConfig) -> bool:
    """Returns True where the schema says what the values of a mapping are, and not its keys."""
    return get_origin(node._metadata.ref_type) is dict


def _leaves(node: Any, prefix: str = "") -> Iterator[str]:
    for name in node:
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none() and len(child):
            yield from _leaves(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
