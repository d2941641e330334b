"""What is wrong is told, whatever stands between: one server, Sentinels, a Cluster, and each of them over TLS."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from meshkit.config.redis_url import RedisUrl
from meshkit.redis.database import MAX_COMMANDS, Database
from meshkit.redis.server import HOST, LocalServer
from meshkit.redis.trouble import RedisTrouble
from tests.certificates import Certificates
from tests.redis.servers import MASTER, PASSWORD, ask, cluster, sentinels, smallest

KINDS = ("single", "sentinel", "cluster")
ENCODED = quote(PASSWORD, safe="")


async def trouble_at(url: str, *command: str) -> RedisTrouble:
    """What a command is answered with, and a subscription too."""
    database = Database(RedisUrl.parse(url))
    try:
        with pytest.raises(RedisTrouble) as caught:
            await database.execute(*(command or ("GET", "contextunity:a")))
        if not command:
            with pytest.raises(RedisTrouble) as again:
                await database.dedicated()
            assert again.value.reason == caught.value.reason
    finally:
        await database.close()
    assert "not-a-secret" not in f"{caught.value}"
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
async def test_wrong_credentials_and_missing_rights_are_named(kind: str, tmp_path: Path) -> None:
    async with smallest(kind, tmp_path) as (url, server):
        wrong = await trouble_at(url.replace(ENCODED, "wrong"))
        assert (wrong.reason, wrong.heals) == ("REDIS_CREDENTIALS", False)
        assert "refuses the user or the password: mend them in the URL" in str(wrong)
        none = await trouble_at(url.replace(f":{ENCODED}@", ""))
        assert (none.reason, none.heals) == ("REDIS_CREDENTIALS", False)
        await ask(server, "ACL", "SETUSER", "narrow", "on", ">p", "~*", "&*", "+hello", "+get")
        narrow = url.replace(f":{ENCODED}@", "narrow:p@")
        lacking = await trouble_at(narrow, "SET", "contextunity:a", "1")
        assert (lacking.reason, lacking.heals) == ("REDIS_RIGHTS", False)
        assert ("'cluster|slots'" if kind == "cluster" else "'set'") in str(lacking)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_certificate_that_is_not_trusted_is_named(kind: str, tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path / "certificates")
    stranger = Certificates.make(tmp_path / "stranger")
    async with smallest(kind, tmp_path / "redis", certificates) as (url, _):
        database = Database(RedisUrl.parse(url))
        assert await database.execute("SET", "contextunity:a", "1")
        await database.close()
        trouble = await trouble_at(url.replace(str(certificates.ca), str(stranger.ca)))
        assert (trouble.reason, trouble.heals) == ("REDIS_UNTRUSTED", False)
        assert "ssl_ca_certs=" in str(trouble)


async def test_a_wrong_password_of_the_sentinels_is_named(tmp_path: Path) -> None:
    async with sentinels(tmp_path, replicas=0, watchers=1, sentinel_password=True) as group:
        for url in (group.url.replace(ENCODED, "wrong"), group.url.removesuffix("?sentinel_auth=true")):
            trouble = await trouble_at(url)
            assert (trouble.reason, trouble.heals) == ("REDIS_CREDENTIALS", False)
            assert str(trouble).startswith("a Sentinel of redis+sentinel://")
            assert "sentinel_auth=true" in str(trouble)


async def test_a_master_that_no_sentinel_knows_is_named_and_one_that_is_down_awaited(tmp_path: Path) -> None:
    async with sentinels(tmp_path, replicas=0, watchers=1) as group:
        unknown = await trouble_at(group.url.replace(f"/{MASTER}/", "/nobody/"))
        assert (unknown.reason, unknown.heals) == ("REDIS_MASTER_UNKNOWN", False)
        assert "/nobody/0 watches no master of that name" in str(unknown)
        await group.data[0].stop()
        down = await trouble_at(group.url)
        assert (down.reason, down.heals) == ("REDIS_UNREACHABLE", True)
        await group.sentinels[0].stop()
        nobody = await trouble_at(group.url)
        assert (nobody.reason, nobody.heals) == ("REDIS_UNREACHABLE", True)


async def test_one_sentinel_that_refuses_is_told_before_others_that_are_away(tmp_path: Path) -> None:
    async with sentinels(tmp_path, replicas=0, watchers=1, sentinel_password=True) as group:
        port = group.sentinels[0].port
        async with LocalServer(tmp_path / "away") as away:
            gone = away.port
        url = group.url.replace(ENCODED, "wrong").replace(f"{HOST}:{port}", f"{HOST}:{gone},{HOST}:{port}")
        assert (await trouble_at(url)).reason == "REDIS_CREDENTIALS"


async def test_a_server_of_another_kind_than_the_url_says_is_named(tmp_path: Path) -> None:
    async with (
        sentinels(tmp_path / "sentinels", replicas=0, watchers=1) as group,
        cluster(tmp_path / "cluster", masters=2, replicas=0) as nodes,
    ):
        data = f"{ENCODED}@{HOST}:{group.data[0].port}"
        found = {
            "redis://": await trouble_at(group.sentinels[0].url),
            "redis+cluster://": await trouble_at(f"redis+cluster://:{data}"),
            "redis+sentinel://": await trouble_at(f"redis+sentinel://:{data}/m/0?sentinel_auth=true"),
        }
        database = [Database(RedisUrl.parse(node.url)) for node in nodes.nodes]
        for each in database:
            with pytest.raises(RedisTrouble) as caught:
                await asyncio.gather(*(each.execute("SET", f"key-{n}", "1") for n in range(20)))
            found[str(each)] = caught.value
            await each.close()
    assert {trouble.reason for trouble in found.values()} == {"REDIS_KIND"}, found
    assert not any(trouble.heals for trouble in found.values())


# A server that is too old: none can be had, so one that answers as an old one would


def bulk(*words: str | int) -> bytes:
    return f"*{len(words)}\r\n".encode() + b"".join(
        f"${len(str(word))}\r\n{word}\r\n".encode() for word in words
    )


@asynccontextmanager
async def old_server(hello: bytes) -> AsyncIterator[int]:
    """Answers what a client asks before its first command; the port."""

    def answer(words: list[str]) -> bytes:
        match [word.upper() for word in words[:2]]:
            case ["HELLO", *_]:
                return hello
            case ["SENTINEL", *_]:
                state = (
                    "name",
                    MASTER,
                    "ip",
                    HOST,
                    "port",
                    port,
                    "flags",
                    "master",
                    "num-other-sentinels",
                    0,
                )
                return b"*1\r\n" + bulk(*state)
            case ["CLUSTER SLOTS"] | ["CLUSTER", "SLOTS"]:
                return (
                    b"*1\r\n*3\r\n:0\r\n:16383\r\n" + f"*2\r\n${len(HOST)}\r\n{HOST}\r\n:{port}\r\n".encode()
                )
            case ["COMMAND", *_]:
                return b"*0\r\n"
        return b"+OK\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                length = int((await reader.readline())[1:])
                words.append((await reader.readexactly(length + 2))[:-2].decode())
            writer.write(answer(words))
        writer.close()

    listening = await asyncio.start_server(serve, HOST, 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield port


@pytest.mark.parametrize("form", ["redis://{}", "redis+sentinel://{}/mymaster/0", "redis+cluster://{}"])
@pytest.mark.parametrize(
    ("hello", "version"),
    [
        (bulk("server", "redis", "version", "6.0.16", "mode", "standalone"), "6.0.16"),
        (b"-ERR unknown command 'HELLO'\r\n", "5 or older"),
    ],
    ids=["6.0", "5"],
)
async def test_a_server_that_is_too_old_is_named(form: str, hello: bytes, version: str) -> None:
    async with old_server(hello) as port:
        trouble = await trouble_at(form.format(f"{HOST}:{port}"))
    assert (trouble.reason, trouble.heals) == ("REDIS_TOO_OLD", False)
    assert f"is Redis {version}, and 6.2 or newer is needed: upgrade it" in str(trouble)


# Many at once


@pytest.mark.parametrize("kind", KINDS)
async def test_two_hundred_commands_at_once_take_turns(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("CONNECT_S", "REPLY_S", "SEARCH_S"):  # of a machine that does nothing else
        monkeypatch.setattr(f"meshkit.redis.database.{limit}", 20.0)
    async with smallest(kind, tmp_path) as (url, server):
        await ask(server, "ACL", "SETUSER", "busy", "on", ">p", "~*", "&*", "+@all")
        database = Database(RedisUrl.parse(url.replace(f":{ENCODED}@", "busy:p@")))
        replies = await asyncio.gather(
            *(database.execute("SET", f"contextunity:{n}", str(n)) for n in range(200))
        )
        assert all(replies)
        assert await ask(server, "DBSIZE") == 200
        connected = str(await ask(server, "CLIENT", "LIST")).count("user=busy")
        await database.close()
    assert 0 < connected <= MAX_COMMANDS * 2
