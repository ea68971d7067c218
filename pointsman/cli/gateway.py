"""Commands of the gateway: write its settings, check them, make keys, serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.cli.app import BAD_INPUT, app
from pointsman.cli.options import Json
from pointsman.cli.show import grid, make_console, print_json
from pointsman.errors import InvalidParameterError, MissingDependencyError

if TYPE_CHECKING:
    from pointsman.gateway.settings import SettingsFile
    from pointsman.types import State

keys = typer.Typer(
    name="keys",
    help="Make virtual keys of the gateway.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(keys)

Config = Annotated[Path, typer.Option("--config", help="The gateway's settings; `pointsman init` writes them.")]


@app.command(epilog="Example: pointsman init && pointsman serve --check")
def init(
    out: Annotated[Path, typer.Option("--out", help="The file to write; one that is there is kept.")] = Path(
        "pointsman.yaml"
    ),
) -> None:
    """Write a commented file of settings for the gateway."""
    check_extra()
    from pointsman.gateway.settings.template import TEMPLATE

    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except FileExistsError:
        raise InvalidParameterError(f"--out must be a new file; {out} is there already") from None
    typer.echo(f"{out} is written. Set OPENAI_API_KEY or change its upstreams, then: pointsman serve --check")


@app.command(epilog="Example: pointsman serve --config pointsman.yaml --check")
def serve(
    config: Config = Path("pointsman.yaml"),
    check: Annotated[
        bool, typer.Option("--check", help="Only check the settings, and say what would be done; nothing is sent.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Serve OpenAI's API: `model="auto"` is routed, every decision is logged, feedback is learned from."""
    check_extra()
    file = settings_file(config)
    if not check:
        from pointsman.gateway.routing import Routing
        from pointsman.gateway.serve import serve as run

        run(file.settings, file=file, make_decider=Routing())
        return
    from pointsman.gateway.settings.plan import plan

    told = plan(file.settings)
    if as_json:
        print_json(told)
    else:
        _print_plan(config, told)


@keys.command("new", epilog="Example: pointsman keys new --id team-a")
def new(
    name: Annotated[str, typer.Option("--id", help="The key's name in logs, metrics and errors.")] = "team-a",
    as_json: Json = False,
) -> None:
    """Make a key: it is printed once and kept nowhere; its hash goes into the settings."""
    check_extra()
    from pydantic import ValidationError

    from pointsman.gateway.keys import key_hash, make_key
    from pointsman.gateway.settings import KeySettings

    key = make_key()
    try:
        settings = KeySettings(id=name, sha256=key_hash(key))
    except ValidationError as error:
        raise InvalidParameterError(f"--id {error.errors()[0]['msg']}; got {name!r}") from None
    if as_json:
        print_json({"id": settings.id, "key": key, "sha256": settings.sha256})
        return
    typer.echo(f"The key, shown this once: {key}\n")
    typer.echo(f"In pointsman.yaml:\n\nkeys:\n  - id: {settings.id}\n    sha256: {settings.sha256}")


def check_extra() -> None:
    """Raise MissingDependencyError where the gateway's packages are not installed."""
    try:
        import pydantic_settings  # noqa: F401
    except ImportError:
        raise MissingDependencyError("the gateway needs more packages; pip install 'pointsman[gateway]'") from None


def settings_file(config: Path) -> SettingsFile:
    """Return the settings of a file, or print each of its faults and exit."""
    from pointsman.gateway.settings import InvalidSettingsError, SettingsFile

    try:
        return SettingsFile(config)
    except InvalidSettingsError as error:
        # One line a fault: there may be many, and an editor can jump to each.
        for line in error.lines():
            typer.echo(f"error: {line}", err=True)
        raise typer.Exit(BAD_INPUT) from None


def _print_plan(config: Path, told: State) -> None:
    console = make_console()
    console.print(f"{config} is right. `pointsman serve` would listen at {told['listen']} and route among:")
    rows = [
        [
            each["name"] + ("" if each["kind"] == "chat" else f" ({each['kind']}: not routed)"),
            f"{each['upstream']}: {each['upstream_model']}",
            *(_usd(each[f"{what}_usd_per_mtok"]) for what in ("input", "cached_input", "output")),
            f"{each['price_source']}, {each['price_date'] or 'undated'}",
            "-" if each["context_window"] is None else str(each["context_window"]),
            " ".join(each["supports"]) or "-",
        ]
        for each in told["models"]
    ]
    console.print(
        grid("model", "what", "USD per Mtok in", "cached", "out", "found", "context", "supports", rows=rows), end=""
    )
    for line in _sentences(told):
        console.print(line, markup=False)
    for note in told["notes"]:
        typer.echo(f"note: {note}", err=True)


def _sentences(told: State) -> list[str]:
    router = told["router"]
    version = f"version {router['version']}" if router["version"] else "no version"
    where = f"{version} of registry {router['registry']} ({router['why']})"
    budget = [
        f"{usd:g} USD {name.removeprefix('usd_').replace('_', ' ')}" for name, usd in told["budget"].items() if usd
    ]
    learn, days = told["learn"], told["retention_days"]
    age = "for ever" if days is None else f"for {days:g} days (`pointsman learn` deletes them)"
    return [
        f"Decides: {where}; {told['exploration_floor']:g} of the probability explores evenly; "
        f"{told['default_model']} where it fails.",
        f"Presets: {', '.join(f'auto:{name}' for name in told['presets']) or 'none'}. "
        f"Budget: {', '.join(budget) or 'none'}. Fallback: {', '.join(told['fallback']) or 'none'}.",
        f"Keys: {', '.join(told['keys']) or 'none: open to all who can reach it'}.",
        f"Keeps: rounds in {told['store']}, {age}, prompts as {told['prompts']}.",
        f"Learns: {'every ' + format(learn['interval_s'], 'g') + ' s from feedback' if learn['enabled'] else 'no'}; "
        + (f"refits every {learn['refit_interval_s']:g} s." if learn["refit_interval_s"] else "never refits."),
    ]


def _usd(price: float | None) -> str:
    return "-" if price is None else f"{price:g}"
