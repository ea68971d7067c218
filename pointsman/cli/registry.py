"""Commands over versions of routers: which there are, which one decides, and in what they differ."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pointsman.cli.app import app
from pointsman.cli.options import Json
from pointsman.cli.show import grid, make_console, number, print_json

if TYPE_CHECKING:
    from pointsman.versions import Registry

registry = typer.Typer(
    name="registry",
    help="Versions of routers: which decides, which is on trial, and how it came to be so.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(registry)

Folder = Annotated[Path, typer.Argument(metavar="REGISTRY", help="Folder of versioned routers.")]
VersionName = Annotated[str, typer.Argument(metavar="VERSION", help="A version, or how its name begins.")]
OrNone = Annotated[
    str | None, typer.Argument(metavar="[VERSION]", help="A version, or how its name begins; none where left out.")
]
Why = Annotated[str, typer.Option("--why", help="What the history says of it.")]
MOST_SHOWN = 20


@registry.command("list", epilog="Example: pointsman registry list pointsman.db.routers")
def list_versions(folder: Folder, as_json: Json = False) -> None:
    """List the versions with their roles, and what was done last."""
    import dataclasses

    from pointsman.versions import Registry

    roles = Registry(folder).roles()
    if as_json:
        print_json(dataclasses.asdict(roles) | {"deciding": roles.deciding})
        return
    console = make_console()
    rows = [
        [name, ", ".join(roles.of(name)) or "-", _time(noted.added_at), noted.why]
        for name, noted in roles.versions.items()
    ]
    console.print(grid("version", "role", "added", "why", rows=rows))
    for event in roles.history[-MOST_SHOWN:]:
        why = f": {event.why}" if event.why else ""
        console.print(f"{_time(event.at)} {event.what} {event.version or ''}{why}", markup=False)
    console.print(f"{roles.deciding or 'nothing'} decides", style="bold")


@registry.command(epilog="Example: pointsman registry add pointsman.db.routers router")
def add(
    folder: Folder,
    router: Annotated[Path, typer.Argument(metavar="ROUTER", help="Router folder.")],
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Keep a router as a version; it decides nothing until it is promoted."""
    from pointsman.registry import load_router

    _change(folder, as_json, lambda them: them.add(load_router(router), why=why or f"from {router}"), "kept")


@registry.command(epilog="Example: pointsman registry promote pointsman.db.routers 3f2a")
def promote(folder: Folder, version: VersionName, why: Why = "by hand", as_json: Json = False) -> None:
    """Have a version decide from now on; gateways follow within seconds."""
    _change(folder, as_json, lambda them: them.promote(version, why=why), "promoted")


@registry.command(epilog="Example: pointsman registry rollback pointsman.db.routers")
def rollback(folder: Folder, why: Why = "by hand", as_json: Json = False) -> None:
    """Return to the version before the current one; a second time undoes the first."""
    _change(folder, as_json, lambda them: them.roll_back(why=why), "current again")


@registry.command(epilog="Example: pointsman registry pin pointsman.db.routers 3f2a")
def pin(folder: Folder, version: OrNone = None, why: Why = "by hand", as_json: Json = False) -> None:
    """Have a version decide as it was added, whatever is promoted or learned; without one, unpin."""
    _change(folder, as_json, lambda them: them.pin(version, why=why), "pinned")


@registry.command(epilog="Example: pointsman registry shadow pointsman.db.routers 3f2a")
def shadow(folder: Folder, version: OrNone = None, why: Why = "by hand", as_json: Json = False) -> None:
    """Have a version decide as well, and be only logged; without one, none is in shadow."""
    _change(folder, as_json, lambda them: them.shadow(version, why=why), "in shadow")


@registry.command(epilog="Example: pointsman registry canary pointsman.db.routers 3f2a")
def canary(folder: Folder, version: OrNone = None, why: Why = "by hand", as_json: Json = False) -> None:
    """Have a version decide a share of the requests, learn.canary_share of the settings; without one, none does."""
    _change(folder, as_json, lambda them: them.canary(version, why=why), "in canary")


@registry.command(epilog="Example: pointsman registry remove pointsman.db.routers 3f2a")
def remove(folder: Folder, version: VersionName, why: Why = "by hand", as_json: Json = False) -> None:
    """Delete a version that has no role."""
    _change(folder, as_json, lambda them: them.remove(version, why=why), "removed")


@registry.command(epilog="Example: pointsman registry diff pointsman.db.routers 3f2a 90bc --log log.parquet")
def diff(
    folder: Folder,
    a: Annotated[str, typer.Argument(metavar="A", help="A version, or how its name begins.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    log: Annotated[Path | None, typer.Option("--log", help="A log whose prompts both are asked about.")] = None,
    quality_per_usd: Annotated[
        float | None,
        typer.Option("--quality-per-usd", metavar="L", help="At which they are asked; each's own if none."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say in what two versions differ, and how often they would decide differently."""
    from pointsman.logs import read_log
    from pointsman.trade_off import TradeOff
    from pointsman.versions import Registry

    rounds = None if log is None else read_log(log)
    prompts: Any = ()
    if rounds is not None:
        prompts = list(rounds.embedding) if rounds.embedding is not None else rounds.prompt
    found = Registry(folder).diff(
        a, b, prompts=prompts, trade_off=None if quality_per_usd is None else TradeOff(quality_per_usd)
    )
    if as_json:
        print_json(found)
        return
    console = make_console()
    rows = [[name, *(number(each) for each in both)] for name, both in found["mean_quality"].items()]
    console.print(grid("mean predicted quality", *found["versions"], rows=rows))
    for name, (first, second) in (("method", found["methods"]), ("rounds", found["n_rounds"])):
        console.print(f"{name}: {first} and {second}", markup=False)
    if found["share_differs"] is not None:
        share = f"{found['share_differs']:.1%} of decisions differ"
        console.print(f"{share}, over {found['n_prompts']:,} prompts", style="bold")


def _change(folder: Path, as_json: bool, change: Callable[[Registry], str | None], what: str) -> None:
    from pointsman.versions import Registry

    versions = Registry(folder)
    version = change(versions)
    if as_json:
        print_json({"version": version, "deciding": versions.roles().deciding})
        return
    typer.echo(f"{version or 'nothing'} is {what}; {versions.roles().deciding or 'nothing'} decides")


def _time(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, tz=datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
