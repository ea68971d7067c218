"""The command that learns: a process of its own, beside the gateway."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Annotated

import typer

from pointsman.cli.app import UNMET, app
from pointsman.cli.gateway import Config, check_extra, settings_file
from pointsman.cli.options import Json
from pointsman.cli.show import print_json


@app.command(epilog="Example: pointsman learn --config pointsman.yaml")
def learn(
    config: Config = Path("pointsman.yaml"),
    once: Annotated[bool, typer.Option("--once", help="Learn the feedback that is there, and stop.")] = False,
    refit: Annotated[
        bool, typer.Option("--refit", help="Fit to the log now, promote the router if it passes the gate, and stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Learn from feedback while the gateway serves, and refit on schedule; exit code 1 where a refit does not pass."""
    check_extra()
    file = settings_file(config)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if not refit:
        from pointsman.gateway.learn.worker import run_until_told

        run_until_told(file, once=once)
        return
    from pointsman.gateway.learn.refit import refit as fit_anew
    from pointsman.gateway.routing import open_registry
    from pointsman.logs.store import open_store
    from pointsman.pipeline.rounds import json_ready

    with open_store(file.settings.store.url.get_secret_value()) as store:
        outcome = fit_anew(open_registry(file.settings), store, file.settings)
    if as_json:
        print_json(json_ready(dataclasses.asdict(outcome)))
    else:
        typer.echo(
            f"{outcome.version or 'nothing'} {'serves' if outcome.is_promoted else 'does not serve'}: {outcome.why}"
        )
    if not outcome.is_promoted:
        raise typer.Exit(UNMET)
