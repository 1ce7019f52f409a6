"""Write docs/cli.md from the command line itself and docs/faults.md from the tests' marks.

`make docs`, or `python docs/generate.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from mpo.cli import cli

TARGET = Path(__file__).resolve().parent / "cli.md"
WIDTH = 96
HEAD = """# The command line

Written by `make docs` from the program's own help; do not edit.
"""


def contexts(
    command: click.Command, name: str, parent: click.Context | None = None
) -> Iterator[click.Context]:
    """The command and its subcommands in order of name, each with its full path."""
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield context
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                yield from contexts(found, child, context)


def reference() -> str:
    """The text of docs/cli.md."""
    parts = [HEAD]
    for context in contexts(cli, "mpo"):
        parts.append(f"## `{context.command_path}`\n\n```text\n{context.get_help()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    from faults import marked, table

    TARGET.write_text(reference(), encoding="utf-8")
    TARGET.with_name("faults.md").write_text(table(marked()), encoding="utf-8")
    click.echo(f"docs: wrote {TARGET.name} and faults.md")
