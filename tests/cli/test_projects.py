"""`meshkit projects` on a real Redis."""

import asyncio
import base64
import io
import json
import os
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from meshkit import cli
from meshkit.cli.output import ExitCode
from meshkit.config import RedisUrl, parse_project_secrets, parse_sealing_keys
from meshkit.redis.database import Database
from meshkit.redis.sealing import Sealer, sealed_with
from meshkit.redis.server import LocalServer
from meshkit.security.keys import KeyRow
from meshkit.security.projects import ProjectTable
from tests.cli.conftest import Done, Shell

OLD = "old:" + base64.urlsafe_b64encode(b"o" * 32).decode()
NEW = "new:" + base64.urlsafe_b64encode(b"n" * 32).decode()
SECRET = "canary-a-secret-of-the-shop-0123456789"
GRANTS = (
    "--tenant",
    "acme",
    "--permission",
    "brain:read",
    "--permission",
    "brain:search",
    "--subject",
    "till",
)


@pytest.fixture
async def database(server: LocalServer) -> AsyncIterator[Database]:
    opened = Database(RedisUrl.parse(server.url))
    yield opened
    await opened.close()


class Projects:
    """The verb on a server, in a thread of this process, in a folder of its own."""

    def __init__(self, folder: Path, server: LocalServer, database: Database) -> None:
        self.folder = folder
        self.settings = {
            "CU_STATE_DIR": str(folder / "state"),
            "REDIS_URL": server.url,
            "REDIS_SECRET_KEY": OLD,
        }
        self.database = database

    async def __call__(self, *words: str, stdin: str = "", verb: str = "projects", **settings: str) -> Done:
        done = await asyncio.to_thread(self._run, (verb, *words), stdin, self.settings | settings)
        assert SECRET not in done.out + done.err
        return done

    async def ok(self, *words: str, stdin: str = "", **settings: str) -> Any:
        """What it prints as JSON."""
        done = await self(*words, "--json", stdin=stdin, **settings)
        assert done.code == 0, done.err
        return json.loads(done.out)

    async def keys(self) -> dict[str, KeyRow | None]:
        """What verifiers find."""
        sealer = Sealer(parse_sealing_keys(self.settings["REDIS_SECRET_KEY"]))
        table = ProjectTable(self.database, namespace="contextunity", sealer=sealer, author="a test")
        return {stored.field: stored.row and stored.row.key for stored in await table.rows()}

    def _run(self, words: Sequence[str], stdin: str, settings: Mapping[str, str]) -> Done:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            for name in [
                name for name in os.environ if name.startswith(("CU_", "GRPC_", "SERVICE_", "REDIS_"))
            ]:
                patch.delenv(name)
            for name, value in settings.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
                cli.main(words)
        return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture
def projects(tmp_path: Path, server: LocalServer, database: Database) -> Projects:
    return Projects(tmp_path, server, database)


async def test_a_key_with_a_secret_from_standard_input(projects: Projects) -> None:
    done = await projects("add", "shop", *GRANTS, "--secret-file", "-", stdin=f"s1:{SECRET}\n")
    assert (done.code, done.out) == (0, "")
    assert "shop:s1 is added, and active" in done.err
    found = (await projects.keys())["shop:s1"]
    assert found is not None
    assert found.secret == SECRET.encode()
    assert found.grants.permissions == {"brain:read", "brain:search"}
    assert (found.grants.tenants, found.grants.subjects) == ({"acme"}, {"till"})


async def test_a_key_with_a_secret_from_a_file_has_the_kid_of_a_bare_secret(projects: Projects) -> None:
    (projects.folder / "secret").write_text(f"{SECRET}\n")
    (bare,) = parse_project_secrets(SECRET)
    assert (await projects.ok("add", "shop", "--secret-file", "secret"))["kid"] == bare.kid
    assert (await projects.ok("add", "shop", "--kid", "s2", "--secret-file", "secret"))["kid"] == "s2"
    assert list(await projects.keys()) == sorted([f"shop:{bare.kid}", "shop:s2"])


async def test_a_secret_that_is_made_is_printed_once(projects: Projects) -> None:
    done = await projects("add", "shop", *GRANTS)
    assert done.code == 0, done.err
    assert "its secret is printed this once" in done.err
    (made,) = parse_project_secrets(done.out.strip())
    found = (await projects.keys())[f"shop:{made.kid}"]
    assert found is not None
    assert found.secret == made.secret.encode()
    assert made.secret not in done.err
    again = await projects("add", "shop", "--kid", made.kid)
    assert (again.code, again.out) == (0, "")
    named = await projects.ok("add", "shop", "--kid", "s2")
    assert named["secret"].startswith("s2:")


async def test_a_secret_that_is_made_goes_to_a_new_file_of_the_owner(projects: Projects) -> None:
    path = projects.folder / "made"
    done = await projects("add", "shop", "--kid", "s1", "--out", "made")
    assert (done.code, done.out) == (0, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (made,) = parse_project_secrets(path.read_text().strip())
    found = (await projects.keys())["shop:s1"]
    assert found is not None
    assert found.secret == made.secret.encode()
    there = await projects("add", "shop", "--kid", "s2", "--out", "made")
    assert (there.code, "File exists" in there.err) == (ExitCode.USAGE, True)
    kept = await projects("add", "shop", "--kid", "s1", "--out", "other")
    assert (kept.code, "keeps its own" in kept.err) == (ExitCode.FAILED, True)
    assert not (projects.folder / "other").exists()
    assert list(await projects.keys()) == ["shop:s1"]


async def test_no_file_is_left_where_the_key_was_not_written(projects: Projects) -> None:
    done = await projects("add", "shop", "--out", "made", REDIS_URL="redis://127.0.0.1:1/0")
    assert (done.code, "cannot be reached" in done.err) == (ExitCode.FAILED, True)
    assert not (projects.folder / "made").exists()


async def test_grants_are_changed_list_by_list_and_the_secret_stays(projects: Projects) -> None:
    await projects.ok("add", "shop", *GRANTS, "--secret-file", "-", stdin=f"s1:{SECRET}")
    done = await projects(
        "add", "shop", "--kid", "s1", "--tenant", "*", "--subject", "", "--status", "retiring"
    )
    assert "is granted no subject" in done.err
    found = (await projects.keys())["shop:s1"]
    assert found is not None
    assert (found.secret, found.status.value) == (SECRET.encode(), "retiring")
    assert (found.grants.tenants, found.grants.subjects) == ({"*"}, frozenset())
    assert found.grants.permissions == {"brain:read", "brain:search"}


async def test_a_retired_key_keeps_no_secret(projects: Projects) -> None:
    await projects.ok("add", "shop", *GRANTS, "--secret-file", "-", stdin=f"s1:{SECRET}")
    done = await projects("add", "shop", "--kid", "s1", "--status", "retired")
    assert "its secret is kept no longer" in done.err
    found = (await projects.keys())["shop:s1"]
    assert found is not None
    assert (found.secret, found.status.value) == (None, "retired")
    back = await projects("add", "shop", "--kid", "s1")
    assert (back.code, "was retired, and its secret is not kept" in back.err) == (ExitCode.FAILED, True)
    assert (await projects.ok("add", "shop", "--secret-file", "-", stdin=f"s1:{SECRET}"))[
        "status"
    ] == "active"
    unknown = await projects.ok("add", "bank", "--kid", "b1", "--status", "retired")
    assert "secret" not in unknown


async def test_a_key_is_not_given_another_secret(projects: Projects) -> None:
    await projects.ok("add", "shop", "--secret-file", "-", stdin=f"s1:{SECRET}")
    done = await projects("add", "shop", "--secret-file", "-", stdin=f"s1:{SECRET[::-1]}")
    assert (done.code, "is there with another secret" in done.err) == (ExitCode.FAILED, True)
    found = (await projects.keys())["shop:s1"]
    assert found is not None
    assert found.secret == SECRET.encode()


async def test_the_list_tells_all_but_the_secrets(projects: Projects) -> None:
    assert "no keys" in (await projects("list")).err
    await projects.ok("add", "shop", *GRANTS, "--secret-file", "-", stdin=f"s1:{SECRET}")
    await projects.ok("add", "bank", "--kid", "b1", "--status", "retired")
    done = await projects("list")
    assert done.code == 0
    _, _, bank, shop = done.out.splitlines()
    assert bank.split()[:3] == ["bank", "b1", "retired"]
    assert "brain:read, brain:search" in shop
    assert "@" in shop
    listed = await projects.ok("list")
    assert [(row["project"], row["status"]) for row in listed] == [("bank", "retired"), ("shop", "active")]
    assert set(listed[1]) == {"project", "kid", "status", "grants", "written_at", "written_by"}


async def test_keys_are_removed_one_or_all(projects: Projects) -> None:
    for kid in ("s1", "s2", "s3"):
        await projects.ok("add", "shop", "--kid", kid)
    await projects.ok("add", "shopping", "--kid", "s1")
    assert await projects.ok("remove", "shop", "--kid", "s2") == [{"project": "shop", "kid": "s2"}]
    done = await projects("remove", "shop")
    assert done.out.splitlines() == ["removed shop:s1", "removed shop:s3"]
    assert [row["project"] for row in await projects.ok("list")] == ["shopping"]
    assert [row["status"] for row in await projects.ok("list", "--all")] == ["removed"] * 3 + ["active"]
    for words in (("shop",), ("shop", "--kid", "s2"), ("bank",)):
        done = await projects("remove", *words)
        assert (done.code, "--status retired" in done.err) == (ExitCode.FAILED, True)
    assert (await projects("forget")).out == "0 removed keys forgotten\n"
    assert await projects.ok("forget", "--days", "0") == {"forgotten": 3}
    assert list(await projects.keys()) == ["shopping:s1"]


async def test_a_row_that_cannot_be_used_is_listed_with_the_reason(projects: Projects) -> None:
    await projects.database.execute("HSET", "contextunity:projects", "shop:\x1b[2J", "junk")
    done = await projects("list")
    assert (done.code, done.out) == (ExitCode.FAILED, "")
    assert "the row shop:?[2J cannot be used, and services ignore it: it is not sealed" in done.err
    listed = await projects("list", "--json")
    assert listed.code == ExitCode.FAILED
    assert "it is not sealed" in json.loads(listed.out)[0]["unusable"]


async def test_keys_survive_a_change_of_the_sealing_key(projects: Projects) -> None:
    await projects.ok("add", "shop", "--secret-file", "-", stdin=f"s1:{SECRET}")
    done = await projects("list", REDIS_SECRET_KEY=NEW)
    assert (done.code, "not in REDIS_SECRET_KEY here: add it" in done.err) == (ExitCode.FAILED, True)
    projects.settings["REDIS_SECRET_KEY"] = f"{NEW},{OLD}"
    assert (await projects("reseal", verb="registry")).code == 0
    assert sealed_with(await projects.database.execute("HGET", "contextunity:projects", "shop:s1")) == "new"
    projects.settings["REDIS_SECRET_KEY"] = NEW
    assert [row["kid"] for row in await projects.ok("list")] == ["s1"]


@pytest.mark.parametrize(
    ("words", "stdin", "said"),
    [
        (["add", "Shop"], "", "project: "),
        (["add", "shield"], "", "the project name shield is reserved"),
        (["add", "shop", "--kid", "a:b"], "", "kid: "),
        (["add", "shop", "--tenant", "a b"], "", "is not a tenant, nor *"),
        (["add", "shop", "--permission", "brain"], "", "is not service:verb or service:*, nor *"),
        (["add", "shop", "--delegate", "Bank"], "", "is not a project, nor *"),
        (["add", "shop", "--status", "paused"], "", "paused"),
        (["add", "shop", "--status", "retired"], "", "say with --kid which key is retired"),
        (["add", "shop", "--secret-file", "-"], "short", "shorter than 32"),
        (["add", "shop", "--secret-file", "-"], "", "give one secret"),
        (["add", "shop", "--secret-file", "-"], "x" * 9000, "more than 8192 bytes"),
        (["add", "shop", "--secret-file", "-"], f"a:{SECRET},b:{SECRET[::-1]}", "give one secret"),
        (["add", "shop", "--secret-file", "-", "--kid", "b"], f"a:{SECRET}", "comes with the kid a"),
        (
            ["add", "shop", "--secret-file", "-", "--out", "x"],
            f"a:{SECRET}",
            "--out is for a secret that is made",
        ),
        (["add", "shop", "--secret-file", "none"], "", "none cannot be read: No such file"),
        (["add", "shop", "--out", "none/there"], "", "--out none/there cannot be made: No such file"),
        (["remove", "Shop"], "", "is no project"),
        (["remove", "shop", "--kid", "a b"], "", "is no kid"),
        (["forget", "--days", "-1"], "", "--days"),
    ],
)
async def test_what_cannot_be_is_a_usage_error(
    projects: Projects, words: list[str], stdin: str, said: str
) -> None:
    done = await projects(*words, stdin=stdin)
    assert (done.code, said in done.err) == (ExitCode.USAGE, True), done.err
    assert not await projects.keys()


def test_without_redis_or_a_sealing_key_there_is_no_store(shell: Shell) -> None:
    done = shell("projects", "list")
    assert (done.code, "REDIS_URL: is not set" in done.err) == (ExitCode.CONFIG, True)
    done = shell("projects", "add", "shop", REDIS_URL="redis://127.0.0.1:1/0")
    assert done.code == ExitCode.CONFIG
    assert "REDIS_SECRET_KEY: is false, and the project store holds secrets" in done.err


def test_as_a_process_it_reads_the_secret_from_a_pipe(shell: Shell, server: LocalServer) -> None:
    settings = {"REDIS_URL": server.url, "REDIS_SECRET_KEY": OLD}
    done = shell("projects", "add", "shop", "--secret-file", "-", stdin=f"s1:{SECRET}\n", **settings)
    assert (done.code, done.out) == (0, "")
    assert SECRET not in done.err


async def test_a_redis_that_refuses_us_is_told_in_one_line(projects: Projects, server: LocalServer) -> None:
    wrong = f"redis://:not-the-password@127.0.0.1:{server.port}/0"
    done = await projects("list", REDIS_URL=wrong)
    assert (done.code, done.err.count("\n")) == (ExitCode.FAILED, 1)
    assert "refuses the user or the password" in done.err


async def test_where_there_is_a_shield_it_says_that_the_store_counts_for_nothing(projects: Projects) -> None:
    done = await projects("list", CU_SHIELD_GRPC_URL="127.0.0.1:1")
    assert (done.code, "services take no keys of the project store" in done.err) == (0, True)
