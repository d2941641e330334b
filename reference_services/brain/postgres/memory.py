"""Episodes, facts, traces and figures in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable

from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.conditions import Where
from reference_services.brain.postgres.schema import BRAIN
from reference_services.brain.store import After, Between
from reference_services.brain.stored import dated, same, successor, timestamp
from reference_services.postgres import NOBODY, Connection, Database, Overtaken, rows

_WHERE = Where("%s")


class PostgresMemory:
    """Episodes and facts.

    Args:
        database: Where they are.
        now: The clock, in microseconds since 1970.
    """

    def __init__(self, database: Database, now: Callable[[], int]) -> None:
        self._database = database
        self._now = now

    async def append_episode(self, tenant: str, episode: pb.Episode) -> tuple[pb.Episode, bool]:
        """See `Memory`."""
        new = dated(episode, "occurred_at", self._now())

        async def work(db: Connection) -> tuple[pb.Episode, bool]:
            made = await rows(
                db,
                "INSERT INTO brain.episodes VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING true",
                (tenant, new.id, new.session_id, new.occurred_at.ToMicroseconds(), new.SerializeToString()),
            )
            if made:
                return new, True
            ((body,),) = await rows(db, "SELECT body FROM brain.episodes WHERE id = %s", (episode.id,))
            return same(episode, pb.Episode.FromString(body), "occurred_at", "EPISODE_EXISTS"), False

        return await self._database.write(tenant, work)

    async def list_episodes(
        self, tenant: str, session_id: str, between: Between, after: After, limit: int
    ) -> list[pb.Episode]:
        """See `Memory`."""
        where, values = _WHERE.newest_first("occurred_at", between, after, session_id=session_id)

        async def work(db: Connection) -> list[pb.Episode]:
            found = await rows(
                db,
                f"SELECT body FROM brain.episodes WHERE true {where} ORDER BY occurred_at DESC, id DESC LIMIT %s",
                (*values, limit),
            )
            return [pb.Episode.FromString(body) for (body,) in found]

        return await self._database.read(tenant, work)

    async def upsert_fact(self, tenant: str, fact: pb.Fact, if_match: str | None) -> tuple[pb.Fact, bool]:
        """See `Memory`."""
        now = self._now()

        async def work(db: Connection) -> tuple[pb.Fact, bool]:
            found = await rows(db, "SELECT body FROM brain.facts WHERE id = %s FOR UPDATE", (fact.id,))
            there = pb.Fact.FromString(found[0][0]) if found else None
            new = successor(fact, there, if_match, now)
            if new is None:
                assert there is not None
                return there, False
            await _put_fact(db, tenant, new, over=there is not None)
            return new, there is None

        return await self._database.write(tenant, work)

    async def list_facts(
        self, tenant: str, subject: str, predicate: str, after_id: str, limit: int
    ) -> list[pb.Fact]:
        """See `Memory`."""
        where, values = _WHERE.equal(subject=subject, predicate=predicate)

        async def work(db: Connection) -> list[pb.Fact]:
            found = await rows(
                db,
                f"SELECT body FROM brain.facts WHERE id > %s {where} ORDER BY id LIMIT %s",
                (after_id, *values, limit),
            )
            return [pb.Fact.FromString(body) for (body,) in found]

        return await self._database.read(tenant, work)


class PostgresTraces:
    """Records of what agents did.

    Args:
        database: Where they are.
        now: The clock, in microseconds since 1970.
    """

    def __init__(self, database: Database, now: Callable[[], int]) -> None:
        self._database = database
        self._now = now

    async def log_trace(self, tenant: str, trace: pb.Trace) -> bool:
        """See `Traces`."""
        new = dated(trace, "started_at", self._now())

        async def work(db: Connection) -> bool:
            made = await rows(
                db,
                "INSERT INTO brain.traces VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING true",
                (
                    tenant,
                    new.id,
                    new.session_id,
                    new.agent_id,
                    new.started_at.ToMicroseconds(),
                    new.SerializeToString(),
                ),
            )
            if not made:
                there = await rows(db, "SELECT body FROM brain.traces WHERE id = %s", (trace.id,))
                if not there:
                    raise Overtaken  # by its end
                same(trace, pb.Trace.FromString(there[0][0]), "started_at", "TRACE_EXISTS")
            return bool(made)

        return await self._database.write(tenant, work)

    async def list_traces(
        self, tenant: str, session_id: str, agent_id: str, between: Between, after: After, limit: int
    ) -> list[pb.Trace]:
        """See `Traces`."""
        where, values = _WHERE.newest_first(
            "started_at", between, after, session_id=session_id, agent_id=agent_id
        )

        async def work(db: Connection) -> list[pb.Trace]:
            found = await rows(
                db,
                f"SELECT body FROM brain.traces WHERE true {where} ORDER BY started_at DESC, id DESC LIMIT %s",
                (*values, limit),
            )
            return [pb.Trace.FromString(body) for (body,) in found]

        return await self._database.read(tenant, work)

    async def forget_traces(self, age: int, limit: int) -> int:
        """See `Traces`."""
        before = self._now() - age

        async def work(db: Connection) -> int:
            ((gone,),) = await rows(db, "SELECT brain.forget_traces(%s, %s)", (before, limit))
            return int(gone)

        return await self._database.write(NOBODY, work)


class PostgresFigures:
    """What there is.

    Args:
        database: Where it is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def stats(self, tenant: str) -> pb.StatsResponse:
        """See `Figures`."""

        async def work(db: Connection) -> pb.StatsResponse:
            ((cells, size, products),) = await rows(
                db,
                "SELECT count(*), coalesce(sum(text_bytes), 0)::bigint, count(*) FILTER (WHERE kind = %s) "
                "FROM brain.cells",
                (pb.CELL_KIND_PRODUCT,),
            )
            found = pb.StatsResponse(
                cells=cells,
                text_bytes=size,
                products=products,
                storage="postgresql",
                schema_version=BRAIN.version,
            )
            for table in ("documents", "episodes", "facts", "traces"):
                ((count,),) = await rows(db, f"SELECT count(*) FROM brain.{table}")
                setattr(found, table, count)
            for (updated_at,) in await rows(db, "SELECT updated_at FROM brain.tenants"):
                found.updated_at.CopyFrom(timestamp(updated_at))
            return found

        return await self._database.read(tenant, work)


async def _put_fact(db: Connection, tenant: str, fact: pb.Fact, *, over: bool) -> None:
    """Writes a fact over the one that is there, which is locked; or where there is none."""
    values = (fact.subject, fact.predicate, fact.SerializeToString())
    if over:
        await db.execute(
            "UPDATE brain.facts SET subject = %s, predicate = %s, body = %s WHERE id = %s", (*values, fact.id)
        )
        return
    made = await db.execute(
        "INSERT INTO brain.facts VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (tenant, fact.id, *values),
    )
    if not made.rowcount:
        raise Overtaken
