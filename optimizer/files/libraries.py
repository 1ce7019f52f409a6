"""Models of libraries that mpo itself does not need: transformers, timm. Nothing is downloaded."""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from mpo.errors import UsageError
from mpo.optimizer.ground.usercode import first_line


def timm(name: str) -> Callable[[], nn.Module]:
    """What builds an architecture of timm, with random weights: a file with trained ones is loaded
    into it.

    Raises:
        UsageError: no timm, one that cannot be imported, or no such architecture.
    """
    try:
        library = importlib.import_module("timm")
    except ImportError as error:
        raise UsageError(
            f"timm: needs timm, which cannot be imported: {error}.",
            hint="pip install timm, with the torchvision that belongs to your torch.",
        ) from error
    except Exception as error:
        # torchvision built for another torch raises RuntimeError while it is imported
        raise UsageError(
            f"timm cannot be imported: {type(error).__name__}: {first_line(error)}.",
            hint="Install the torchvision that belongs to your torch.",
        ) from error
    if not library.is_model(name):
        near = difflib.get_close_matches(name, library.list_models(), 3)
        raise UsageError(
            f"timm has no architecture {name!r}.",
            hint=f"Did you mean {', '.join(near)}?" if near else "timm.list_models() names them.",
        )
    return lambda: library.create_model(name, pretrained=False)


def hugging_face(folder: Path) -> Callable[[], Any]:
    """What builds the model of a local Hugging Face folder.

    Raises:
        UsageError: no such folder, no transformers, or one that does not know the architecture.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise UsageError(
            f"{folder} holds no config.json.", hint="Give a folder made by save_pretrained()."
        )
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise UsageError(
            "hf: needs transformers, which is not installed.",
            hint="pip install 'mpo-optimizer[hf]'",
        ) from error
    try:
        names = json.loads(config.read_text()).get("architectures") or ["AutoModel"]
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{config} is no JSON object: {error}.", hint="Save it again.") from error
    architecture = getattr(transformers, names[0], None)
    if architecture is None:
        raise UsageError(
            f"transformers has no {names[0]}, which {config} names.",
            hint="Install a transformers that has it, or write a subject file.",
        )
    return lambda: _pretrained(architecture, folder)


def _pretrained(architecture: Any, folder: Path) -> Any:
    """The folder's model, without a progress bar of transformers' own for each time it is built."""
    bars = importlib.import_module("transformers.utils.logging")
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        return architecture.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    finally:
        if shown:
            bars.enable_progress_bar()
