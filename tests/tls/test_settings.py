"""What is wrong with the settings and files of TLS: each thing is named with its setting, its file and its mend."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner

from meshkit.cli.config import app as config_app
from meshkit.config import ConfigError, SharedConfig
from meshkit.config.tls import check_files, check_serving
from tests.certificates import Signer, pem_of, write_private
from tests.config.test_boot import run
from tests.tls.parts import Files, settings


@pytest.fixture
def files(tmp_path: Path, authority: Signer) -> Files:
    """Those of a service called brain, all right."""
    return Files(tmp_path / "brain").write(authority, authority.service("brain"))


def problems(files: Files, service: str = "brain", **others: Any) -> list[str]:
    config = SharedConfig(**settings(files) | others)
    found = check_serving(config, service)
    everything = [*found, *(each for each in check_files(config) if each not in found)]
    return list(dict.fromkeys(map(str, everything)))


def contradictions(**values: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        SharedConfig(**values)
    return [str(problem) for problem in caught.value.problems]


def test_what_is_right_has_no_problems(files: Files) -> None:
    assert problems(files) == []


def test_certificate_and_key_may_stand_in_one_file(files: Files, authority: Signer) -> None:
    both = write_private(files.folder / "both.pem", authority.service("brain").both)
    pair = {"grpc_tls_server_cert": both, "grpc_tls_server_key": both}
    assert problems(files, **pair) == []


def test_a_path_may_hold_the_name_of_the_service(files: Files, authority: Signer) -> None:
    for name in ("brain", "router"):
        write_private(files.folder / f"{name}.pem", authority.service(name).both)
    place = files.folder / "{service}.pem"
    paths = {f"grpc_tls_{side}_{kind}": place for side in ("server", "client") for kind in ("cert", "key")}
    assert problems(files, "brain", **paths) == problems(files, "router", **paths) == []
    (missing, _, _, _) = problems(files, "zero", **paths)
    assert missing.startswith(f"GRPC_TLS_SERVER_CERT: there is no file {files.folder}/zero.pem")


def test_without_an_authority_there_is_no_tls() -> None:
    assert contradictions(grpc_tls_enabled=True) == [
        "GRPC_TLS_CA_CERT: TLS is on, and nothing says which authority signs the certificates of the mesh; set it to "
        "the authority's PEM file; for a mesh of your own make them with `meshkit certs dev`"
    ]


def test_mutual_tls_needs_tls() -> None:
    assert contradictions(grpc_tls_require_client_auth=True) == [
        "GRPC_TLS_REQUIRE_CLIENT_AUTH: callers are to show certificates, and TLS is off (GRPC_TLS_ENABLED); "
        "set GRPC_TLS_ENABLED=true, or unset this"
    ]


def test_mutual_tls_needs_an_authority_and_a_certificate_to_show() -> None:
    authority, own = contradictions(grpc_tls_enabled=True, grpc_tls_require_client_auth=True)
    assert authority.startswith("GRPC_TLS_CA_CERT: TLS is on")
    assert own == (
        "GRPC_TLS_CLIENT_CERT: services ask their callers for certificates (GRPC_TLS_REQUIRE_CLIENT_AUTH), and this "
        "program has none to show; set it and GRPC_TLS_CLIENT_KEY; a service may name its GRPC_TLS_SERVER_CERT and "
        "_KEY here too"
    )


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize(("there", "missing"), [("cert", "key"), ("key", "cert")])
def test_half_a_pair_is_refused(side: str, there: str, missing: str) -> None:
    given: dict[str, Any] = {f"grpc_tls_{side}_{there}": Path("/x"), "grpc_tls_ca_cert": Path("/ca")}
    (told,) = contradictions(grpc_tls_enabled=True, **given)
    assert told.startswith(
        f"GRPC_TLS_{side}_{missing}: GRPC_TLS_{side}_{there} is set".upper().partition(":")[0]
    )
    assert told.endswith("is not; set both, to the same file where it holds both")


def test_files_may_stay_where_tls_is_off(files: Files) -> None:
    assert problems(files, grpc_tls_enabled=False, grpc_tls_server_cert=Path("/nowhere")) == []


def test_a_service_without_a_certificate_does_not_serve(files: Files) -> None:
    none = dict.fromkeys(("grpc_tls_server_cert", "grpc_tls_server_key"))
    assert problems(files, **none) == [
        "GRPC_TLS_SERVER_CERT: TLS is on, and brain has no certificate to show to its callers; set it and "
        "GRPC_TLS_SERVER_KEY; issue one with `meshkit certs issue brain`"
    ]


@pytest.mark.parametrize("setting", ["ca_cert", "server_cert", "server_key", "client_cert", "client_key"])
def test_a_missing_file_is_named(files: Files, setting: str) -> None:
    path = Path("/nowhere/x.pem")
    told = problems(files, **{f"grpc_tls_{setting}": path})
    assert (
        f"GRPC_TLS_{setting.upper()}: there is no file {path}; mend the path, or put the file there" in told
    )


def test_what_cannot_be_read_is_named(files: Files) -> None:
    (told,) = problems(files, grpc_tls_server_key=files.folder)
    assert told == (
        f"GRPC_TLS_SERVER_KEY: {files.folder} cannot be read (Is a directory); let this program's user read it"
    )


@pytest.mark.parametrize(
    ("mode", "what"),
    [
        (0o644, "read by everybody (mode 0644)"),
        (0o660, "written by its group (mode 0660)"),
        (0o602, "written by everybody (mode 0602)"),
    ],
)
def test_a_key_that_others_can_read_is_refused(files: Files, mode: int, what: str) -> None:
    files.key.chmod(mode)
    told = problems(files)
    assert told[0] == (
        f"GRPC_TLS_SERVER_KEY: {files.key} holds a key, and can be {what}; chmod 600 it (a volume of Kubernetes: "
        "defaultMode: 0440)"
    )


def test_the_group_may_read_a_key(files: Files) -> None:
    files.key.chmod(0o640)
    assert problems(files) == []


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "holds no certificate; name a file with -----BEGIN CERTIFICATE----- in it"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB", "holds a broken certificate; write the file anew, whole"),
        (b"x" * (1024 * 1024 + 1), "is above 1048576 bytes; name the right file"),
    ],
    ids=["empty", "cut off", "large"],
)
def test_a_file_without_a_whole_certificate_is_refused(files: Files, content: bytes, what: str) -> None:
    files.certificate.write_bytes(content)
    assert f"GRPC_TLS_SERVER_CERT: {files.certificate} {what}" in problems(files)
    other = files.folder / "other.pem"
    other.write_bytes(content)
    assert f"GRPC_TLS_CA_CERT: {other} {what}" in problems(files, grpc_tls_ca_cert=other)


def test_a_file_without_a_key_is_refused(files: Files, authority: Signer) -> None:
    write_private(files.key, b"CANARY")
    told = problems(files)[0]
    assert told == (
        f"GRPC_TLS_SERVER_KEY: {files.key} holds no private key that can be read; name a PEM file with a private key "
        "in it"
    )
    assert "CANARY" not in told


def test_a_key_behind_a_passphrase_is_refused(files: Files, authority: Signer) -> None:
    write_private(files.key, pem_of(authority.key, b"a passphrase"))
    assert problems(files)[0] == (
        f"GRPC_TLS_SERVER_KEY: {files.key} holds a key behind a passphrase; write it without one, and chmod 600 the "
        "file"
    )


def test_a_key_that_does_not_fit_is_refused(files: Files, authority: Signer) -> None:
    write_private(files.key, authority.service("brain").key)
    assert problems(files)[0] == (
        f"GRPC_TLS_SERVER_KEY: the key in {files.key} is not that of the certificate in {files.certificate}; name a "
        "pair"
    )


MEND = "issue one with `meshkit certs issue brain`"


@pytest.mark.parametrize(
    ("facts", "what"),
    [
        ({"until": -0.5}, r"expired on .* UTC; " + MEND),
        ({"since": 0.5}, r"does not hold before .* UTC; set this machine's clock, or wait until then"),
        (
            {"dns": ("localhost",)},
            r"is not for brain: it lacks the DNS name brain.contextunity \(it has localhost, "
            r"spiffe://contextunity/brain\); " + MEND,
        ),
        (
            {"uris": ()},
            r"is not for brain: it lacks the URI spiffe://contextunity/brain \(it has brain.contextunity\); "
            + MEND,
        ),
        (
            {"uris": ("spiffe://other/brain",)},
            "is not for brain: it lacks the URI spiffe://contextunity/brain",
        ),
        (
            {"uris": ("spiffe://contextunity/brain", "spiffe://contextunity/router")},
            "is not for brain: it has several URIs, of which gRPC takes none for who it is",
        ),
        ({"dns": (), "uris": ()}, r"is not for brain: .* \(it has no name at all\)"),
        (
            {"purposes": (ExtendedKeyUsageOID.CLIENT_AUTH,)},
            r"is not meant to be shown by a server \(serverAuth is not in it\)",
        ),
    ],
)
def test_a_certificate_that_no_caller_would_accept_is_refused(
    files: Files, authority: Signer, facts: dict[str, Any], what: str
) -> None:
    files.replace(authority.service("brain", **facts))
    start = f"GRPC_TLS_SERVER_CERT: {files.certificate} {what}"
    assert any(re.match(start, each) for each in problems(files)), problems(files)


def test_a_certificate_of_another_service_is_refused_on_both_sides(files: Files, authority: Signer) -> None:
    files.replace(authority.service("router"))
    server, client = (each for each in problems(files) if "is not for brain" in each)
    assert "it lacks the DNS name brain.contextunity" in server
    assert client.startswith(f"GRPC_TLS_CLIENT_CERT: {files.certificate} is not for brain: it lacks the URI")


def test_a_certificate_for_clients_alone_needs_no_dns_name(files: Files, authority: Signer) -> None:
    own = authority.service("brain", dns=(), purposes=(ExtendedKeyUsageOID.CLIENT_AUTH,))
    path = write_private(files.folder / "client.pem", own.both)
    assert problems(files, grpc_tls_client_cert=path, grpc_tls_client_key=path) == []


def test_a_certificate_of_another_authority_is_refused(files: Files) -> None:
    stranger = Signer("a stranger")
    files.replace(stranger.service("brain"))
    assert problems(files)[0] == (
        f"GRPC_TLS_SERVER_CERT: {files.certificate} was signed by none of the authorities in GRPC_TLS_CA_CERT, but by "
        f"CN=a stranger; name the authority that signed it, or {MEND}"
    )


def test_one_of_several_authorities_is_enough(files: Files) -> None:
    other = Signer()
    files.ca.write_bytes(files.ca.read_bytes() + other.pem)
    files.replace(other.service("brain"))
    assert problems(files) == []


def test_a_script_shows_the_certificate_of_any_program_of_the_mesh(files: Files, authority: Signer) -> None:
    files.replace(authority.service("somebody"))
    assert (
        check_files(
            SharedConfig(**settings(files) | {"grpc_tls_server_cert": None, "grpc_tls_server_key": None})
        )
        == []
    )
    files.replace(authority.service("somebody", "elsewhere"))
    told = check_files(SharedConfig(**settings(files)))
    assert any("it lacks a URI spiffe://contextunity/NAME" in each.what for each in told)


def test_the_clock_is_the_one_that_is_given(files: Files) -> None:
    config = SharedConfig(**settings(files))
    assert check_serving(config, "brain", now=time.time()) == []
    assert "expired on" in check_serving(config, "brain", now=time.time() + 2 * 86400)[0].what


def test_a_service_with_wrong_certificates_exits_with_78_before_a_port_is_tried(
    files: Files, authority: Signer, tmp_path: Path
) -> None:
    environ = {
        name.upper(): str(value) for name, value in settings(files).items() if name.startswith("grpc_tls")
    }
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(tmp_path, port, **environ)
    assert done.returncode == os.EX_CONFIG
    assert (
        f"GRPC_TLS_SERVER_CERT: {files.certificate} is not for greeter: it lacks the DNS name" in done.stderr
    )
    assert str(port) not in done.stderr
    assert "Traceback" not in done.stderr


def test_the_settings_of_a_service_are_checked_with_its_name(files: Files) -> None:
    environ = {
        name.upper(): str(value) for name, value in settings(files).items() if name.startswith("grpc_tls")
    }
    result = CliRunner(env=environ | {"CU_STATE_DIR": str(files.folder)}).invoke(
        config_app, ["check", "main:Greeter", "meshkit.config:SharedConfig"]
    )
    assert result.exit_code == os.EX_CONFIG
    assert "main:Greeter: configuration: 2 problems" in result.stderr
    assert "is not for greeter: it lacks the DNS name greeter.contextunity" in result.stderr
    assert "meshkit.config:SharedConfig: the configuration is right" in result.stdout
