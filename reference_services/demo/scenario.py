"""What the demo does, step by step, and whether each step did what it should."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import reference_services.worker.harvester as harvester
from meshkit import MeshError
from meshkit.config import ConfigError
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as brain
from reference_services._gen.contextunity.brain.v1.brain_client import BrainClient
from reference_services._gen.contextunity.router.v1 import router_pb2 as router
from reference_services._gen.contextunity.router.v1.router_client import RouterClient
from reference_services._gen.contextunity.worker.v1 import worker_pb2 as worker
from reference_services._gen.contextunity.worker.v1.worker_client import WorkerClient
from reference_services._gen.contextunity.zero.v1 import zero_pb2 as zero
from reference_services._gen.contextunity.zero.v1.zero_client import ZeroClient
from reference_services.demo.audit import Finding, audit
from reference_services.demo.library import documents, ingest
from reference_services.demo.machine import REPLICAS, TENANT, Machine, NotAsWanted, machine
from reference_services.demo.reads import LEAST_SHARE, PER_SECOND, Tally, reading
from reference_services.demo.report import Report
from reference_services.demo.room import lacking, spent

FEED = Path(harvester.__file__).parent / "data" / "products.csv"
SOURCE = "demo-shop"
FROZEN_SECONDS = 5.0
KILL_AFTER_SECONDS = 1.5
"""Seconds for which a worker stands still before another one is killed. The work of that one is taken over 4 s after
its death at the earliest, so the harvest cannot be over before the first one goes on, however fast the machine is."""
HARVEST_SECONDS = 60.0
WHOLE_SECONDS = 90.0

QUESTIONS = (
    "When is an outlier gate shut?",
    "Which pruning shears are there?",
    "Write to ada@example.com, call +49 30 901820, my card is 4111 1111 1111 1111. How long is a token valid?",
)


@dataclass
class Harvest:
    """How the harvest went.

    Attributes:
        workflow_id: Its id.
        seconds: How long it took.
        executors: Replicas that took part in it, by what each did.
        killed: What was done to which process.
        begun: When it was begun, on the clock of `time.perf_counter`, as the next four.
        ended: When it had ended.
        frozen: When a replica was stopped.
        broken: When others were killed.
        mended: When the one that was stopped went on.
    """

    workflow_id: str = ""
    begun: float = 0.0
    ended: float = 0.0
    frozen: float = 0.0
    broken: float = 0.0
    mended: float = 0.0
    executors: Counter[str] = field(default_factory=Counter)
    killed: list[str] = field(default_factory=list)


async def play(*, keep: bool, shield: bool = False, reads: int = PER_SECOND) -> int:
    """Plays the demo.

    Args:
        keep: Whether to keep its state and logs although all went well.
        shield: Whether tokens come from a Shield, which is killed as well.
        reads: Reads of brain a second beside it all.

    Returns:
        The exit code: 0 only if every step did what it should.

    Raises:
        CancelledError: It was interrupted; SIGTERM does that too. Everything that it started has ended.
    """
    _end_on_sigterm()
    report = Report()
    start = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="meshkit-demo-"))
    try:
        if lack := lacking(folder):
            raise NotAsWanted(lack)
        await _play(folder, report, shield=shield, reads=reads)
    except asyncio.CancelledError:
        report.say("interrupted: all processes have ended")
        _leave(folder, report, keep=keep)
        raise
    except (NotAsWanted, MeshError, TimeoutError, OSError, sqlite3.Error, ConfigError) as error:
        report.check(
            False, "the demo broke off", str(error) or f"the harvest did not end within {HARVEST_SECONDS:g} s"
        )
    if report.failed and (cause := spent(folder)):
        report.say(f"the cause: {cause}")
    _leave(folder, report, keep=keep or report.failed > 0)
    seconds = time.monotonic() - start
    report.check(seconds <= WHOLE_SECONDS, "time", f"{seconds:.0f} s, of {WHOLE_SECONDS:.0f} at most")
    report.end()
    return 1 if report.failed else 0


def _end_on_sigterm() -> None:
    playing = asyncio.current_task()
    assert playing is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, playing.cancel)


def _leave(folder: Path, report: Report, *, keep: bool) -> None:
    if keep:
        report.say(f"state and logs are in {folder}")
    else:
        shutil.rmtree(folder)


async def _play(folder: Path, report: Report, *, shield: bool, reads: int) -> None:
    start = time.monotonic()
    wanted = {"shield": 1, **REPLICAS} if shield else REPLICAS
    report.say(f"starting {', '.join(f'{count} {name}' for name, count in wanted.items())} as processes …")
    async with machine(folder, FEED.parent, shield=shield) as running:
        report.done(
            "the mesh serves", f"{sum(wanted.values())} replicas after {time.monotonic() - start:.1f} s"
        )
        await _ingest(running, report)
        probe = await _probe(running)
        report.say(f"reading brain {reads} times a second …")
        async with reading(running.mesh, probe, reads) as tally:
            harvest = await _harvest(running, report)
        _judge_reads(tally, harvest, report, reads)
        _judge_freeze(harvest, report)
        _judge_processes(running, report)
        await _judge_harvest(running, harvest, report)
        await _ask(running, report)
        await running.remember()
        report.summary(tally, harvest.executors, running.names)


async def _ingest(running: Machine, report: Report) -> None:
    pages = documents()
    cells = [await ingest(running.mesh, page) for page in pages]
    report.check(
        bool(pages) and all(cells), "documents ingested", f"{len(pages)} pages, {sum(cells)} cells in brain"
    )


async def _probe(running: Machine) -> str:
    """Puts the cell into brain that the steady reads ask for."""
    cell = brain.Cell(id="probe", text="The cell that the demo reads again and again.", source="demo")
    await running.mesh.client(BrainClient).upsert(brain.UpsertRequest(cells=[cell]))
    return cell.id


async def _harvest(running: Machine, report: Report) -> Harvest:
    """Harvests the feed, and makes trouble when a quarter of it is done."""
    client, harvest = running.mesh.client(WorkerClient), Harvest(begun=time.perf_counter())
    request = worker.StartWorkflowRequest(workflow="harvest", idempotency_key="demo")
    request.arguments.update({"feed": str(FEED), "source": SOURCE})
    harvest.workflow_id = (await client.start_workflow(request)).id
    report.say(f"harvesting {FEED.name} …")
    trouble: asyncio.Task[None] | None = None
    state = worker.WorkflowState.WORKFLOW_STATE_UNSPECIFIED
    async with asyncio.timeout(HARVEST_SECONDS):
        while state < worker.WorkflowState.WORKFLOW_STATE_SUCCEEDED:
            try:
                async for seen in client.watch_workflow(worker.WatchWorkflowRequest(id=harvest.workflow_id)):
                    state = seen.state
                    if trouble is None and seen.total and seen.done * 4 >= seen.total:
                        trouble = asyncio.create_task(_make_trouble(running, seen.executor, harvest, report))
            except MeshError as error:  # the replica that answered was killed: another one answers
                report.event(f"the watch broke ({error.reason}) and is opened anew")
    harvest.ended = time.perf_counter()
    if trouble is not None:
        await trouble
    good = state == worker.WorkflowState.WORKFLOW_STATE_SUCCEEDED and trouble is not None
    name = worker.WorkflowState.Name(state).removeprefix("WORKFLOW_STATE_").lower()
    seconds = harvest.ended - harvest.begun
    report.check(good, f"harvest {name}", f"after {seconds:.1f} s; {'; '.join(harvest.killed)}")
    return harvest


async def _make_trouble(running: Machine, executor: str, harvest: Harvest, report: Report) -> None:
    """Kills a brain, the worker that leads the harvest, and Shield; stops another worker for a while."""
    instances = {one.instance_id: one for one in await running.mesh.instances("worker")}
    if executor not in instances:
        raise NotAsWanted(f"the registry does not know {executor or 'the worker'} that leads the harvest")
    leader = running.child_of("worker", instances[executor].shard_key)
    other = next(child for child in running.supervisor.children["worker"] if child is not leader)
    victim = running.supervisor.children["brain"][0]
    async with asyncio.TaskGroup() as together:
        harvest.frozen = time.perf_counter()
        report.event(f"SIGSTOP {other.pid} ({other.name}) for {FROZEN_SECONDS:g} s")
        together.create_task(running.freeze(other, FROZEN_SECONDS))
        await asyncio.sleep(KILL_AFTER_SECONDS)
        harvest.broken = time.perf_counter()
        for child in (victim, leader, *running.supervisor.children.get("shield", ())):
            report.event(f"kill -9 {child.pid} ({child.name})")
            running.kill(child)
            harvest.killed.append(f"{child.name} killed")
    harvest.mended = time.perf_counter()
    harvest.killed.append(f"{other.name} frozen for {FROZEN_SECONDS:g} s")
    report.event(f"SIGCONT {other.pid} ({other.name})")


def _judge_reads(tally: Tally, harvest: Harvest, report: Report, wanted: int) -> None:
    """No read failed; and there were reads all the while that brain was a replica short or had a new one."""
    failed, rate = len(tally.failures), tally.per_second(harvest.broken, harvest.mended)
    text = f"{len(tally.latencies)} answered, {failed} failed"
    if tally.failures:
        text += f": {tally.failures[0]}"
    text += f"; {rate:.0f} a second in the {harvest.mended - harvest.broken:.1f} s from the kill on"
    least = wanted * LEAST_SHARE
    if rate < least:
        text += f", below {least:g}: this machine is too busy to show what the demo says; --reads takes fewer"
    report.check(not failed and rate >= least, "reads of brain", text)


def _judge_freeze(harvest: Harvest, report: Report) -> None:
    """The stopped worker stood still, and went on, while there was work for it."""
    first, last, whole = (
        moment - harvest.begun for moment in (harvest.frozen, harvest.mended, harvest.ended)
    )
    inside = 0 < first < last < whole
    text = f"from {first:.1f} s to {last:.1f} s of {whole:.1f} s"
    if not inside:
        text += ": the harvest was over before the worker went on"
    report.check(inside, "frozen within the harvest", text)


def _judge_processes(running: Machine, report: Report) -> None:
    """Those that were killed run again, and no other has died."""
    children = [child for service in running.supervisor.children.values() for child in service]
    again = {child.name: child.starts for child in children if child.starts != 1}
    down = [child.name for child in children if child.pid is None]
    text = "started again: " + ", ".join(f"{name} ({starts - 1}x)" for name, starts in again.items())
    if down:
        text += f"; not running: {', '.join(down)}"
    report.check(not down and again == dict.fromkeys(running.killed, 2), "processes", text)


async def _judge_harvest(running: Machine, harvest: Harvest, report: Report) -> None:
    database = running.mesh.config.state_dir / "commerce.sqlite"
    finding: Finding = await asyncio.to_thread(audit, FEED, database, TENANT, SOURCE)
    report.check(
        finding.good,
        "one row per valid item",
        f"{len(finding.expected.prices)} items, {finding.missing} missing, {finding.doubled} doubled, "
        f"{finding.expected.repeats} repeats merged, {finding.wrong_prices} wrong prices",
    )
    listed = ", ".join(f"{reason.lower()} {count}" for reason, count in sorted(finding.rejected.items()))
    report.check(bool(finding.rejected), "rejected rows", f"{sum(finding.rejected.values())}: {listed}")
    stats = await running.mesh.client(BrainClient).stats(brain.StatsRequest())
    report.check(
        stats.products == len(finding.expected.prices),
        "products in brain",
        f"{stats.products}, as many as items",
    )
    harvest.executors.update(await asyncio.to_thread(_done_by, database))


def _done_by(database: Path) -> dict[str, int]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as tables:
        return dict(tables.execute("SELECT done_by, count(*) FROM batches GROUP BY done_by"))


async def _ask(running: Machine, report: Report) -> None:
    agents, privacy = running.mesh.client(RouterClient), running.mesh.client(ZeroClient)
    for question in QUESTIONS:
        masked = await privacy.anonymize(zero.AnonymizeRequest(text=question, session_id="demo-look"))
        reply = await agents.execute_agent(
            router.ExecuteAgentRequest(agent_id="default", input=question, session_id="demo-ask")
        )
        report.answer(question, masked.text if masked.entities else "", reply)
        steps = {step.name: step.outcome for step in reply.steps}
        well = all(outcome != router.StepOutcome.STEP_OUTCOME_FAILED for outcome in steps.values())
        report.check(
            reply.answered and bool(reply.citations) and well,
            "answered",
            f"by {reply.answered_by}, {len(reply.citations)} citations",
        )
        if question == QUESTIONS[-1]:
            kinds = {zero.PiiKind.Name(entity.kind) for entity in masked.entities}
            secret = [part for part in ("ada@example.com", "901820", "4111") if part in masked.text]
            report.check(not secret and len(kinds) == 3, "masked", ", ".join(map(_readable, sorted(kinds))))


def _readable(kind: str) -> str:
    """`PII_KIND_PAYMENT_CARD` as people write it."""
    return kind.removeprefix("PII_KIND_").replace("_", " ").lower()
