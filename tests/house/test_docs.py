"""The documents: links lead somewhere, every command and example is told of, none is stale."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
BUILT = {".venv", "build", "runs", "data", ".git", "node_modules"}


def documents(root: Path) -> Iterator[Path]:
    """Every Markdown file of the checkout, linked folders left out."""
    for path in sorted(root.rglob("*.md")):
        inside = path.relative_to(root)
        hidden = any(part.startswith(".") for part in inside.parts[:-1])
        linked = any(parent.is_symlink() for parent in path.parents)
        if not hidden and not linked and inside.parts[0] not in BUILT:
            yield path


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    heads = re.findall(r"^#+ +(.+?)\s*$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_link_between_documents_leads_somewhere(root: Path) -> None:
    broken = []
    for path in documents(root):
        text = CODE.sub("", FENCE.sub("", path.read_text()))
        for found in LINK.finditer(text):
            target = found[1] or found[2]
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            place = (path.parent / file).resolve() if file else path
            gone = not place.exists()
            if not gone and anchor and place.suffix == ".md":
                gone = anchor not in anchors(place.read_text())
            if gone:
                broken.append(f"{path.relative_to(root)}: {target}")
    assert not broken, "\n".join(broken)


def test_the_links_to_other_sites_are_secure(root: Path) -> None:
    plain = [
        str(path.relative_to(root)) for path in documents(root) if "](http://" in path.read_text()
    ]
    assert not plain


def test_the_readme_tells_of_every_example(root: Path) -> None:
    readme = (root / "README.md").read_text()
    for subject in sorted((root / "examples").glob("*/subject.py")):
        name = subject.parent.name
        assert f"examples/{name}/README.md" in readme, name
        assert (subject.parent / "README.md").is_file()


def test_make_help_lists_every_target(root: Path) -> None:
    makefile = (root / "Makefile").read_text()
    declared = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert declared is not None
    told = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert set(declared[1].split()) == told


def test_the_documents_name_only_targets_that_exist(root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    for path in documents(root):
        named = set(re.findall(r"(?:`|^)make ([a-z-]+)", path.read_text(), re.MULTILINE))
        assert named <= targets, path.name


@pytest.fixture
def generator(root: Path) -> ModuleType:
    """docs/generate.py as a module."""
    if importlib.util.find_spec("mpo.cli") is None:
        pytest.skip("mpo.cli is not there yet")
    spec = importlib.util.spec_from_file_location("generate", root / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_reference_is_what_the_program_says(root: Path, generator: ModuleType) -> None:
    written = root / "docs" / "cli.md"
    assert written.is_file(), "run: make docs"
    assert written.read_text() == generator.reference(), "run: make docs"


def test_every_command_and_option_has_help(generator: ModuleType) -> None:
    for context in generator.contexts(generator.cli, "mpo"):
        assert context.command.help, context.command_path
        for parameter in context.command.params:
            if parameter.param_type_name == "option":
                assert getattr(parameter, "help", None), f"{context.command_path} {parameter.name}"


def test_the_readme_tells_of_every_command(root: Path, generator: ModuleType) -> None:
    readme = (root / "README.md").read_text()
    for context in generator.contexts(generator.cli, "mpo"):
        if context.parent is not None:
            assert context.command_path in readme, context.command_path
