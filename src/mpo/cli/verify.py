"""`mpo verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import click

from mpo.cli.options import answer_options
from mpo.cli.running import run
from mpo.cli.showing import console

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("bundle", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--key", type=PATH, help="The public key that must have signed it.")
@click.option("--identity", default="", help="Who must have signed it without a key (Sigstore).")
@click.option("--issuer", default="", help="Who vouches for --identity: an OpenID Connect issuer.")
@click.option(
    "--require-signature", "required", is_flag=True, help="Refuse without a signature that holds."
)
@click.option("--state", type=PATH, help="File of the highest versions seen; your own by default.")
@click.option("--allow-downgrade", is_flag=True, help="Take a version older than one seen.")
@answer_options
def verify(bundle: Path, quiet: bool, verbose: bool, as_json: bool, **policy: Any) -> NoReturn:
    """Check that every byte of the bundle FILE is what its manifest says, and that its signature
    holds where a key is named or one is required (exit code 8 when not). Nothing in it is run."""

    def work() -> int:
        from mpo.bundle.signing import Policy
        from mpo.bundle.whole import verify as check
        from mpo.render.card import bundle_table

        found = check(bundle, Policy(**policy))
        if as_json:
            click.echo(found.model_dump_json(indent=1))
        elif not quiet:
            program = "this mpo's" if found.same_runtime else "of another version: not this mpo's"
            facts = {"digest": found.digest, "signature": found.signature, "program": program}
            console().print(bundle_table(found.manifest, {**facts, "verdict": "whole"}))
        return 0

    run(work, verbose=verbose, as_json=as_json)
