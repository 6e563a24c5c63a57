"""Reads and writes the arguments of a job, `key=value`; says how to write those of another form."""

import math
import re
from collections.abc import Sequence
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from pipelines.config.wording import TOO_DEEP, UNREADABLE, shown
from pipelines.errors import UserError, told

#: What YAML 1.1 reads as octal numbers and as base 60, and nobody means.
_OCTAL, _BASE_60 = re.compile(r"[-+]?0[0-7_]+"), re.compile(r"[-+]?[1-9][\d_]*(:[0-5]?\d)+")
_FORM = "arguments are key=value, --dry-run or --help"


def read_arguments(arguments: Sequence[str]) -> DictConfig:
    """Returns the values of `key=value` arguments.

    Raises:
        UserError: an argument has another form, or its value is no YAML.
    """
    config = OmegaConf.create()
    for number, argument in enumerate(arguments):
        _check_form(argument, arguments[number + 1 : number + 2])
        _check_number(argument)
        try:
            config.merge_with_dotlist([argument])
        except RecursionError:
            raise UserError(TOO_DEEP) from None
        except UNREADABLE:
            raise UserError(
                f"cannot read {shown(argument)}: write KEY=VALUE, where VALUE is YAML in one line, "
                "such as 5, text, [1,2] or '\"quoted text\"'."
            ) from None
    return config


def written(value: Any) -> str:
    """Returns the value as the command line takes it: YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _check_number(argument: str) -> None:
    """Refuses a number that YAML would take for another one."""
    name, _, value = argument.partition("=")
    number = value.strip()
    as_text = f"{told(name)}='\"{told(number)}\"' for the text"
    if _OCTAL.fullmatch(number):
        digits = number.replace("_", "").lstrip("+-0") or "0"
        sign = "-" if number.startswith("-") else ""
        meant = f"{told(name)}={sign}{told(digits)} for the number, or {as_text}"
    elif _BASE_60.fullmatch(number):
        meant = as_text
    else:
        return
    raise UserError(f"{shown(argument)} would be another number to YAML: write {meant}.")


def _check_form(argument: str, following: Sequence[str]) -> None:
    """Refuses what is not `key=value`, with the form that was meant.

    Args:
        following: the next argument, if there is one: the value in the form of other programs.
    """
    name, equals, value = argument.partition("=")
    bare = name.lstrip("-")
    if equals and bare and bare == name:
        return
    if argument.startswith("-") and bare.replace("_", "-") in ("dry-run", "dryrun"):
        meant = "--dry-run or --dry-run=full"
    elif bare and equals:
        meant = f"{bare}={value}"
    elif bare and following and "=" not in following[0] and not following[0].startswith("-"):
        meant = f"{bare}={following[0]}"
    else:
        raise UserError(f"cannot read {shown(argument)}: {_FORM}.")
    raise UserError(f"cannot read {shown(argument)}: {_FORM}; write {meant}.")
