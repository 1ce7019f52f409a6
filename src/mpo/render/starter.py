"""The files that `mpo init` writes: a subject to fill in and a recipe to start from."""

from __future__ import annotations

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent
PLACE = "your_package.models:build"


def starter(subject: str, recipe: str, factory: str | None = None) -> dict[str, str]:
    """The texts by file name.

    Args:
        subject: name of the subject file.
        recipe: name of the recipe file.
        factory: PACKAGE.MODULE:FACTORY that builds the network; a place to fill in when None.
    """
    module, _, name = (factory or PLACE).partition(":")
    pages = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True,
        autoescape=False,
    )  # fmt: skip
    known = {"module": module, "factory": name, "given": factory is not None}
    return {
        subject: pages.get_template("subject.py.jinja").render(name=subject, **known),
        recipe: pages.get_template("mpo.toml.jinja").render(
            name=recipe, subject=json.dumps(subject)
        ),
    }
