"""`meshkit doctor`: what it says of a mesh that is well, and of each thing that may be wrong."""

import json
import os
import socket
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from main import Greeter
from typer.testing import CliRunner

from meshkit import Instance, SharedConfig
from meshkit._gen.meshkit.v1 import mesh_pb2 as pb
from meshkit.cli.doctor.certificates import look_at_certificates
from meshkit.cli.doctor.configuration import load_settings
from meshkit.cli.doctor.databases import look_at_databases
from meshkit.cli.doctor.findings import Case, Finding, Grade, Named, fault, good, note, warning
from meshkit.cli.doctor.instances import Answer, ask, clocks, handshakes
from meshkit.cli.doctor.ports import look_at_ports
from meshkit.cli.doctor.redis import NEEDED, look_at, look_at_redis
from meshkit.cli.doctor.registry import look_at_registry
from meshkit.cli.doctor.report import drawn, summary
from meshkit.cli.doctor.rows import look_at_rows
from meshkit.cli.doctor.verb import _exit_code, _look
from meshkit.config import ConfigError, Problem, RedisUrl, Secret
from meshkit.discovery import Snapshot
from meshkit.discovery.memory import MemoryRegistry
from meshkit.errors import Unauthenticated
from meshkit.redis.database import Database
from meshkit.redis.server import LocalServer
from meshkit.replica import Replica
from meshkit.security.projects.rows import projects_key
from meshkit.security.revoking import revocations_key
from reference_services.brain.config import BrainConfig
from tests.certificates import Signer, write_private
from tests.cli.conftest import Shell
from tests.security.services import Echo

SECRET = "s" * 40
KEY = f"k1:{'A' * 43}"
RIGHTS = (
    "+hello +ping +select +subscribe +unsubscribe +eval +evalsha +time +get +set +exists +publish +zadd +zrem +zscore "
    "+zcard +zrange +zrangebyscore +zscan +hget +hset +hdel +hlen +hscan +sadd +smembers"
)
"""The rights of docs/redis.md; a test holds the page to them."""


def grades(findings: Sequence[Finding]) -> list[str]:
    return [finding.grade.value for finding in findings]


def only(findings: Sequence[Finding]) -> Finding:
    (found,) = findings
    return found


def config_of(folder: Path, **values: Any) -> SharedConfig:
    given = {"state_dir": folder, "project_secret": SECRET, "grpc_port": 0, "drain_propagation_s": 0.0}
    return SharedConfig(**{**given, **values})


def test_a_mesh_that_is_well(greeting: Shell) -> None:
    done = greeting("doctor", "hello:Hello", "--json")
    found = json.loads(done.out)
    assert (done.code, found["faults"], found["warnings"]) == (0, 0, 0), done.out + done.err
    told = {(each["area"], each["grade"]) for each in found["findings"]}
    for area in ("configuration", "ports", "registry", "handshakes", "clocks"):
        assert (area, "ok") in told
    port = next(each["what"] for each in found["findings"] if each["area"] == "ports")
    assert "is any free port" in port or "is served by greeter-" in port


def test_it_is_text_for_people_and_says_where_settings_are_wrong(greeting: Shell) -> None:
    done = greeting("doctor", "hello:Hello", LOG_LEVEL="loud", COLUMNS="80")
    assert done.code == 78
    lines = done.out.splitlines()
    assert lines[:3] == [
        "configuration",
        "  fault   hello:Hello: LOG_LEVEL: 'loud' is none of its values (environment)",
        "          → it must be DEBUG, INFO, WARNING, ERROR or CRITICAL",
    ]
    assert lines[-1] == "1 fault"
    assert "takes our calls" in done.out, "the rest is looked at all the same"
    assert all(line == line.rstrip() for line in lines)


def test_the_command_line_may_name_no_such_service() -> None:
    from meshkit.cli.doctor.verb import doctor
    from meshkit.cli.output import Failure

    for target in ("main:Nobody", "tests.cli.test_doctor:SECRET"):
        with pytest.raises(Failure) as caught:
            load_settings([target])
        assert caught.value.code == 2
    assert "Exits with 0 where there is no fault" in (doctor.__doc__ or "")


def test_each_exit_code_has_its_cause() -> None:
    assert _exit_code({"configuration": [good("")], "ports": [warning("", ""), note("")]}) == 0
    assert _exit_code({"configuration": [good("")], "ports": [fault("", "")]}) == 1
    assert _exit_code({"configuration": [fault("", "")], "ports": [fault("", "")]}) == 78


async def test_an_area_that_cannot_be_looked_at_is_a_finding() -> None:
    async def wrong() -> Sequence[Finding]:
        raise ConfigError([Problem("GRPC_TLS_CA_CERT", "there is no file", "mend the path")])

    async def broken() -> Sequence[Finding]:
        raise OSError("no such device")

    assert await _look(wrong) == [fault("GRPC_TLS_CA_CERT: there is no file", "mend the path")]
    assert only(await _look(broken)).what == "no such device"


def test_long_lines_go_on_below_their_beginning() -> None:
    found = {"ports": [fault("one two three four five six", "seven eight nine ten eleven"), good("fine")]}
    lines = [line.plain for line in drawn(found, 32)]
    assert lines == [
        "ports",
        "  fault   one two three four",
        "          five six",
        "          → seven eight nine ten",
        "            eleven",
        "  ok      fine",
        "",
        "1 fault",
    ]
    assert summary(found) == {"faults": 1, "warnings": 0}


async def test_a_port_is_free_or_taken_by_somebody_who_is_named(tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        config = config_of(tmp_path, grpc_port=port, health_port=0)
        found = await look_at_ports(Case(config, [Named("main:Greeter", config, Greeter)]))
        assert grades(found) == ["fault", "ok"]
        assert f"greeter: 127.0.0.1:{port} is taken by `" in found[0].what
        assert f"(pid {os.getpid()})" in found[0].what
        assert found[0].mend == "stop what listens there, or set GRPC_PORT"
        own = Instance(service="greeter", instance_id="greeter-1", address=f"127.0.0.1:{port}")
        snapshot = Snapshot("greeter", {"greeter-1": own})
        case = Case(config, [Named("main:Greeter", config, Greeter)], snapshots={"greeter": snapshot})
        assert "is served by greeter-1" in (await look_at_ports(case))[0].what
    found = await look_at_ports(Case(config, [Named("main:Greeter", config, Greeter)]))
    assert found[0] == good(f"greeter: 127.0.0.1:{port} is free")
    assert grades(await look_at_ports(Case(config))) == ["note"]


async def test_a_host_that_is_not_of_this_machine_is_told(tmp_path: Path) -> None:
    config = config_of(tmp_path, grpc_host="192.0.2.1", grpc_port=7)
    found = only(await look_at_ports(Case(config, [Named("main:Greeter", config, Greeter)])))
    assert (found.grade, "cannot be bound" in found.what) == (Grade.FAULT, True)


async def test_certificates_are_told_with_their_days_and_their_faults(tmp_path: Path) -> None:
    signer, stranger, ca = Signer(), Signer(), tmp_path / "ca.pem"
    ca.write_bytes(signer.pem)

    async def look(**files: Path) -> list[Finding]:
        both = {f"grpc_tls_server_{kind}": files["server"] for kind in ("cert", "key")}
        config = config_of(tmp_path, grpc_tls_enabled=True, grpc_tls_ca_cert=ca, **both)
        return await look_at_certificates(Case(config, [Named("main:Greeter", config, Greeter)]))

    server = write_private(tmp_path / "greeter.pem", signer.service("greeter", until=30).both)
    found = await look(server=server)
    assert grades(found) == ["ok", "ok"]
    assert "greeter.contextunity" in found[1].what
    assert "30 days left" in found[1].what
    write_private(server, signer.service("greeter", until=0.2).both)
    assert (await look(server=server))[1].grade is Grade.WARNING
    write_private(server, stranger.service("greeter").both)
    found = await look(server=server)
    assert "was signed by none of the authorities" in found[1].what
    assert "meshkit certs issue greeter" in found[1].mend
    assert grades(await look_at_certificates(Case(config_of(tmp_path)))) == ["note"]


@pytest.fixture
async def redis_server(tmp_path: Path) -> AsyncIterator[LocalServer]:
    async with LocalServer(tmp_path / "redis") as server:
        yield server


async def test_a_redis_is_looked_at_with_the_rights_of_the_docs_and_nothing_stays(
    redis_server: LocalServer, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    assert RIGHTS in page
    assert {f"+{command.lower()}" for command, *_ in NEEDED} <= set(RIGHTS.split())
    admin = Database(RedisUrl.parse(redis_server.url))
    base = ("ACL", "SETUSER", "mesh", "reset", "on", ">pw", "~contextunity:*", "&contextunity:*", "-@all")
    await admin.execute(*base, *RIGHTS.split())
    url = RedisUrl.parse(f"redis://mesh:pw@{redis_server.url.rpartition('@')[2]}")
    config = config_of(tmp_path)
    found = await look_at(url, config)
    assert grades(found) == ["ok", "ok", "ok", "note", "note"], found
    assert "as mesh" in found[0].what
    await admin.execute(*base, *RIGHTS.replace("+smembers", "").replace("+eval ", "").split())
    lacking = next(each for each in await look_at(url, config) if each.grade is Grade.FAULT)
    assert lacking.what == "the user may not use smembers, eval on contextunity:*"
    await admin.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    found = await look_at(admin.url, config)
    assert grades(found) == ["ok", "ok", "ok", "ok", "warning"]
    assert "allkeys-lru" in found[-1].what
    keys = await admin.execute("KEYS", "*")
    assert all([0 < await admin.execute("PTTL", key) <= 10_000 for key in keys])
    wrong = await look_at(RedisUrl.parse(str(redis_server.url).replace("redis://:", "redis://:x")), config)
    assert "refuses the user or the password" in only(wrong).what
    await admin.close()


async def test_a_redis_that_does_not_answer_is_told_once(tmp_path: Path) -> None:
    url = "redis://127.0.0.1:1/0"
    config = config_of(tmp_path, redis_url=Secret(url), registry_url=url)
    assert only(await look_at_redis(Case(config))).grade is Grade.FAULT
    assert grades(await look_at_rows(Case(config))) == ["note"]
    assert grades(await look_at_redis(Case(config_of(tmp_path)))) == ["note"]


async def test_rows_that_do_not_open_are_named(redis_server: LocalServer, tmp_path: Path) -> None:
    config = config_of(tmp_path, redis_url=Secret(redis_server.url), redis_secret_key=Secret(KEY))
    database = Database(RedisUrl.parse(redis_server.url))
    assert grades(await look_at_rows(Case(config))) == ["ok", "ok"]
    await database.execute("HSET", projects_key("contextunity"), "shop:k1", "plain")
    await database.execute("ZADD", revocations_key("contextunity"), 9e9, "plain")
    found = await look_at_rows(Case(config))
    assert grades(found) == ["ok", "fault", "ok", "fault"]
    assert found[1].what.startswith("the key shop:k1 cannot be used: it is not sealed")
    assert found[3].what.startswith("a revocation cannot be used: ")
    await database.close()


async def test_databases_are_looked_at_by_their_kind(tmp_path: Path) -> None:
    file = tmp_path / "brain.sqlite"

    async def look(url: str) -> Finding:
        config = BrainConfig(state_dir=tmp_path, brain_database_url=url)
        return only(await look_at_databases(Case(config, [Named("brain", config)])))

    assert (await look("")).grade is Grade.GOOD
    assert (await look(f"sqlite:///{file}")).grade is Grade.GOOD
    file.write_bytes(b"this is no database, and long enough to be taken for one" * 20)
    assert "cannot be read (file is not a database)" in (await look(f"sqlite:///{file}")).what
    file.unlink()
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE cells (id)")
    database.close()
    assert (await look(f"sqlite:///{file}")).what.endswith("1 tables and indexes")
    refused = await look("postgresql://u:canary@127.0.0.1:1/db")
    assert (refused.grade, "no connection" in refused.what) == (Grade.FAULT, True)
    assert "canary" not in repr(refused)


async def test_a_service_says_itself_what_else_it_needs(tmp_path: Path) -> None:
    class Needy(Greeter, name="needy"):
        """Needs an endpoint."""

        @classmethod
        async def examine_setup(cls, config: SharedConfig) -> Sequence[Problem]:
            return [Problem("NEEDY_URL", f"does not answer {config.project_id}", "start it")]

    config = config_of(tmp_path)
    found = await look_at_databases(Case(config, [Named("a:Needy", config, Needy)]))
    assert found == [fault("NEEDY_URL: does not answer local", "start it")]
    assert grades(await look_at_databases(Case(config, [Named("main:Greeter", config, Greeter)]))) == ["note"]


@asynccontextmanager
async def serving(config: SharedConfig) -> AsyncIterator[dict[str, Snapshot]]:
    registry = MemoryRegistry()
    replica = Replica(Echo, config, registry)
    await replica.start()
    assert replica.instance is not None
    try:
        yield {"echo": Snapshot("echo", {replica.instance_id: replica.instance})}
    finally:
        await replica.kill()


async def test_each_instance_is_asked_with_a_call_like_any_other(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    async with serving(config) as snapshots:
        answers = await ask(Case(config, snapshots=snapshots))
        assert grades(handshakes(answers)) == ["ok"]
        assert grades(clocks(answers, config)) == ["ok"]
        stranger = config_of(tmp_path, project_secret=f"other:{SECRET}")
        refused = only(handshakes(await ask(Case(stranger, snapshots=snapshots))))
        assert "refuses our calls" in refused.what
        assert "give both the same CU_PROJECT_SECRET" in refused.mend
    gone = only(handshakes(await ask(Case(config, snapshots=snapshots))))
    assert (gone.grade, "cannot be reached" in gone.what) == (Grade.FAULT, True)
    assert grades(handshakes([])) == grades(clocks([], config)) == ["note"]


async def test_an_instance_over_tls_is_asked_over_tls(tmp_path: Path) -> None:
    signer, ca = Signer(), tmp_path / "ca.pem"
    ca.write_bytes(signer.pem)
    own = write_private(tmp_path / "echo.pem", signer.service("echo", until=3, since=-20).both)
    files = {f"grpc_tls_{side}_{kind}": own for side in ("server", "client") for kind in ("cert", "key")}
    config = config_of(tmp_path, grpc_tls_enabled=True, grpc_tls_ca_cert=ca, **files)
    async with serving(config) as snapshots:
        found = handshakes(await ask(Case(config, snapshots=snapshots)))
        assert grades(found) == ["ok", "warning", "warning"]
        assert "its server certificate expires in 3.0 days" in found[1].what
        plain = only(handshakes(await ask(Case(config_of(tmp_path), snapshots=snapshots))))
        assert "GRPC_TLS_ENABLED" in plain.what


def test_clocks_that_go_wrong_are_told_before_calls_are_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    instance = Instance(service="echo", instance_id="echo-1", address="h:1")
    said = pb.DescribeResponse()
    late = Answer(instance, described=said, took=0.1, ahead=-9.0)
    right = Answer(instance, described=said, took=0.1, ahead=0.05)
    found = clocks([late, right], config)
    assert grades(found) == ["warning", "ok"]
    assert found[0].what == "echo-1 is 9.0 s behind"
    refusal = Unauthenticated("the clocks are 40 s apart", reason="CLOCK_SKEW")
    assert grades(clocks([Answer(instance, refusal=refusal)], config)) == ["fault"]


async def test_records_that_nobody_can_use_are_named(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    snapshots = {"echo": Snapshot("echo", {}, refused={"echo-9": "it is sealed with the key k9"})}
    case = Case(config, [Named("echo:Echo", config, Echo)], MemoryRegistry(), snapshots)
    found = await look_at_registry(case)
    assert grades(found) == ["note", "fault", "warning"]
    assert found[1].what == "echo: the record echo-9 is not used: it is sealed with the key k9"
    assert "meshkit registry list" in found[1].mend
    silent = only(await look_at_registry(Case(config, silence="redis://h cannot be reached")))
    assert (silent.grade, silent.what) == (Grade.FAULT, "redis://h cannot be reached")


def test_it_stands_in_the_help() -> None:
    import typer

    from meshkit.cli.doctor.verb import doctor

    app = typer.Typer()
    app.command()(doctor)
    assert "It changes nothing" in CliRunner().invoke(app, ["--help"]).stdout
