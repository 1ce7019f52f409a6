"""A bench as CI servers want it: annotations, outputs, a summary. Names in it are untrusted."""

from __future__ import annotations

from mpo.errors import MpoError
from mpo.records import Bench, BenchComparison
from mpo.render.bench import change_text, markdown, reason_text, rules_of
from mpo.render.names import clean, shorten

MOST_ANNOTATIONS = 10  # GitHub shows no more of a kind for a step
SUMMARY_BYTES = 900_000  # GitHub refuses 1 MiB
LONGEST = 400


def command_data(text: str) -> str:
    """A text as the message of a workflow command: nothing in it starts a command of its own."""
    return clean(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def command_property(text: str) -> str:
    """A text as a property of a workflow command."""
    return command_data(text).replace(":", "%3A").replace(",", "%2C")


def workflow_commands(bench: Bench) -> tuple[str, ...]:
    """Workflow commands: an error for each regression, a warning for each open question; ten of a
    kind at most, the last of which says how many more there are."""
    strict = bench.strict
    failed = [one for one in rules_of(bench) if one.verdict == "fail"]
    unsure = [one for one in rules_of(bench) if one.verdict == "inconclusive"]
    name = shorten(bench.subjects[0].path, 60)
    lines = [("error", one) for one in failed]
    lines += [("error" if strict else "warning", one) for one in unsure]
    return tuple(
        command
        for kind in ("error", "warning")
        for command in _capped(kind, [one for level, one in lines if level == kind], name)
    )


def _capped(kind: str, gated: list[BenchComparison], name: str) -> list[str]:
    shown = gated if len(gated) <= MOST_ANNOTATIONS else gated[: MOST_ANNOTATIONS - 1]
    lines = [
        _command(
            kind,
            f"{one.rule} {'failed' if one.verdict == 'fail' else 'is inconclusive'}",
            f"{name}: {change_text(one)}{f' on {one.target}' if one.target else ''}; "
            f"{reason_text(one)}",
        )
        for one in shown
    ]
    if len(shown) < len(gated):
        more = len(gated) - len(shown)
        lines.append(_command(kind, f"{more} more rules", "The step summary has all of them."))
    return lines


def error_annotation(error: MpoError) -> str:
    """The workflow command for a bench that could not measure."""
    return _command("error", "mpo bench could not measure", f"{error.message} {error.hint}")


def _command(kind: str, title: str, message: str) -> str:
    return (
        f"::{kind} title={command_property(shorten(title, LONGEST))}::"
        f"{command_data(shorten(message, LONGEST))}"
    )


def outputs(bench: Bench, report: str, token: str) -> str:
    """What is appended to $GITHUB_OUTPUT.

    Args:
        report: path of the JSON record, or "".
        token: random; no value can end another early with a delimiter that it cannot know.
    """
    values = {"verdict": bench.verdict, "exit_code": str(bench.exit_code), "report": report}
    delimiter = f"mpo_{token}"
    return "".join(
        f"{name}<<{delimiter}\n{clean(value)}\n{delimiter}\n" for name, value in values.items()
    )


def summary(bench: Bench) -> str:
    """Markdown for $GITHUB_STEP_SUMMARY, short enough to be taken."""
    return cut(markdown(bench))


def cut(text: str, most: int = SUMMARY_BYTES) -> str:
    """At most so many bytes, whole lines; a note says when something is missing."""
    raw = text.encode()
    if len(raw) <= most:
        return text
    note = "\n\nThe rest is too long for a step summary; the JSON record has it.\n"
    kept = raw[: most - len(note.encode())].decode(errors="ignore")
    return kept.rsplit("\n", 1)[0] + note
