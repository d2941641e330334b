"""The doctor's look at the settings: what each service would say at its start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from meshkit.cli.doctor.findings import Finding, Named, fault, good
from meshkit.cli.loading import load_object
from meshkit.cli.output import ExitCode, Failure

if TYPE_CHECKING:
    from meshkit.config import Problem, SharedConfig

SHARED = "meshkit.config:SharedConfig"
"""What is looked at where no service is named."""


def load_settings(targets: Sequence[str]) -> tuple[SharedConfig | None, list[Named], list[Finding]]:
    """Loads the settings of this program and of each service, as far as they can be, with all that is wrong.

    Settings of which one is wrong are there without it, so that the rest can be looked at.

    Raises:
        Failure: There is no such service.
    """
    from meshkit.cli.finding import surroundings
    from meshkit.config import SharedConfig
    from meshkit.config.loading import attempt

    config, problems = attempt(SharedConfig, None, {}, shared_process=False)
    beside: dict[str, Any] = {} if config is None else surroundings(config)
    if beside:
        config, problems = attempt(SharedConfig, None, beside, shared_process=False)
    services, findings = [], []
    for target in targets:
        named, wrong = _load(target, beside)
        services += [named] if named else []
        findings += _told(target, named.config if named else None, wrong)
    return config, services, findings if targets else _told("", config, problems)


def _load(target: str, beside: dict[str, Any]) -> tuple[Named | None, list[Problem]]:
    from meshkit.config import SharedConfig
    from meshkit.config.loading import attempt
    from meshkit.parts import check_tls
    from meshkit.service import CUService

    found = load_object(target)
    is_service = isinstance(found, type) and issubclass(found, CUService) and hasattr(found, "definition")
    if is_service:
        assert isinstance(found, type)
        kind: type[CUService] = found
        config, problems = attempt(kind.config_class(), None, beside, shared_process=False)
        if config is not None:
            problems += [each for each in check_tls(kind, config) if each not in problems]
            return Named(target, config, kind), problems
        return None, problems
    if isinstance(found, type) and issubclass(found, SharedConfig):
        config, problems = attempt(found, None, beside, shared_process=False)
        return (Named(target, config) if config is not None else None), problems
    raise Failure(f"{target} is neither a CUService nor a SharedConfig class", code=ExitCode.USAGE)


def _told(target: str, config: SharedConfig | None, problems: Sequence[Problem]) -> list[Finding]:
    of = f"{target}: " if target else ""
    if config is None or problems:
        return [
            fault(
                f"{of}{each.setting}: {each.what}{f' ({each.source})' if each.source else ''}",
                each.mend or "mend it",
            )
            for each in problems
        ]
    return [good(f"{of}right for {config.env.value}; {_origin(config)}")]


def _origin(config: SharedConfig) -> str:
    """How many settings come from where."""
    from meshkit.config.explained import explain

    sources = Counter(each.source.partition(" line ")[0] for each in explain(config))
    defaults = sources.pop("default", 0) + sources.pop("code", 0)
    told = [f"{count} from {_named(source)}" for source, count in sources.most_common()]
    return ", ".join([*told, f"{defaults} by default"])


def _named(source: str) -> str:
    return "the environment" if source == "environment" else source
