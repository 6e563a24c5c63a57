"""Renders pages for people: one HTML file each, which needs no network and no other file."""

import base64
from importlib import resources
from typing import Any

from pipelines.evaluation.pictures import Pixels, encode


def render_page(template: str, **values: Any) -> str:
    """Returns the page that a template of this room makes of values.

    Args:
        template: the name of a file that extends `page.html.j2`, which holds the styles, and the
            script that lays two of a row's pictures over each other.
    """
    from jinja2 import Environment, FunctionLoader

    folder = resources.files("pipelines.evaluation")
    loader = FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8"))
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(**values)


def embedded(image: Pixels) -> str:
    """Returns a picture as a lossless WebP in base64."""
    return base64.b64encode(encode(image, "WEBP")).decode()
