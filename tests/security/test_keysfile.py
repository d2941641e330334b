"""The keys file: what is wrong with it is named without a key, and it is read again, all or nothing."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from meshkit.security.keys import Grants, KeyStatus
from meshkit.security.keysfile import FileRing, parse_keys
from tests.security.handmade import Clock, b64

TOKEN, PROOF = b64(b"T" * 32), b64(b"P" * 32)
SECRET = "canary-secret-of-the-keys-file-0123456789"
GOOD = f"""
[[key]]
project = "shop"
kid = "k1"
token_key = "{TOKEN}"
proof_key = "{PROOF}"
grants = {{ tenants = ["acme"], permissions = ["brain:read"], subjects = ["*"], delegate = ["bank"] }}
"""
CANARIES = (TOKEN, PROOF, SECRET)


def row(**values: str) -> str:
    base = {"project": '"shop"', "kid": '"k1"', "token_key": f'"{TOKEN}"', "proof_key": f'"{PROOF}"'}
    pairs = {name: value for name, value in {**base, **values}.items() if value}
    return "[[key]]\n" + "".join(f"{name} = {value}\n" for name, value in pairs.items())


def test_a_row_is_read_whole() -> None:
    (found,) = parse_keys(GOOD)
    assert (found.project, found.kid, found.status) == ("shop", "k1", KeyStatus.ACTIVE)
    assert found.keys is not None
    assert (found.keys.token, found.keys.proof) == (b"T" * 32, b"P" * 32)
    names = (frozenset({"acme"}), frozenset({"brain:read"}), frozenset({"*"}), frozenset({"bank"}))
    assert found.grants == Grants(*names)


def test_a_secret_may_stand_instead_of_its_keys() -> None:
    (found,) = parse_keys(row(token_key="", proof_key="", secret=f'"{SECRET}"'))
    assert found.secret == SECRET.encode()
    assert found.grants == Grants()


def test_a_retired_row_needs_no_keys() -> None:
    (found,) = parse_keys(row(token_key="", proof_key="", status='"retired"'))
    assert found.status is KeyStatus.RETIRED


def test_an_empty_file_has_no_rows() -> None:
    assert parse_keys("") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[key]\n", "is not TOML"),
        ("[key]\nproject = 'shop'\n", "has [key] where [[key]] is meant"),
        ("key = [1]\n", "[[key]] number 1: "),
        (GOOD + "[[keys]]\n", "has unknown tables keys"),
        (GOOD + row(kid='"k1"'), "has the key shop:k1 twice"),
        (GOOD + row(project='""'), "[[key]] number 2, project: "),
        (row(project='"Shop"'), "number 1, project: "),
        (row(project='"shop\\n"'), "number 1, project: "),
        (row(project='"shield"'), "the project name shield is reserved"),
        (row(project=""), "number 1, project: Field required"),
        (row(kid='"a:b"'), "number 1, kid: "),
        (row(kid='"' + "k" * 33 + '"'), "number 1, kid: "),
        (row(status='"paused"'), "'active', 'retiring' or 'retired'"),
        (row(tokenkey=f'"{TOKEN}"'), "number 1, tokenkey: Extra inputs are not permitted"),
        (row(secret=f'"{SECRET}"'), "give either secret, or token_key and proof_key"),
        (row(token_key=""), "give either secret, or token_key and proof_key"),
        (row(proof_key=""), "give either secret, or token_key and proof_key"),
        (row(token_key="", proof_key=""), "give either secret, or token_key and proof_key"),
        (row(token_key="", proof_key="", secret='"short"'), "secret is shorter than 32 bytes"),
        (row(token_key="", secret=f'"{SECRET}"'), "give either secret, or token_key and proof_key"),
        (row(token_key=f'"{TOKEN}="'), "token_key: Value error, is not 32 bytes as base64url"),
        (row(token_key=f'"{TOKEN[:-1]}"'), "token_key: Value error, is not 32 bytes as base64url"),
        (row(proof_key=f'"{"+" * 43}"'), "proof_key: Value error, is not 32 bytes as base64url"),
        (row(proof_key="7"), "number 1, proof_key: "),
        (row(proof_key=f'"{TOKEN}"'), "token_key and proof_key are one key"),
        (row(grants='{ tenant = ["acme"] }'), "grants.tenant: Extra inputs are not permitted"),
        (row(grants='{ tenants = "acme" }'), "number 1, grants.tenants: "),
        (row(grants='{ tenants = ["acme*"] }'), "is not a tenant, nor *"),
        (row(grants='{ tenants = ["acme:*"] }'), "is not a tenant, nor *"),
        (row(grants='{ permissions = ["brain"] }'), "is not service:verb or service:*, nor *"),
        (row(grants='{ permissions = ["*:*"] }'), "is not service:verb or service:*, nor *"),
        (row(grants='{ subjects = [""] }'), "is not a subject, nor *"),
        (row(grants='{ delegate = ["Bank"] }'), "is not a project, nor *"),
    ],
)
def test_a_bad_row_is_named_without_its_key(text: str, said: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_keys(text)
    assert said in str(error.value)
    assert not [canary for canary in (*CANARIES, "short") if f'"{canary}' in str(error.value)]
    assert not [canary for canary in CANARIES if canary[:12] in str(error.value)]


def write(path: Path, text: str | bytes) -> None:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)


def remove(path: Path) -> None:
    path.unlink()


def set_mode(path: Path, mode: int) -> None:
    path.chmod(mode)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    write(path, GOOD)
    return path


@pytest.mark.parametrize("text", [None, "[[key]]\n", b"\xff\xfe"])
def test_a_file_that_is_wrong_at_the_start_is_an_error_that_names_it(
    tmp_path: Path, text: str | bytes | None
) -> None:
    path = tmp_path / "keys.toml"
    if text is not None:
        write(path, text)
    with pytest.raises(
        ValueError, match=r"^keys file .*keys\.toml (cannot be read|is not UTF-8|.*Field required)"
    ):
        FileRing(path)


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (0o644, "can be read by everybody (mode 0644): chmod 600 it"),
        (0o604, "can be read by everybody (mode 0604): chmod 600 it"),
        (0o646, "can be written by everybody (mode 0646): chmod 600 it"),
        (0o602, "can be written by everybody (mode 0602): chmod 600 it"),
        (0o660, "can be written by its group (mode 0660): chmod 600 it"),
    ],
)
@pytest.mark.parametrize("text", [GOOD, row(token_key="", proof_key="", secret=f'"{SECRET}"')])
def test_a_file_that_others_may_read_or_change_is_refused(
    path: Path, text: str, mode: int, said: str
) -> None:
    write(path, text)
    path.chmod(mode)
    with pytest.raises(ValueError) as caught:
        FileRing(path)
    assert str(caught.value) == f"keys file {path} {said}"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
async def test_its_owner_and_a_group_that_it_was_given_to_may_read_it(path: Path, mode: int) -> None:
    path.chmod(mode)
    assert await FileRing(path).find("shop", "k1") is not None


async def test_a_change_is_seen_within_a_second(path: Path) -> None:
    clock = Clock()
    ring = FileRing(path, clock=clock)
    write(path, GOOD + row(kid='"k2"'))
    assert await ring.find("shop", "k2") is None
    assert ring.generation == 0
    clock.now += 1
    assert await ring.find("shop", "k2") is not None
    assert ring.generation == 1
    clock.now += 1
    assert ring.generation == 1


async def test_a_file_that_breaks_keeps_all_its_rows_and_is_complained_of_once(path: Path) -> None:
    clock = Clock()
    ring = FileRing(path, clock=clock)
    write(path, row(kid='"k2"') + row(kid='"k3"', token_key=f'"{TOKEN}x"'))
    with capture_logs() as logs:
        for _ in range(3):
            clock.now += 1
            assert await ring.find("shop", "k1") is not None
            assert await ring.find("shop", "k2") is None
    assert ring.generation == 0
    assert [entry["log_level"] for entry in logs] == ["error"]
    assert "number 2, token_key" in logs[0]["reason"]
    assert TOKEN not in str(logs)


async def test_a_file_that_goes_away_keeps_its_rows_and_is_read_when_it_is_back(path: Path) -> None:
    clock = Clock()
    ring = FileRing(path, clock=clock)
    remove(path)
    clock.now += 1
    assert await ring.find("shop", "k1") is not None
    temporary = path.with_suffix(".new")
    write(temporary, row(kid='"k2"'))
    os.replace(temporary, path)
    clock.now += 1
    assert await ring.find("shop", "k1") is None
    assert await ring.find("shop", "k2") is not None


async def test_a_file_whose_mode_is_mended_is_read_though_its_text_is_as_it_was(path: Path) -> None:
    clock = Clock()
    ring = FileRing(path, clock=clock)
    write(path, row(kid='"k2"'))
    set_mode(path, 0o666)
    clock.now += 1
    assert await ring.find("shop", "k2") is None
    set_mode(path, 0o600)
    clock.now += 1
    assert await ring.find("shop", "k2") is not None
