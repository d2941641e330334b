"""`meshkit config`: a program's settings, whether they are right, and the page about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from meshkit.cli.loading import load_object
from meshkit.cli.output import ExitCode, Failure, note, say, show_json
from meshkit.cli.tables import show, wrapped

if TYPE_CHECKING:
    from meshkit.config import ConfigError, SharedConfig

app = typer.Typer(help="Check and explain settings.", no_args_is_help=True, pretty_exceptions_enable=False)

Target = Annotated[str | None, typer.Argument(metavar="[MODULE:CLASS]", help="A service or a config class.")]
Targets = Annotated[
    list[str] | None, typer.Argument(metavar="[MODULE:CLASS]...", help="Services or config classes.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def explain(target: Target = None, as_json: AsJson = False) -> None:
    """Print each setting, its value (secrets hidden), where that came from and what it means.

    Exits with 78 where the configuration is wrong.
    """
    from meshkit.config import explain as explained

    settings = explained(_config_class(target).load())
    if as_json:
        show_json([dataclasses.asdict(setting) for setting in settings])
    else:
        rows = [(each.name, each.value, each.source, each.description) for each in settings]
        show(wrapped(("setting", "value", "source", "meaning"), rows))


@app.command()
def check(
    targets: Targets = None,
    as_json: AsJson = False,
    shared_process: Annotated[
        bool, typer.Option("--shared-process", help="Check as for services that share one process.")
    ] = False,
) -> None:
    """Check the configuration as a program would at its start, and report everything that is wrong.

    Exits with 0 where it is right and with 78 where it is not.
    """
    from meshkit.config import ConfigError

    failed: dict[str, ConfigError] = {}
    names = targets or ["meshkit.config:SharedConfig"]
    for name in names:
        try:
            _check(name, _config_class(name).load(shared_process=shared_process))
        except ConfigError as error:
            failed[name] = error
    _report(names, failed, as_json=as_json)
    if failed:
        raise typer.Exit(ExitCode.CONFIG)


@app.command()
def schema(target: Target = None) -> None:
    """Print the JSON Schema of the settings, by their names in the environment."""
    from meshkit.config.schema import schema as made

    show_json(made(_config_class(target)))


@app.command("env-template")
def env_template(targets: Targets = None) -> None:
    """Print a `.env` to begin with: every setting with its meaning and its default, commented out.

    Example: meshkit config env-template main:Greeter > .env
    """
    from meshkit.config.template import env_template as made

    say(made([_config_class(target) for target in targets or ()], targets or ()).rstrip("\n"))


@app.command()
def reference(targets: Targets = None) -> None:
    """Print the configuration reference as Markdown: docs/configuration.md is made by this."""
    from meshkit.config.reference import reference as page

    say(page([(target, _config_class(target)) for target in targets or ()]).rstrip("\n"))


def _check(target: str | None, config: SharedConfig) -> None:
    """What a service checks beyond its settings: its certificates, which must be in its name, and the keys file.

    Raises:
        ConfigError: They are not right.
    """
    from meshkit.config import ConfigError
    from meshkit.service import CUService

    found = load_object(target) if target else None
    if not (isinstance(found, type) and issubclass(found, CUService)):
        return
    from meshkit.parts import check_tls
    from meshkit.security.assembly import file_ring

    problems = check_tls(found, config)
    if config.project_keys_file is not None:
        try:
            file_ring(config.project_keys_file)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def _report(names: list[str], failed: dict[str, ConfigError], *, as_json: bool) -> None:
    if as_json:
        problems = {name: failed[name].problems if name in failed else [] for name in names}
        show_json({name: [dataclasses.asdict(each) for each in found] for name, found in problems.items()})
        return
    for name in names:
        if name in failed:
            note(f"{name}: {failed[name]}")
        else:
            say(f"{name}: the configuration is right")


def _config_class(target: str | None) -> type[SharedConfig]:
    """The config class that `module:Class` names: itself, or that of a service; `SharedConfig` for none."""
    from meshkit.config import SharedConfig

    if target is None:
        return SharedConfig
    found = load_object(target)
    if isinstance(found, type) and issubclass(found, SharedConfig):
        return found
    ask: Callable[[], type[SharedConfig]] | None = getattr(found, "config_class", None)
    if ask is None:
        raise Failure(f"{target} is neither a CUService nor a SharedConfig class", code=ExitCode.USAGE)
    try:
        return ask()
    except TypeError as error:
        raise Failure(str(error), code=ExitCode.USAGE) from None
