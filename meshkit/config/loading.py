"""load: from the sources to a checked config, or to everything that is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from meshkit.config import sources, state
from meshkit.config.files import check_files
from meshkit.config.grammar import NAMESPACE, Environment
from meshkit.config.problems import ConfigError, Problem, Wrong
from meshkit.config.rules import check_databases, check_production

if TYPE_CHECKING:
    from meshkit.config.shared import SharedConfig

    C = TypeVar("C", bound=SharedConfig)
else:
    C = TypeVar("C")

CODE = "code"
"""The source of a value that the program gives itself."""


def settle(outcome: tuple[C | None, list[Problem]]) -> C:
    """The config of an attempt; raises `ConfigError` where anything was wrong."""
    config, problems = outcome
    if config is None or problems:
        raise ConfigError(problems)
    return config


def attempt(
    config_class: type[C],
    environ: Mapping[str, str] | None,
    overrides: dict[str, Any],
    *,
    shared_process: bool,
) -> tuple[C | None, list[Problem]]:
    """Reads and checks: the config, None where it cannot be made, and what is wrong."""
    reading = sources.read(config_class, environ, shared_process=shared_process)
    raws = reading.values | {
        name: sources.Raw(sources.wrap(config_class, name, value), CODE) for name, value in overrides.items()
    }
    if "state_dir" not in raws and (default := _default_state_dir(config_class, raws, reading.environ)):
        raws["state_dir"] = default
    config, problems = _build(config_class, raws)
    problems = reading.problems + problems
    known = config or _shared_part(raws)
    if known is not None:
        problems += _unreported(check_files(known), problems)
        if known.env is Environment.PRODUCTION:
            problems += _unreported(check_production(known), problems)
            problems += _unreported(check_databases(_own_values(config_class, raws)), problems)
    if config is not None:
        config._sources.update({name: raw.source for name, raw in raws.items()})
        config._files = reading.files
    return config, problems


def _build(config_class: type[C], raws: dict[str, sources.Raw]) -> tuple[C | None, list[Problem]]:
    """The config, and what is wrong.

    Where values are wrong, the config is built without them, so that the rules between settings can be
    checked for the rest.
    """
    problems: list[Problem] = []
    fields = {config_class.env_name(name): name for name in config_class.model_fields}
    while True:
        try:
            return config_class(**{name: raw.value for name, raw in raws.items()}), problems
        except ConfigError as error:
            found = [_locate(problem, fields, raws) for problem in error.problems]
        problems += _unreported(found, problems)
        wrong = {fields.get(problem.setting, problem.setting) for problem in found} & raws.keys()
        if not wrong:
            return None, problems
        raws = {name: raw for name, raw in raws.items() if name not in wrong}


def _shared_part(raws: dict[str, sources.Raw]) -> SharedConfig | None:
    """What a config has of every program, where the service's own part cannot be made: the rules hold for that, too."""
    from meshkit.config.shared import SharedConfig

    shared = {name: raw for name, raw in raws.items() if name in SharedConfig.model_fields}
    return _build(SharedConfig, shared)[0]


def _own_values(config_class: type[SharedConfig], raws: dict[str, sources.Raw]) -> dict[str, Any]:
    """The values of a service's own settings, as they were read, or by default."""
    from meshkit.config.shared import SharedConfig

    own = {
        name: info
        for name, info in config_class.model_fields.items()
        if name not in SharedConfig.model_fields
    }
    return {
        config_class.env_name(name): raws[name].value if name in raws else info.default
        for name, info in own.items()
    }


def _locate(problem: Problem, fields: dict[str, str], raws: dict[str, sources.Raw]) -> Problem:
    raw = raws.get(fields.get(problem.setting, problem.setting))
    return dataclasses.replace(problem, source=raw.source) if raw else problem


def _unreported(found: list[Problem], reported: list[Problem]) -> list[Problem]:
    settings = {problem.setting for problem in reported}
    return [problem for problem in found if problem.setting not in settings]


def _default_state_dir(
    config_class: type[SharedConfig], raws: dict[str, sources.Raw], environ: Mapping[str, str]
) -> sources.Raw | None:
    raw = raws.get("namespace")
    namespace = str(raw.value if raw else config_class.model_fields["namespace"].default)
    home, state_home = environ.get("HOME", ""), environ.get("XDG_STATE_HOME", "")
    try:
        NAMESPACE.check(namespace)
    except Wrong:
        return None
    from meshkit.config.shared import SharedConfig

    own = config_class.model_fields["state_dir"].default_factory
    if own is not SharedConfig.model_fields["state_dir"].default_factory:
        return None
    if not home and not state_home.startswith("/"):
        return None
    source = "XDG_STATE_HOME" if state_home.startswith("/") else "default"
    return sources.Raw(state.default_folder(namespace, state_home, home), source)
