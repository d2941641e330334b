"""No secret, key, token or proof is in any error or log, whatever goes wrong."""

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient

from meshkit.errors import MeshError
from meshkit.telemetry import logs
from meshkit.testing import LocalMesh
from tests.security.handmade import ABSENT, SECRET, SETTINGS, Handmade, Headers, b64, call
from tests.security.services import BODY, GREET, Echo, Front

OTHER = Handmade("echo", "canary-secret-of-another-project-00000", "shop", "s1")
ME = Handmade("echo")


@contextmanager
def everything_logged(monkeypatch: pytest.MonkeyPatch, style: str) -> Iterator[io.StringIO]:
    """All that is written to the log, as a program that serves sets it up, or where nobody did."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    written = io.StringIO()
    for stream in ("sys.stderr", "sys.stdout"):
        monkeypatch.setattr(stream, written)
    try:
        if style == "default":
            structlog.reset_defaults()
        else:
            logs.configure("DEBUG", json=style == "json")
        root.addHandler(logging.StreamHandler(written))
        root.setLevel(logging.DEBUG)
        yield written
    finally:
        structlog.configure(**before)
        root.handlers[:] = handlers
        root.setLevel(level)


def wrong_calls(me: Handmade = ME, other: Handmade = OTHER) -> list[Headers]:
    """Metadata with something wrong in each, all with secrets of their own in them."""
    token = me.token()
    return [
        me.headers(GREET, BODY, sent={"authorization": f"Basic {token}"}),
        me.headers(GREET, BODY, sent={"x-cu-proof": token}),
        me.headers(GREET, BODY, sent={"x-cu-tenant": f"{token[:70]}"}),
        me.headers(GREET, BODY, sent={"x-cu-to": token}),
        me.headers(GREET, BODY, sent={"x-cu-criticality": token}),
        me.headers(GREET, BODY, sent={"x-cu-subject": me.token()}),
        me.headers(GREET, BODY, sent={"x-cu-subject": token + "x"}),
        me.headers(GREET, BODY, sent={"x-cu-proof": ABSENT}),
        me.headers(GREET, BODY + b"x"),
        me.headers(GREET, BODY, token=me.token(aud="else")),
        me.headers(GREET, BODY, token=me.token(tenants=[])),
        me.headers(GREET, BODY, token=me.token(exp=1, iat=0, nbf=0)),
        me.headers(GREET, BODY, token=other.token()),
        other.headers(GREET, BODY),
        [*me.headers(GREET, BODY), ("authorization", f"Bearer {token}")],
    ]


def secrets_of(headers: Headers) -> set[str]:
    """Claims and signatures of tokens, signatures of proofs; as short as a log may have cut them."""
    parts = [value.rpartition("sig=")[2] for key, value in headers if key == "x-cu-proof"]
    for key, value in headers:
        if key in ("authorization", "x-cu-subject"):
            parts += value.split(".")[1:]
    return {part[:20] for part in parts if len(part) > 20}


def keys() -> set[str]:
    made = {SECRET, OTHER.secret}
    for caller in (ME, OTHER, Handmade("front")):
        for use in ("token", "proof"):
            key = caller.key(use)
            made |= {b64(key), key.hex(), repr(key)[2:-1]}
    return made


@pytest.mark.parametrize("style", ["text", "json", "default"])
async def test_nothing_secret_gets_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: str) -> None:
    said: list[str] = []
    canaries = keys() | {"Hopper", "Bearer eyJ"}
    path = tmp_path / "keys.toml"
    row = f'[[key]]\nproject = "shop"\nkid = "s1"\nsecret = "{OTHER.secret}"\n'
    path.write_text(row)
    path.chmod(0o600)
    with everything_logged(monkeypatch, style) as written:
        local = LocalMesh(Front, Echo, settings={**SETTINGS, "project_keys_file": path}, tenant="acme")
        async with local as mesh:
            (echo,) = (each for each in local.instances if each.startswith("echo-"))
            instance = local.service(echo).instance
            assert instance is not None
            path.write_text(row.replace("secret", "secert"))
            for headers in wrong_calls():
                canaries |= secrets_of(headers)
                outcome = await call(instance.address, GREET, BODY, headers)
                assert outcome.code != "OK"
                said.append(json.dumps([outcome.message, outcome.facts, repr(outcome.trailers)]))
            broken = pb.GreetRequest(name="break, Grace Hopper")
            for service, tenant in (("echo", "acme"), ("front", "acme"), ("echo", "other")):
                client = mesh.client(GreeterClient, service=service, permissions=("front:*", "echo:*"))
                try:
                    await client.greet(broken, tenant=tenant)
                except MeshError as error:
                    said.append(f"{error} {error!r} {error.details}")
            for minted in mesh.tokens._kept.values():
                canaries |= secrets_of([("authorization", minted.text)])
            said.append(repr([mesh, mesh.tokens, mesh.config, instance, local.service(echo)]))
    assert "a cause that stays inside" in written.getvalue()
    assert "a cause that stays inside" not in "".join(said)
    for text in (*said, written.getvalue()):
        assert sorted(canary for canary in canaries if canary in text) == []
