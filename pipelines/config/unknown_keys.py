"""Refuses keys that the schema does not have, and names the keys that were probably meant."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, get_origin

from omegaconf import DictConfig, OmegaConf

from pipelines.config.guesses import did_you_mean, guess, known_elsewhere
from pipelines.config.wording import shown
from pipelines.errors import UserError


def refuse_unknown_keys(user: DictConfig, schema: DictConfig, where: str) -> None:
    """Refuses the keys of a user that are not the schema's, and values in place of groups of keys.

    Args:
        where: the place of the keys, for messages: "in mine.yaml".

    Raises:
        UserError: there is one.
    """
    _refuse_odd_names(user, where)
    valid = list(_leaves(schema))
    for name in _leaves(user):
        _refuse_unknown_key(name, user, schema, valid, where)


def _refuse_unknown_key(
    name: str, user: DictConfig, schema: DictConfig, valid: Sequence[str], where: str
) -> None:
    node: Any = schema
    for position, part in enumerate(name.split(".")):
        if not isinstance(node, DictConfig):
            meant = known_elsewhere(name, valid)
            above = ".".join(name.split(".")[:position])
            hint = did_you_mean(name, meant) if meant else f": '{above}' has no keys of its own."
            raise UserError(f"unknown key '{name}' {where}{hint}")
        if is_open(node):
            if not dataclasses.is_dataclass(node._metadata.element_type):
                return
            node = OmegaConf.structured(node._metadata.element_type)
            continue
        if part not in node:
            raise UserError(f"unknown key '{name}' {where}{guess(name, valid)}")
        node = node._get_node(part)
        if isinstance(node, DictConfig) and node._is_none():
            return
    given = OmegaConf.select(user, name, throw_on_missing=False)
    if isinstance(node, DictConfig) and len(node) and not isinstance(given, DictConfig):
        raise UserError(
            f"'{name}' {where} is a group of keys: set one of them, for example "
            f"'{name}.{next(iter(node))!s}'."
        )


def _refuse_odd_names(node: DictConfig, where: str) -> None:
    """Refuses keys that are no text, and those with dots: YAML nests its keys."""
    for name in node:
        if not isinstance(name, str) or not name.isprintable():
            raise UserError(f"unknown key {shown(name)} {where}: keys are words.")
        if "." in name:
            section, _, rest = name.partition(".")
            raise UserError(
                f"unknown key '{name}' {where}: YAML has no dots in keys; write {section}: "
                f"{{{rest}: …}}."
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
