"""`meshkit doctor`: what is wrong with a mesh, and how to mend it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from meshkit.cli.doctor.configuration import load_settings
from meshkit.cli.doctor.findings import Case, Finding, Grade, Named, fault, note
from meshkit.cli.doctor.report import drawn, summary
from meshkit.cli.output import ExitCode, Failure, show_json
from meshkit.cli.tables import console

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.discovery import Registry

AREA_S = 30.0
"""Seconds for one area; those that hang are told as such."""

Look = Callable[[], Awaitable[Sequence[Finding]]]


def doctor(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODULE:CLASS]...", help="Services whose own settings are looked at, too."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Looks at all that a mesh stands on, as it is seen from here, and says what to mend. It changes nothing.

    Configuration, ports, certificates, Redis, databases, the registry and the
    records in it, handshakes with each instance, clocks, keys of projects and
    revocations. Example: meshkit doctor main:Greeter

    Exits with 0 where there is no fault (warnings there may be), 1 where there
    is one, 78 where the configuration is wrong, 2 where there is no such service.
    """
    found = asyncio.run(_examine(targets or []))
    if as_json:
        show_json(_document(found))
    else:
        terminal = console()
        for line in drawn(found, terminal.width):
            terminal.print(line, no_wrap=True, overflow="ignore", crop=False)
    raise typer.Exit(_exit_code(found))


async def _examine(targets: Sequence[str]) -> dict[str, list[Finding]]:
    """All findings, by area, in the order in which one thing stands on the other."""
    from meshkit.telemetry.logs import configure

    configure("CRITICAL", json=False)
    config, services, findings = load_settings(targets)
    found = {"configuration": findings}
    if config is None:
        found["the rest"] = [note("not looked at, for the settings cannot be read", "mend them first")]
        return found
    async with _case(config, services) as case:
        return found | await _areas(case)


async def _areas(case: Case) -> dict[str, list[Finding]]:
    from meshkit.cli.doctor.certificates import look_at_certificates
    from meshkit.cli.doctor.databases import look_at_databases
    from meshkit.cli.doctor.instances import Answer, ask, clocks, handshakes
    from meshkit.cli.doctor.ports import look_at_ports
    from meshkit.cli.doctor.redis import look_at_redis
    from meshkit.cli.doctor.registry import look_at_registry
    from meshkit.cli.doctor.rows import look_at_rows

    answers: list[Answer] = []

    async def shaken() -> Sequence[Finding]:
        answers.extend(await ask(case))
        return handshakes(answers)

    looks: Mapping[str, Look] = {
        "ports": lambda: look_at_ports(case),
        "certificates": lambda: look_at_certificates(case),
        "Redis": lambda: look_at_redis(case),
        "databases": lambda: look_at_databases(case),
        "registry": lambda: look_at_registry(case),
        "handshakes": shaken,
        "keys and revocations": lambda: look_at_rows(case),
    }
    told = await asyncio.gather(*(_look(look) for look in looks.values()))
    found = dict(zip(looks, told, strict=True))
    found["clocks"] = clocks(answers, case.config)
    return found


async def _look(look: Look) -> list[Finding]:
    """Looks at an area. That it cannot be looked at is a finding, too."""
    from meshkit.config import ConfigError

    try:
        async with asyncio.timeout(AREA_S):
            return list(await look())
    except TimeoutError:
        return [fault(f"no end of it within {AREA_S:g} s", "see whether what it asks answers at all")]
    except ConfigError as error:
        return [fault(f"{each.setting}: {each.what}", each.mend) for each in error.problems]
    except (Failure, OSError) as error:
        return [fault(str(error), "see the configuration above")]


@asynccontextmanager
async def _case(config: SharedConfig, services: Sequence[Named]) -> AsyncIterator[Case]:
    """What is known before anything is looked at: the registry is read once, for all."""
    from meshkit.config import ConfigError
    from meshkit.discovery import registry_of
    from meshkit.errors import MeshError

    registry: Registry | None = None
    try:
        registry = registry_of(config)
        case = await _read(registry, config, services)
    except (ConfigError, MeshError, Failure) as error:
        case = Case(config, services, silence=str(error))
    try:
        yield case
    finally:
        if registry is not None:
            await registry.close()


async def _read(registry: Registry, config: SharedConfig, services: Sequence[Named]) -> Case:
    from meshkit.cli.finding import services_of, snapshots_of

    names = {*await services_of(registry), *(each.name for each in services if each.name)}
    return Case(config, services, registry, await snapshots_of(registry, sorted(names)))


def _exit_code(found: Mapping[str, Sequence[Finding]]) -> ExitCode:
    if any(finding.grade is Grade.FAULT for finding in found["configuration"]):
        return ExitCode.CONFIG
    if any(finding.grade is Grade.FAULT for findings in found.values() for finding in findings):
        return ExitCode.FAILED
    return ExitCode.OK


def _document(found: Mapping[str, Sequence[Finding]]) -> dict[str, object]:
    findings = [{"area": area, **asdict(finding)} for area, each in found.items() for finding in each]
    return {"findings": findings, **summary(found)}
