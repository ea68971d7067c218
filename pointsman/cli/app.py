"""The application: exit codes, errors as one line, warnings as notes."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from pointsman._version import __version__
from pointsman.errors import (
    CacheWarning,
    EndpointError,
    MissingDependencyError,
    OverlapError,
    PointsmanError,
    StatisticalWarning,
)

UNMET, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes: a requirement is not met or there is nothing to say; an argument or a file is wrong; Ctrl-C."""


class Group(TyperGroup):
    """Turns our errors into one line and an exit code, and our warnings into notes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            with _notes():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            stop("interrupted", code=INTERRUPTED)
        except (MissingDependencyError, OverlapError, EndpointError) as error:
            stop(error, code=UNMET)
        except PointsmanError as error:
            stop(error, code=BAD_INPUT)
        except OSError as error:
            # A reader that has seen enough, such as `head`, is no error; click ends quietly.
            if error.errno == errno.EPIPE:
                raise
            stop(error, code=BAD_INPUT)


app = typer.Typer(
    name="pointsman",
    cls=Group,
    help="Learn from one-arm logs which model should answer each prompt, and prove it first.",
    epilog="Example: pointsman fit log.parquet --out router",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@contextmanager
def _notes() -> Iterator[None]:
    """Print each of our warnings once, as a note of one line; leave the others to Python."""
    seen: set[str] = set()

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
        if not issubclass(category, StatisticalWarning | CacheWarning):
            default(message, category, filename, lineno, *rest)
        elif str(message) not in seen:
            seen.add(str(message))
            typer.echo(f"note: {' '.join(str(message).split())}", err=True)

    with warnings.catch_warnings():
        default = warnings.showwarning
        for ours in (StatisticalWarning, CacheWarning):
            warnings.simplefilter("always", ours)
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def stop(why: object, *, code: int) -> NoReturn:
    """Print one line to standard error and exit."""
    said = " ".join(str(why).split())
    typer.echo(f"error: {said}" if code != INTERRUPTED else said, err=True)
    raise typer.Exit(code)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
