"""The configuration keys that errors name, read from the source of pipelines/."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pipelines.config.load import documented_keys
from tests.conftest import ROOT

KEYS = {key for key, _, _ in documented_keys()}
#: A key with its section; `key=`, and `set key to`, for one without a section.
_NAMED = re.compile(r"\b([a-z]\w*(?:\.[a-z]\w*)+)\b|(?<![\w.])([a-z]\w*)(?:=| to s3://)")


def mentioned(module: str) -> dict[str, str]:
    """The keys that the errors of a module name, each with a sentence.

    The part of a sentence that names the file of a job (`jobs/…`) speaks of that job's keys.
    """
    found = {}
    for sentence in _sentences(module):
        for part in re.split(r"[:;,] ", sentence):
            names = {dotted or plain for dotted, plain in _NAMED.findall(part)}
            if "jobs/" not in part:
                found |= dict.fromkeys(names & KEYS, sentence)
    return found


@cache
def _sentences(module: str) -> tuple[str, ...]:
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return tuple(_in_errors(path))


def _in_errors(path: Path) -> Iterator[str]:
    """The texts of errors, and of the constants that errors take their remedies from."""
    for node in ast.walk(ast.parse(path.read_text())):
        is_error = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error")
        is_remedy = isinstance(node, ast.Assign) and "REMEDY" in ast.unparse(node.targets[0])
        if is_error or is_remedy:
            parts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
            yield "".join(part for part in parts if isinstance(part, str))
