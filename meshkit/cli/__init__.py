"""The `meshkit` command.

A verb is a module of its own in this package, and is imported only when it is the verb that runs: `meshkit
--help` reads the table below and loads neither grpc nor the settings. To add one:

1. Write `meshkit/cli/<verb>.py` with a function annotated for typer (its docstring is the verb's `--help`),
   or, for a verb with verbs of its own (`token mint`), a `typer.Typer()`.
2. Add a line to `VERBS`: the verb, where it is (`module:attribute`), and the text for `meshkit --help`.

A verb returns when all is well, raises `Failure` (from `meshkit.cli.output`) with a message for the operator,
or `typer.Exit(code)` where the output has said it all. A `MeshError` or `ConfigError` that leaves a verb is
printed without a traceback. Any other exception is a defect and keeps its traceback.

Exit codes: 0 all is well; 1 it failed (or a check did not hold); 2 the command line is wrong; 78 the
configuration is; 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from meshkit.cli.output import ExitCode, Failure, say

if TYPE_CHECKING:
    import typer

VERBS: dict[str, tuple[str, str]] = {
    "up": ("meshkit.cli.up:up", "Run the whole mesh on this machine."),
    "scale": ("meshkit.cli.scale:scale", "Scale services of a mesh that is up."),
    "restart": ("meshkit.cli.restart:restart", "Start replicas anew, one by one."),
    "demo": ("reference_services.demo:demo", "Show the mesh: a real job, replicas killed under load."),
    "run": ("meshkit.cli.run:run", "Run services in this process, or in several."),
    "call": ("meshkit.cli.call:call", "Call a method, JSON in and out."),
    "services": ("meshkit.cli.services:services", "Show services and their instances."),
    "top": ("meshkit.cli.top.verb:top", "Show what every instance does, live."),
    "explain": ("meshkit.cli.explain:explain", "Show what a call to a service would meet."),
    "health": ("meshkit.cli.health:health", "Ask instances whether they serve."),
    "doctor": ("meshkit.cli.doctor.verb:doctor", "Say what is wrong with a mesh, and how to mend it."),
    "config": ("meshkit.cli.config:app", "Check and explain settings."),
    "token": ("meshkit.cli.token:app", "Make and look at tokens."),
    "certs": ("meshkit.cli.certs:app", "Make, renew and look at certificates."),
    "keys": ("meshkit.cli.keys:app", "Make, rotate and hand out keys."),
    "projects": ("meshkit.cli.projects:app", "Let other projects call."),
    "shield": ("meshkit.cli.shield:app", "Operate Shield."),
    "revoke": ("meshkit.cli.revoke:app", "Refuse tokens before their time."),
    "registry": ("meshkit.cli.registry:app", "Look into the registry in Redis."),
    "gen": ("meshkit.cli.gen:gen", "Make Python of a folder of protos."),
}
"""Verb -> (`module:attribute`, its line in the help)."""

_ABOUT = "meshkit: a service mesh as a Python library."


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and end the process with its exit code.

    Args:
        arguments: Words of the command line behind the program's name; by default the process's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    verb = _verb_of(words)
    try:
        if verb is not None:
            from meshkit.config import quiet_grpc

            quiet_grpc()
        _run(verb, words)
    except Failure as failure:
        _end(str(failure), failure.code)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as error:
        if (code := _known(error)) is None:
            raise
        _end(str(error), code)


def _run(verb: str | None, words: list[str]) -> None:
    """Run a verb, and end the process where its exit code is not 0."""
    if verb == "health" and len(words) == 2:
        from meshkit.cli import address

        if address.is_address(words[1]):
            sys.exit(address.check(words[1]))
    _app(verb)(args=words, prog_name="meshkit")


def _app(chosen: str | None) -> typer.Typer:
    """Build the command line with the chosen verb loaded and all others as their line in the help."""
    import typer

    app = typer.Typer(help=_ABOUT, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

    def show_version(wanted: bool) -> None:
        if wanted:
            say(_version())
            raise typer.Exit

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", help="Print the version.", is_eager=True, callback=show_version
        ),
    ) -> None: ...

    for verb, (place, text) in VERBS.items():
        target = _load(place) if verb == chosen else _absent
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=verb, help=text)
        else:
            app.command(verb, short_help=text)(target)
    return app


def _verb_of(words: Sequence[str]) -> str | None:
    return next((word for word in words if not word.startswith("-")), None)


def _load(place: str) -> Callable[..., object] | typer.Typer:
    module, _, attribute = place.partition(":")
    found: Callable[..., object] | typer.Typer = getattr(importlib.import_module(module), attribute)
    return found


def _absent() -> None:
    """Stand for a verb that is not the one that runs."""


def _version() -> str:
    from importlib.metadata import version

    return version("meshkit")


def _known(error: Exception) -> ExitCode | None:
    """Give the exit code of an error that needs no traceback; classes not loaded cannot have been raised."""
    for module, name, code in (
        ("meshkit.config", "ConfigError", ExitCode.CONFIG),
        ("meshkit.errors", "MeshError", ExitCode.FAILED),
    ):
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and isinstance(error, kind):
            return code
    return None


def _end(message: str, code: int) -> None:
    from meshkit.config.journal import complain

    complain(f"meshkit: {message}")
    sys.exit(code)
