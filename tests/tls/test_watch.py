"""Files that are replaced are taken when all of them are right; what is about to expire is told once a day."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from meshkit import SharedConfig
from meshkit.config.certificates import Use
from meshkit.security.certificates.watch import CertificateFiles
from tests.certificates import Signed, Signer, write_private
from tests.tls.parts import Files, settings

DAY = 86400.0


CURVE = bytes.fromhex("06082a8648ce3d030107")
"""That of test certificates, as it is written in them: prime256v1."""


def patch(file: Path, old: bytes, new: bytes) -> None:
    """Changes bytes within a certificate."""
    der = ssl.PEM_cert_to_DER_cert(file.read_text())
    assert old in der
    file.write_text(ssl.DER_cert_to_PEM_cert(der.replace(old, new, 1)))


class Now:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def first(authority: Signer) -> Signed:
    return authority.service("brain")


@pytest.fixture
def files(tmp_path: Path, authority: Signer, first: Signed) -> Files:
    return Files(tmp_path / "brain").write(authority, first)


def watching(files: Files, clock: Any = time.time, **options: Any) -> CertificateFiles:
    return CertificateFiles(SharedConfig(**settings(files)), Use.SERVER, "brain", clock=clock, **options)


def test_a_new_pair_is_taken_at_the_next_look(files: Files, authority: Signer, first: Signed) -> None:
    watch, told = watching(files), []
    unfollow = watch.follow(lambda: told.append(watch.material))
    before = watch.material
    watch.look()
    assert watch.material is before
    files.replace(second := authority.service("brain"))
    with capture_logs() as logs:
        watch.look()
    assert (watch.material.certificate, watch.material.key) == (second.certificate, second.key)
    assert told == [watch.material]
    assert [log["event"] for log in logs] == ["certificates read again"]
    assert logs[0]["file"] == str(files.certificate)
    unfollow()
    files.replace(authority.service("brain"))
    watch.look()
    assert len(told) == 1


def test_a_new_authority_is_taken_too(files: Files) -> None:
    watch, other = watching(files), Signer()
    files.ca.write_bytes(files.ca.read_bytes() + other.pem)
    watch.look()
    assert watch.material.authorities == files.ca.read_bytes()


def test_a_pair_of_which_half_is_new_waits_for_the_other_half(files: Files, authority: Signer) -> None:
    watch, second = watching(files), authority.service("brain")
    before = watch.material
    with capture_logs() as logs:
        write_private(files.certificate, second.certificate)
        watch.look()
        assert watch.material is before
        write_private(files.key, second.key)
        watch.look()
    assert watch.material.key == second.key
    assert [log["log_level"] for log in logs] == ["info"], "it is no fault that files come one by one"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda files, authority: files.certificate.write_bytes(files.certificate.read_bytes()[:100]),
        lambda files, authority: files.key.write_bytes(b""),
        lambda files, authority: files.key.unlink(),
        lambda files, authority: files.certificate.write_bytes(authority.service("brain").certificate),
        lambda files, authority: files.replace(authority.service("router")),
        lambda files, authority: files.replace(authority.service("brain", until=-0.1)),
        lambda files, authority: files.replace(Signer().service("brain")),
        lambda files, authority: files.ca.write_bytes(Signer().pem),
        lambda files, authority: files.ca.write_bytes(b""),
        lambda files, authority: files.key.chmod(0o644),
        lambda files, authority: patch(files.certificate, CURVE, CURVE[:-1] + b"\x63"),
        lambda files, authority: patch(files.certificate, b"\x82\x12brain", b"\x1f\x12brain"),
    ],
    ids=[
        "half a certificate",
        "an empty key",
        "no key",
        "another pair's certificate",
        "another service's",
        "expired",
        "another authority's",
        "another authority",
        "no authority",
        "a key that all can read",
        "an unknown curve",
        "a name that is none",
    ],
)
def test_what_is_wrong_is_not_taken_and_said_once(files: Files, authority: Signer, spoil: Any) -> None:
    watch = watching(files)
    before = watch.material
    spoil(files, authority)
    with capture_logs() as logs:
        for _ in range(5):
            watch.look()
    assert watch.material is before
    (log,) = logs
    assert (log["log_level"], log["event"]) == ("error", "new certificates are not used, the last ones stay")
    assert "GRPC_TLS_" in log["problems"]
    files.write(authority, mended := authority.service("brain"))
    files.key.chmod(0o600)
    watch.look()
    assert watch.material.key == mended.key


def test_another_fault_is_said_again(files: Files) -> None:
    watch = watching(files)
    with capture_logs() as logs:
        for content in (b"one", b"another"):
            files.key.write_bytes(content)
            for _ in range(3):
                watch.look()
    assert len(logs) == 2


def test_files_with_the_same_content_are_nothing_new(files: Files, first: Signed) -> None:
    watch = watching(files)
    before = watch.material
    files.key.unlink()
    files.replace(first)
    with capture_logs() as logs:
        watch.look()
    assert watch.material is before
    assert logs == []


def test_a_certificate_is_warned_of_once_a_day_before_it_expires(files: Files, authority: Signer) -> None:
    files.replace(authority.service("brain", since=-60, until=40))
    clock = Now()
    watch = watching(files, clock)
    begin = clock.now

    def at(days: float) -> list[dict[str, Any]]:
        clock.now = begin + days * DAY
        with capture_logs() as logs:
            watch.look()
        return [dict(log) for log in logs]

    assert at(25.9) == []
    (warned,) = at(26.1)  # 14 days before, which is less than a quarter of 100
    assert warned["log_level"] == "warning"
    assert warned["event"] == "a certificate expires soon: replace the file, it is read again by itself"
    assert (warned["file"], warned["side"], warned["days_left"]) == (str(files.certificate), "server", 13.9)
    assert at(27.0) == []
    assert len(at(27.2)) == 1
    (expired,) = at(40.1)
    assert (expired["log_level"], expired["days_left"]) == ("error", -0.1)
    files.replace(authority.service("brain", until=400))
    assert [log["event"] for log in at(40.2)] == ["certificates read again"]


def test_short_lived_certificates_are_warned_of_in_their_last_quarter(
    files: Files, authority: Signer
) -> None:
    files.replace(authority.service("brain", since=0, until=1))
    clock = Now()
    watch = watching(files, clock)
    for hours, warnings in ((17.9, 0), (18.1, 1)):
        clock.now = time.time() + hours * 3600
        with capture_logs() as logs:
            watch.look()
        assert len(logs) == warnings


async def test_it_looks_once_a_second(files: Files) -> None:
    waits: list[float] = []
    looked = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            looked.set()
            await asyncio.Event().wait()

    watch = watching(files, sleep=sleep)
    watch.start()
    watch.start()
    await asyncio.wait_for(looked.wait(), 10)
    await watch.close()
    assert waits == [1.0, 1.0, 1.0]


async def test_a_fault_does_not_end_the_watching_and_is_said_once(
    files: Files, authority: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def slept(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0)

    watch = watching(files, sleep=slept)
    monkeypatch.setattr(watch, "_stamps", lambda: 1 / 0)
    with capture_logs() as logs:
        watch.start()
        async with asyncio.timeout(20):
            while looks < 3:
                await asyncio.sleep(0)
            monkeypatch.undo()
            files.replace(second := authority.service("brain"))
            while watch.material.key != second.key:
                await asyncio.sleep(0)
        await watch.close()
    faults = [log for log in logs if log["log_level"] == "error"]
    assert len(faults) == 1
    assert "ZeroDivisionError" in faults[0]["exception"]
