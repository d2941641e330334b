"""Which agents a tenant can run, and which one is meant by an id."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from meshkit import FailedPrecondition, NotFound
from reference_services.router import manifest as manifests
from reference_services.router.model import BUILT_IN, DEFAULT_AGENT, Agent
from reference_services.router.storage import Head, ManifestStore

_NAMED_IDS = 50


class Catalog:
    """Finds agents. What it remembers is content by its digest, so replicas never disagree.

    Args:
        store: Where the manifests are.
        remembered: Parsed manifests to keep in memory at most.
    """

    def __init__(self, store: ManifestStore, *, remembered: int = 256) -> None:
        self._store = store
        self._remembered = remembered
        self._parsed: OrderedDict[tuple[str, str, str], tuple[Agent, ...]] = OrderedDict()

    async def find(self, tenant: str, caller_project: str, agent_id: str = "", project: str = "") -> Agent:
        """The agent that a caller means.

        An agent of `project` where that is given. Else one of the caller's own project, then the built-in,
        then one that exactly one other project of the tenant has.

        Raises:
            NotFound: There is none (`AGENT_UNKNOWN`).
            FailedPrecondition: Several projects have one (`AGENT_AMBIGUOUS`).
        """
        agent_id = agent_id or DEFAULT_AGENT
        known = await self.all(tenant, project)
        found = [agent for agent in known if agent.agent_id == agent_id]
        if not project:
            for first in (caller_project, ""):
                for agent in found:
                    if agent.project == first:
                        return agent
        if not found:
            raise _unknown(agent_id, project, known)
        if len(found) > 1:
            raise FailedPrecondition(
                f"Several projects have an agent {agent_id!r}: say which with `project`.",
                reason="AGENT_AMBIGUOUS",
                agent_id=agent_id,
                projects=", ".join(agent.project for agent in found[:_NAMED_IDS]),
            )
        return found[0]

    async def all(self, tenant: str, project: str = "") -> list[Agent]:
        """The agents of a tenant or of one of its projects: the built-in one, then by project and id."""
        heads = [head for head in await self._store.heads(tenant) if project in ("", head.project)]
        groups = await asyncio.gather(*(self._agents(tenant, head) for head in heads))
        listed = sorted(
            (agent for group in groups for agent in group), key=lambda agent: (agent.project, agent.agent_id)
        )
        return listed if project else [BUILT_IN, *listed]

    async def _agents(self, tenant: str, head: Head) -> tuple[Agent, ...]:
        key = (tenant, head.project, head.digest)
        if key in self._parsed:
            self._parsed.move_to_end(key)
            return self._parsed[key]
        stored = await self._store.read(tenant, head.project, head.digest)
        if stored is None:  # replaced so often since that it is no longer kept
            return ()
        agents = manifests.agents(
            manifests.parse(stored[1]), project=head.project, manifest_digest=head.digest
        )
        self._parsed[key] = agents
        while len(self._parsed) > self._remembered:
            self._parsed.popitem(last=False)
        return agents


def _unknown(agent_id: str, project: str, known: list[Agent]) -> NotFound:
    ids = sorted({agent.agent_id for agent in known})
    listed = ", ".join(ids[:_NAMED_IDS]) + (", …" if len(ids) > _NAMED_IDS else "")
    owner = f"Project {project!r}" if project else "This tenant"
    there = f"there are: {listed}" if ids else "it has none"
    return NotFound(
        f"{owner} has no agent {agent_id[:80]!r}; {there}.",
        reason="AGENT_UNKNOWN",
        agent_id=agent_id[:80],
        agents=listed,
    )
