"""`meshkit certs`: certificates that the mesh accepts, for their owner alone to read; and what is wrong with others."""

from __future__ import annotations

import json
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from meshkit.cli.certs import app
from meshkit.cli.output import ExitCode, Failure
from meshkit.config import ConfigError, SharedConfig
from meshkit.config.tls import check_serving
from meshkit.security.certificates.folder import CertificateFolder, settings_of
from tests.certificates import Signer, write_private

DAY = 86400.0


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def folder(state: Path) -> Path:
    return state / "tls"


def run(state: Path, *words: str, **environ: str) -> Result:
    return CliRunner(env={"CU_STATE_DIR": str(state), **environ}).invoke(app, list(words))


def printed(state: Path, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(state, *words, "--json").stdout)
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_dev_makes_all_that_a_service_needs(state: Path, folder: Path) -> None:
    result = run(state, "dev", "brain", "router")
    assert result.exit_code == 0, result.output
    for service in ("brain", "router"):
        config = SharedConfig(**settings_of(CertificateFolder(folder, "contextunity")))
        assert check_serving(config, service) == []
    assert mode(state) == mode(folder) == 0o700
    assert {path.name: mode(path) for path in folder.iterdir()} == {
        "ca.pem": 0o644,
        "ca.key": 0o600,
        "brain.pem": 0o600,
        "router.pem": 0o600,
        "client.pem": 0o600,
    }
    told = dict(line.split("=", 1) for line in result.stdout.splitlines() if line.startswith("GRPC_TLS_"))
    assert SharedConfig.load(told | {"CU_STATE_DIR": str(state)}).grpc_tls_require_client_auth
    assert "PRIVATE" not in result.output


def test_dev_leaves_what_is_there(state: Path, folder: Path) -> None:
    run(state, "dev", "brain")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    run(state, "dev", "brain", "zero")
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"zero.pem"}


def test_issue_signs_with_further_names(state: Path) -> None:
    run(state, "dev", "brain")
    (made,) = printed(state, "issue", "shop", "--host", "localhost", "--host", "127.0.0.1", "--days", "2")
    assert made["dns"] == ["shop.contextunity", "localhost"]
    assert made["uris"] == ["spiffe://contextunity/shop"]
    assert made["addresses"] == ["127.0.0.1"]
    assert made["days_left"] == 2.0
    assert made["problems"] == []


def test_openssl_finds_nothing_wrong(state: Path, folder: Path) -> None:
    run(state, "dev", "brain")
    words = [
        "openssl",
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-verify_hostname",
        "brain.contextunity",
    ]
    done = subprocess.run(
        [*words, "-CAfile", str(folder / "ca.pem"), str(folder / "brain.pem")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_namespace_is_in_the_names(state: Path) -> None:
    run(state, "dev", "brain", CU_NAMESPACE="shop")
    told = json.loads(run(state, "inspect", "--json", CU_NAMESPACE="shop").stdout)
    (brain,) = [each for each in told if each["file"].endswith("/brain.pem")]
    assert (brain["dns"], brain["uris"]) == (["brain.shop"], ["spiffe://shop/brain"])
    result = run(state, "inspect", "--json")
    assert result.exit_code == ExitCode.FAILED
    assert "it lacks a URI spiffe://contextunity/NAME" in result.stdout


def test_renew_takes_those_that_are_due_and_keeps_their_names(state: Path, folder: Path) -> None:
    run(state, "dev", "brain", "router", "--days", "5")
    issued = CertificateFolder(folder, "contextunity", clock=lambda: time.time() - 0.9 * DAY)
    issued.issue("zero", days=1, hosts=("localhost", "::1"))
    before = {name: (folder / f"{name}.pem").read_bytes() for name in ("brain", "router", "zero")}
    (renewed,) = printed(state, "renew")
    assert renewed["dns"] == ["zero.contextunity", "localhost"]
    assert renewed["addresses"] == ["::1"]
    assert renewed["days_left"] == 1.0
    assert (folder / "zero.pem").read_bytes() != before["zero"]
    assert all((folder / f"{name}.pem").read_bytes() == before[name] for name in ("brain", "router"))
    assert "is due" in run(state, "renew").stderr
    assert [each["days_left"] for each in printed(state, "renew", "brain")] == [5.0]
    assert (folder / "brain.pem").read_bytes() != before["brain"]


def test_an_authority_that_is_due_lives_on_with_its_key(folder: Path) -> None:
    """So what it has signed stays good, for those who know its old certificate and for those who know the new one."""
    now = time.time()
    young = CertificateFolder(folder, "contextunity", clock=lambda: now)
    young.ensure(["brain"], days=300)
    old_authority = (folder / "ca.pem").read_bytes()
    late = CertificateFolder(folder, "contextunity", clock=lambda: now + 250 * DAY)
    late.ensure(["router"], days=300)
    assert (folder / "ca.pem").read_bytes() != old_authority
    for authority in ((folder / "ca.pem").read_bytes(), old_authority):
        (folder / "ca.pem").write_bytes(authority)
        config = SharedConfig(**settings_of(late))
        for service in ("brain", "router"):
            assert check_serving(config, service, now=now + 260 * DAY) == []


def test_no_certificate_outlives_its_authority(folder: Path) -> None:
    now = time.time()
    made = CertificateFolder(folder, "contextunity", clock=lambda: now)
    made.ensure([])
    (found,) = printed(folder.parent, "issue", "brain", "--days", "3000")
    assert found["days_left"] == pytest.approx(365, abs=0.1)


def test_inspect_tells_what_is_wrong(state: Path, folder: Path, tmp_path: Path) -> None:
    run(state, "dev", "brain")
    other = Signer("a stranger")
    for name, signed in (
        ("expired", other.service("brain", until=-0.5)),
        ("soon", other.service("brain", since=-9, until=1)),
        ("nameless", other.sign()),
    ):
        write_private(tmp_path / f"{name}.pem", signed.both)
    write_private(tmp_path / "mixed.pem", other.service("brain").certificate + other.service("brain").key)
    (tmp_path / "none.pem").write_text("nothing")
    (folder / "brain.pem").chmod(0o644)
    files = [*(str(tmp_path / f"{name}.pem") for name in ("expired", "soon", "nameless", "mixed", "none"))]
    result = run(state, "inspect", *files, str(folder / "brain.pem"))
    assert result.exit_code == ExitCode.FAILED
    for text in (
        "expired.pem: expired on",
        "soon.pem: expires soon; replace it",
        "soon.pem: was signed by none of the authorities in GRPC_TLS_CA_CERT, but by CN=a stranger",
        "nameless.pem: is not for a program of the mesh: it lacks a URI",
        "mixed.pem: its key is another certificate's",
        "none.pem holds no certificate",
        "brain.pem holds a key, and can be read by everybody (mode 0644)",
    ):
        assert text in result.stderr, result.stderr


def test_inspect_looks_at_what_the_settings_name(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a checkout may have an .env, which production refuses
    signer = Signer()
    own = str(write_private(tmp_path / "brain.pem", signer.service("brain").both))
    ca = tmp_path / "authority.pem"
    ca.write_bytes(signer.pem)
    named = {"GRPC_TLS_CA_CERT": str(ca), "GRPC_TLS_SERVER_CERT": own, "GRPC_TLS_CLIENT_CERT": own}
    result = run(state, "inspect", "--json", GRPC_TLS_ENABLED="true", CU_ENV="production", **named)
    assert [each["file"] for each in json.loads(result.stdout)] == [str(ca), own]
    assert [each["authority"] for each in json.loads(result.stdout)] == [True, False]


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (("issue", "brain"), "there is no authority in {folder}; make one with `meshkit certs dev`", 1),
        (("renew", "brain"), "there is no authority in {folder}; make one with `meshkit certs dev`", 1),
        (("inspect",), "there are no certificates in {folder}: make some with `meshkit certs dev`", 1),
        (("dev", "Brain"), "'Brain' is no name of a service", 2),
        (("dev", "ca"), "'ca' is no name of a service", 2),
        (("issue", "brain", "--host", "a b"), "--host 'a b' is neither a name nor an address", 2),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason(
    state: Path, folder: Path, words: tuple[str, ...], message: str, code: int
) -> None:
    failure = run(state, *words).exception
    assert isinstance(failure, Failure)
    assert (message.format(folder=folder) in str(failure), failure.code) == (True, code), str(failure)


def test_certificates_of_nobody_are_not_renewed(state: Path) -> None:
    run(state, "dev", "brain")
    failure = run(state, "renew", "shop").exception
    assert "shop has no certificate in" in str(failure)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "ca.key").unlink(), "there is no file"),
        (lambda folder: (folder / "ca.key").chmod(0o644), "holds a key, and can be read by everybody"),
        (lambda folder: write_private(folder / "ca.key", Signer().service("x").key), "is not the key of"),
        (lambda folder: (folder / "ca.pem").write_text(""), "holds no certificate"),
    ],
)
def test_an_authority_that_is_not_right_signs_nothing(
    state: Path, folder: Path, spoil: Any, message: str
) -> None:
    run(state, "dev", "brain")
    spoil(folder)
    for words in (("dev", "router"), ("issue", "router"), ("renew", "brain")):
        assert message in str(run(state, *words).exception)
    assert not (folder / "router.pem").exists()


def test_an_expired_authority_signs_nothing(folder: Path) -> None:
    CertificateFolder(folder, "contextunity", clock=lambda: time.time() - 400 * DAY).ensure([])
    failure = run(folder.parent, "issue", "brain").exception
    assert "the authority in" in str(failure)
    assert "has expired" in str(failure)


def test_a_wrong_namespace_makes_nothing(state: Path, folder: Path) -> None:
    result = run(state, "dev", CU_NAMESPACE="a_b")
    assert isinstance(result.exception, ConfigError)
    assert not folder.exists()
