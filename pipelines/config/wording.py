"""Says the errors of OmegaConf and YAML in the words of our keys: name, value, what is expected."""

import dataclasses
import reprlib
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    ConfigCycleDetectedException,
    GrammarParseError,
    InterpolationResolutionError,
    InterpolationValidationError,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
    ValidationError,
)

from pipelines.errors import UserError, redacted

_WORDS = {
    int: ("a whole number", "whole numbers, such as [1,2]"),
    float: ("a number", "numbers, such as [0.5,1]"),
    bool: ("true or false", "true and false"),
    str: ("text", "names, such as [a,b]"),
}


class _Short(reprlib.Repr):
    """Cuts long values short, after it has taken the passwords out: a cut hides where one ends."""

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(redacted(x), level)


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = 80
TOO_DEEP = (
    "the configuration is nested too deeply to be read: write a recipe of a few levels, such as "
    "those in pipelines/recipes."
)
#: The errors of reading YAML: its constructors of tagged values raise any of them.
UNREADABLE = (
    OmegaConfBaseException,
    yaml.YAMLError,
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turns the errors of OmegaConf inside the block into UserErrors of one sentence."""
    try:
        yield
    except OmegaConfBaseException as error:
        raise UserError(_sentence(error)) from None
    except RecursionError:
        raise UserError(TOO_DEEP) from None


def shown(value: Any) -> str:
    """Returns a value as a message shows it: quoted, in one line, and cut short if it is long."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"  # Python refuses to write out the longest ones
    return _SHORT.repr(_plain(value))


def yaml_reason(error: Exception) -> str:
    """Returns in words why a file is no YAML of ours, with the line if it is known."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return (str(error) or type(error).__name__).splitlines()[0]


def expected(hint: Any) -> str:
    """Returns the words for a type of the schema, such as "a whole number"."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        [inner] = [argument for argument in arguments if argument is not type(None)]
        return f"{expected(inner)}, or null"
    if origin is list:
        return f"a list of {_WORDS[arguments[0]][1]}" if arguments[0] in _WORDS else "a list"
    if hint in _WORDS:
        return _WORDS[hint][0]
    return "a group of keys" if origin is dict or dataclasses.is_dataclass(hint) else "another type"


def _sentence(error: OmegaConfBaseException) -> str:
    key = error.full_key or "the configuration"
    if isinstance(error, UnsupportedInterpolationType):
        return (
            f"{key} is {_given(error)}: a configuration refers to its own keys alone, never to the "
            "environment, since checkpoints and bundles keep it; write the value itself."
        )
    if isinstance(error, ValidationError | InterpolationValidationError):
        hint = _hint(error)
        if hint is not None:
            return f"{key} is {_given(error)}, but must be {expected(hint)}."
    if isinstance(error, InterpolationResolutionError | ConfigCycleDetectedException):
        return (
            f"{key} is {_given(error)}, which leads to no value: write the value itself, or "
            "${KEY} with the full name of a key."
        )
    if isinstance(error, GrammarParseError):
        return (
            f"{key} holds '${{' and no key after it: write ${{KEY}}, or \\${{ for the characters."
        )
    return f"{key} cannot be read: correct its value, or leave the key out."


def _hint(error: OmegaConfBaseException) -> Any | None:
    """Returns the type that the schema gives to the key of an error; None where it gives none."""
    parent, key = error.parent_node, error.key
    if isinstance(parent, ListConfig):
        return parent._metadata.element_type
    if not isinstance(parent, DictConfig):
        return None
    if dataclasses.is_dataclass(parent._metadata.object_type):
        return get_type_hints(parent._metadata.object_type).get(str(key))
    return parent._metadata.element_type


def _given(error: OmegaConfBaseException) -> str:
    """Returns the value that the user wrote; an interpolation stays as it is written."""
    if not isinstance(error, InterpolationResolutionError):
        return shown(error.value)
    # The error's own node is the nearest one that could be resolved.
    node: Any = error.parent_node._get_root() if error.parent_node is not None else None
    for part in (error.full_key or "").split("."):
        name = part.partition("[")[0]
        node = node._get_node(name) if isinstance(node, DictConfig) else None
    return "a reference" if node is None else shown(node if name != part else node._value())


def _plain(value: Any) -> Any:
    """Returns OmegaConf's containers as lists and dicts."""
    is_container = isinstance(value, DictConfig | ListConfig)
    return OmegaConf.to_container(value, resolve=False) if is_container else value
