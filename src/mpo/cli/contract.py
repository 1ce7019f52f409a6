"""`mpo contract`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mpo.cli.options import answer_options, with_options
from mpo.cli.running import run
from mpo.cli.showing import console

if TYPE_CHECKING:
    from mpo.pipeline.contract.claims import Terms
    from mpo.records import Contract

FILE = click.Path(path_type=Path, dir_okay=False)
STRATA = ("overall", "region", "class")


def term_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what a contract claims."""
    options = (
        click.option("--tau", type=float, help="Largest top-two margin of the boundary region."),
        click.option(
            "--mass", help="Share of inputs that the region is to hold, without --tau (10%)."
        ),
        click.option(
            "--eps",
            multiple=True,
            help="Share of decisions that may differ (5%); region=10%, class=... for one stratum.",
        ),
        click.option(
            "--confidence",
            type=float,
            default=0.95,
            show_default=True,
            help="That no verdict is wrong.",
        ),
        click.option(
            "--claims",
            default=",".join(STRATA),
            show_default=True,
            help="What is claimed; commas between.",
        ),
    )
    return with_options(command, options)


@click.command()
@click.argument("original")
@click.argument("candidate")
@click.option("--data", help="Subject with data(); the models' own by default.")
@term_options
@click.option(
    "--looks",
    type=click.IntRange(1, 20),
    default=1,
    show_default=True,
    help="Seek a verdict so often while samples come in; they share the error probability.",
)
@click.option(
    "--look",
    type=click.IntRange(0),
    default=0,
    help="This is look number N at data that grow without a plan; it spends 1/(N(N+1)).",
)
@click.option(
    "--tolerance",
    default="5%",
    show_default=True,
    help="Of values: a number, or a share of their spread.",
)
@click.option("--split-at", type=float, help="One value an example decides by its side of this.")
@click.option("--mine", is_flag=True, help="Search for inputs that both decide differently.")
@click.option(
    "--radius",
    default="10%",
    show_default=True,
    help="Of the search, as a share of the inputs' range.",
)
@click.option(
    "--witnesses",
    type=FILE,
    default=Path("witnesses.npz"),
    show_default=True,
    help="Where found inputs are saved.",
)
@click.option("--strict", is_flag=True, help="An undecided contract fails too (exit 5).")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything drawn.")
@click.option("--html", type=FILE, help="Write the page to this file.")
@answer_options
def contract(
    original: str, candidate: str, quiet: bool, verbose: bool, as_json: bool, **options: Any
) -> NoReturn:
    """Does CANDIDATE decide as ORIGINAL does? A bound, or witnesses.

    Both are a subject, a run folder (its pruned model), an ONNX file, a bundle; CANDIDATE may also
    be weights for ORIGINAL's factory. Exit codes: 0 kept (or undecided), 4 broken, 5 undecided with
    --strict.
    """

    def work() -> int:
        from mpo.pipeline.contract.comparing import make_contract
        from mpo.pipeline.contract.scene import Asked
        from mpo.pipeline.run.steady import steady_torch
        from mpo.progress import Bars, prints_to_stderr
        from mpo.render.contract import terminal
        from mpo.units import parse_share

        asked = Asked(
            original=original,
            candidate=candidate,
            data=options["data"],
            terms=terms_of(options),
            seed=options["seed"],
            strict=options["strict"],
            mine=options["mine"],
            radius=parse_share(options["radius"]),
            witnesses=options["witnesses"],
        )
        with prints_to_stderr(), steady_torch(), Bars(quiet=quiet or as_json) as bars:
            record = make_contract(asked, bars)
        if options["html"] is not None:
            write_page(record, options["html"])
        if as_json:
            click.echo(record.model_dump_json(indent=1))
        elif not quiet:
            console().print(terminal(record))
        return record.exit_code

    run(work, verbose=verbose, as_json=as_json)


def write_page(record: Contract, path: Path) -> None:
    """The contract's own page."""
    from mpo.files import writable, write_atomic
    from mpo.render.contracthtml import page

    with writable(path):
        write_atomic(path, page(record))


def terms_of(options: dict[str, Any]) -> Terms:
    """The terms that these options come to."""
    from mpo.errors import UsageError
    from mpo.pipeline.contract.claims import make_terms
    from mpo.units import parse_share

    if options["tau"] is not None and options["mass"] is not None:
        raise UsageError("--tau and --mass both set the region.", hint="Give one of them.")
    return make_terms(
        eps=options["eps"],
        strata=tuple(part.strip() for part in options["claims"].split(",") if part.strip()),
        confidence=options["confidence"],
        tau=options["tau"],
        mass=parse_share(options["mass"] or "10%"),
        looks=options.get("looks", 1),
        look=options.get("look", 0),
        tolerance=options.get("tolerance", "5%"),
        split_at=options.get("split_at"),
    )
