"""The service's messages, limits, refusals and settings."""

import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshkit import Call, InvalidArgument, MeshError
from meshkit.config import ConfigError
from reference_services._gen.contextunity.zero.v1 import zero_pb2 as pb
from reference_services.master_key import local_master_key, master_key, parse_master_key
from reference_services.zero.config import ZeroConfig
from reference_services.zero.service import KEY_FILE, MAX_TEXT_BYTES, Zero, open_privacy

ACME = Call.for_test(tenant="acme")
KEY_TEXT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"


@pytest.fixture
async def zero(tmp_path: Path) -> AsyncIterator[Zero]:
    zero = Zero(config=ZeroConfig(state_dir=tmp_path / "state", zero_default_region="de"))
    async with open_privacy(zero) as privacy:
        zero.privacy = privacy
        yield zero


async def test_a_text_goes_there_and_back(zero: Zero) -> None:
    text = "Ada: ada@example.org, 030 1234567"
    masked = await zero.anonymize(pb.AnonymizeRequest(text=text), ACME)
    assert [entity.kind for entity in masked.entities] == [pb.PII_KIND_EMAIL, pb.PII_KIND_PHONE]
    assert [text[entity.start : entity.end] for entity in masked.entities] == [
        "ada@example.org",
        "030 1234567",
    ]
    assert all(entity.placeholder in masked.text and 0 < entity.confidence <= 1 for entity in masked.entities)
    assert masked.session_id
    assert masked.expires_at.seconds > 0
    request = pb.DeanonymizeRequest(text=masked.text, session_id=masked.session_id)
    unmasked = await zero.deanonymize(request, ACME)
    assert (unmasked.text, unmasked.restored, unmasked.unresolved) == (text, 2, 0)
    other = await zero.deanonymize(request, Call.for_test(tenant="other"))
    assert (other.text, other.restored, other.unresolved) == (masked.text, 0, 2)


async def test_a_scan_tells_and_keeps_nothing(zero: Zero) -> None:
    options = pb.DetectionOptions(kinds=[pb.PII_KIND_EMAIL])
    scanned = await zero.scan_pii(
        pb.ScanPIIRequest(text="ada@example.org 203.0.113.77", options=options), ACME
    )
    assert [(entity.kind, entity.start, entity.end) for entity in scanned.entities] == [
        (pb.PII_KIND_EMAIL, 0, 15)
    ]
    assert scanned.entities[0].placeholder == ""
    assert (await zero.stats(pb.StatsRequest(), ACME)).sessions == 0


async def test_the_request_chooses_region_and_confidence(zero: Zero) -> None:
    options = pb.DetectionOptions(region="us", min_confidence=0.3)
    scanned = await zero.scan_pii(pb.ScanPIIRequest(text="id 2125552368", options=options), ACME)
    assert [entity.kind for entity in scanned.entities] == [pb.PII_KIND_PHONE]


async def test_stats_count_by_kind_and_tenant(zero: Zero) -> None:
    await zero.anonymize(pb.AnonymizeRequest(text="a@x.org b@x.org 203.0.113.77", session_id="s"), ACME)
    stats = await zero.stats(pb.StatsRequest(), ACME)
    assert (stats.sessions, stats.entities, stats.session_ttl.seconds) == (1, 3, 3600)
    assert {(kind.kind, kind.entities) for kind in stats.kinds} == {
        (pb.PII_KIND_EMAIL, 2),
        (pb.PII_KIND_IP_ADDRESS, 1),
    }
    assert (await zero.stats(pb.StatsRequest(), Call.for_test(tenant="other"))).sessions == 0
    request = pb.DestroySessionRequest(session_id="s")
    assert not (await zero.destroy_session(request, Call.for_test(tenant="other"))).destroyed
    assert (await zero.destroy_session(request, ACME)).destroyed
    assert not (await zero.destroy_session(request, ACME)).destroyed
    await zero.sweep()


async def test_requests_that_make_no_sense_are_refused_with_a_reason(zero: Zero) -> None:
    options = pb.DetectionOptions
    refused = {
        "TEXT_TOO_LONG": pb.AnonymizeRequest(text="é" * (MAX_TEXT_BYTES // 2 + 1)),
        "SESSION_ID_INVALID": pb.AnonymizeRequest(text="x", session_id="a|b"),
        "REGION_UNKNOWN": pb.AnonymizeRequest(text="x", options=options(region="XX")),
        "CONFIDENCE_INVALID": pb.AnonymizeRequest(text="x", options=options(min_confidence=float("nan"))),
        "KIND_UNKNOWN": pb.AnonymizeRequest(text="x", options=options(kinds=[pb.PII_KIND_PLACEHOLDER_TEXT])),
        "TOO_MANY_KINDS": pb.AnonymizeRequest(text="x", options=options(kinds=[pb.PII_KIND_EMAIL] * 33)),
    }
    for reason, request in refused.items():
        with pytest.raises(InvalidArgument) as caught:
            await zero.anonymize(request, ACME)
        assert caught.value.reason == reason
    for session_id in ("", "s" * 129, "ü"):
        with pytest.raises(InvalidArgument, match="SESSION_ID_INVALID"):
            await zero.deanonymize(pb.DeanonymizeRequest(text="x", session_id=session_id), ACME)
        with pytest.raises(InvalidArgument, match="SESSION_ID_INVALID"):
            await zero.destroy_session(pb.DestroySessionRequest(session_id=session_id), ACME)


async def test_what_masking_made_of_the_longest_text_can_be_unmasked(zero: Zero) -> None:
    text = ("a@b.io " * 38000)[:MAX_TEXT_BYTES]
    masked = await zero.anonymize(pb.AnonymizeRequest(text=text, session_id="s"), ACME)
    unmasked = await zero.deanonymize(pb.DeanonymizeRequest(text=masked.text, session_id="s"), ACME)
    assert unmasked.text == text


async def test_no_personal_data_reach_logs_or_errors(
    zero: Zero, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    canary = "canary.7f3a@example.org"
    masked = await zero.anonymize(pb.AnonymizeRequest(text=canary, session_id="s"), ACME)
    await zero.deanonymize(pb.DeanonymizeRequest(text=masked.text, session_id="s"), ACME)
    errors = []
    for request in (
        pb.AnonymizeRequest(text=canary * 20000, session_id="s"),
        pb.AnonymizeRequest(text=canary, session_id=canary),
        pb.AnonymizeRequest(text=canary, options=pb.DetectionOptions(region=canary)),
    ):
        with pytest.raises(MeshError) as caught:
            await zero.anonymize(request, ACME)
        errors.append(f"{caught.value!r} {caught.value} {caught.value.details}")
    await zero.destroy_session(pb.DestroySessionRequest(session_id="s"), ACME)
    await zero.sweep()
    output = capfd.readouterr()
    assert "canary" not in "".join([*errors, caplog.text, output.out, output.err])


def test_every_method_has_its_permission() -> None:
    assert {rpc.attribute: rpc.permission for rpc in Zero.definition.rpcs} == {
        "anonymize": "zero:mask",
        "deanonymize": "zero:unmask",
        "scan_pii": "zero:mask",
        "destroy_session": "zero:destroy",
        "stats": "zero:stats",
    }
    assert (Zero.definition.name, Zero.definition.port) == ("zero", 50054)


MAKE_KEY = "import sys, pathlib; from reference_services.master_key import local_master_key as k\n"
MAKE_KEY += "print(k(pathlib.Path(sys.argv[1]), sys.argv[2]).hex())"


def test_replicas_that_start_at_once_agree_on_the_local_master_key(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKE_KEY, str(tmp_path), KEY_FILE]
    replicas = [
        subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE) for _ in range(4)
    ]
    keys = {replica.communicate()[0] for replica in replicas}
    assert keys == {local_master_key(tmp_path, KEY_FILE).hex().encode() + b"\n"}
    assert [file.name for file in tmp_path.iterdir()] == [KEY_FILE]
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        (KEY_TEXT, 0o644, "must belong to you and be readable by nobody else; chmod 600 it, or delete it"),
        ("CANARY", 0o600, "it is not base64url of 32 bytes; make one with `openssl"),
    ],
)
def test_a_local_master_key_that_is_not_right_is_told(
    tmp_path: Path, text: str, mode: int, told: str
) -> None:
    path = tmp_path / KEY_FILE
    path.write_text(text)
    path.chmod(mode)
    config = ZeroConfig(state_dir=tmp_path)
    with pytest.raises(ConfigError) as caught:
        master_key(config, "ZERO_MASTER_KEY", config.zero_master_key, KEY_FILE)
    message = str(caught.value)
    assert f"ZERO_MASTER_KEY: it is not set, and the key in {path} is not used: " in message
    assert told in message
    assert "CANARY" not in message


def test_settings_are_checked_and_keys_not_shown(tmp_path: Path) -> None:
    config = ZeroConfig(
        state_dir=tmp_path, zero_master_key=KEY_TEXT, zero_database_url=f"sqlite:///{tmp_path}/z.db"
    )
    assert parse_master_key(config.zero_master_key.get_secret_value()) == bytes(range(32))
    assert config.zero_database_path == tmp_path / "z.db"
    assert KEY_TEXT not in f"{config!r} {config} {config.model_dump()}"
    assert ZeroConfig(state_dir=tmp_path).zero_database_path == tmp_path / "zero.sqlite"
    for name, value in {
        "zero_master_key": KEY_TEXT[:-2],
        "zero_default_region": "XX",
        "zero_database_url": "mysql://u:secretword@h/d",
        "zero_session_ttl_s": 0,
    }.items():
        with pytest.raises(ConfigError) as caught:
            ZeroConfig(state_dir=tmp_path, **{name: value})
        assert [problem.setting for problem in caught.value.problems] == [name.upper()]
        assert str(value) not in str(caught.value) or value == 0


def test_production_does_not_make_a_master_key() -> None:
    with pytest.raises(ConfigError) as caught:
        ZeroConfig(env="production")
    assert "ZERO_MASTER_KEY" in {problem.setting for problem in caught.value.problems}
