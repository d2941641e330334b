"""The doctor's look at instances: whether each can be reached, takes our calls, and has the time that we have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshkit.cli.doctor.findings import Case, Finding, fault, good, note, warning
from meshkit.errors import MeshError, Unauthenticated

if TYPE_CHECKING:
    from meshkit._gen.meshkit.v1 import mesh_pb2 as pb
    from meshkit.config import SharedConfig
    from meshkit.instance import Instance
    from meshkit.mesh import Mesh

AT_ONCE = 32
"""Instances that are asked at the same time."""

ANSWER_S = 3.0
"""Seconds that each has to answer."""

_ELSEWHERE = {
    "KEY_UNKNOWN": "give both the same CU_PROJECT_SECRET, or make this project known there: `meshkit projects add`",
    "KEY_RETIRED": "use a key that is not retired",
    "TOKEN_SIGNATURE": "give both the same CU_PROJECT_SECRET and CU_NAMESPACE",
    "CLOCK_SKEW": "set the clocks by NTP",
    "PROOF_STALE": "set the clocks by NTP",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What an instance said.

    Attributes:
        instance: The instance.
        silence: Why it said nothing, not even whether it serves; empty where it did.
        health: What it says of its health.
        refusal: Why it refused a call that carries token and proof; None where it took it.
        described: What it says of itself; None where it refused to.
        took: Seconds that the call took.
        ahead: Seconds that its clock is ahead of ours, in the middle of the call; None where it does not say.
    """

    instance: Instance
    silence: str = ""
    health: str = ""
    refusal: MeshError | None = None
    described: pb.DescribeResponse | None = None
    took: float = 0.0
    ahead: float | None = None


async def ask(case: Case) -> list[Answer]:
    """Asks each instance how it is, first as a probe does, then with a call like any other.

    Raises:
        ConfigError: The certificates of this program cannot be used.
    """
    from meshkit.mesh import Mesh

    if not case.instances:
        return []
    turn = asyncio.Semaphore(AT_ONCE)
    async with Mesh(case.config, case.registry) as mesh:

        async def one(instance: Instance) -> Answer:
            async with turn:
                return await _ask(instance, mesh)

        return await asyncio.gather(*map(one, case.instances))


async def _ask(instance: Instance, mesh: Mesh) -> Answer:
    from meshkit.transport.probing import UNREACHABLE, probe

    found = await probe(instance.address, timeout=ANSWER_S, secured=mesh.secured(instance.service))
    if found.status == UNREACHABLE:
        return Answer(instance, silence=found.problem)
    begun, at = time.monotonic(), time.time()
    try:
        described = await _describe(instance, mesh)
    except MeshError as error:
        return Answer(instance, health=found.status, refusal=error)
    took = time.monotonic() - begun
    said = described.now.ToNanoseconds() / 1e9
    ahead = said - (at + took / 2) if described.HasField("now") else None
    return Answer(instance, health=found.status, described=described, took=took, ahead=ahead)


async def _describe(instance: Instance, mesh: Mesh) -> pb.DescribeResponse:
    """Has an instance tell of itself."""
    from meshkit._gen.meshkit.v1 import mesh_pb2 as pb
    from meshkit._gen.meshkit.v1.mesh_client import MeshClient
    from meshkit.inspection import PERMISSION

    async with mesh.reaching(MeshClient, instance, permissions=[PERMISSION]) as client:
        return await client.describe(pb.DescribeRequest(), timeout=ANSWER_S)


def handshakes(answers: Sequence[Answer]) -> list[Finding]:
    """What is to be said of each: reached or not, let in or not, and how long its certificate lasts."""
    if not answers:
        return [note("there is no instance to ask")]
    return [finding for answer in answers for finding in _handshake(answer)]


def _handshake(answer: Answer) -> list[Finding]:
    instance = answer.instance
    whom = f"{instance.instance_id} at {instance.address}"
    if answer.silence:
        mend = "see its log; where its machine is gone, its lease ends by itself"
        return [fault(f"{whom} cannot be reached: {answer.silence}", mend)]
    if answer.refusal is not None:
        mend = _ELSEWHERE.get(answer.refusal.reason, "see the log of the instance")
        return [fault(f"{whom} refuses our calls: {answer.refusal}", mend)]
    findings = [finding for each in _certificates(answer) if (finding := each)]
    if answer.health != "SERVING":
        return [
            warning(f"{whom} says {answer.health}", "wait where it starts or drains; else see its log"),
            *findings,
        ]
    return [good(f"{whom} takes our calls, {1000 * answer.took:.0f} ms"), *findings]


def _certificates(answer: Answer) -> list[Finding]:
    assert answer.described is not None
    found, now = [], time.time()
    for each in answer.described.certificates:
        if now >= each.warned_from.ToSeconds():
            left = (each.not_after.ToSeconds() - now) / 86400
            what = f"{answer.instance.instance_id}: its {each.side} certificate expires in {left:.1f} days"
            found.append(warning(what, f"replace {each.file} there; it is read again by itself"))
    return found


def clocks(answers: Sequence[Answer], config: SharedConfig) -> list[Finding]:
    """How far the clocks of instances are from ours, as far as they say; those that agree are counted."""
    known = [(answer, answer.ahead) for answer in answers if answer.ahead is not None]
    skewed = [answer for answer in answers if _is_skew(answer.refusal)]
    apart = [(answer, ahead) for answer, ahead in known if abs(ahead) - answer.took > config.clock_skew_s / 4]
    mend = f"set the clocks by NTP; at {config.clock_skew_s:g} s (CU_CLOCK_SKEW_S) calls are refused"
    found = [fault(f"{each.instance.instance_id}: {each.refusal}", mend) for each in skewed]
    found += [
        warning(
            f"{each.instance.instance_id} is {abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'}", mend
        )
        for each, ahead in apart
    ]
    if agreeing := len(known) - len(apart):
        most = max(abs(ahead) for _, ahead in known if abs(ahead) <= config.clock_skew_s)
        found.append(good(f"{agreeing} instance{'s' if agreeing > 1 else ''} within {most:.2f} s of ours"))
    return found or [note("no instance says what time it is")]


def _is_skew(error: MeshError | None) -> bool:
    return isinstance(error, Unauthenticated) and error.reason in ("CLOCK_SKEW", "PROOF_STALE")
