"""Files and folders that settings name: missing, unreadable, of another kind, with something else in them."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from meshkit.cli.config import app
from meshkit.config import ConfigError, SharedConfig
from tests.certificates import Signer, pem_of, write_private

KEYS = "CU_PROJECT_KEYS_FILE"
MEND_PATH = "mend the path, or put the file there"
LONG = "x" * 300


def problems(environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        SharedConfig.load(environ)
    return [str(problem) for problem in caught.value.problems]


# The keys file


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("none.toml", "there is no file {path}"),
        ("folder", "{path} is no file"),
        ("file/keys.toml", "{path} cannot be read (Not a directory)"),
        (LONG, "{path} cannot be read (File name too long)"),
    ],
)
def test_a_keys_file_that_is_none_is_told(folder: Path, name: str, what: str) -> None:
    (folder / "folder").mkdir()
    (folder / "file").touch()
    path = folder / name
    assert problems({KEYS: str(path)}) == [f"{KEYS}: {what.format(path=path)}; mend the path, or unset it"]


@pytest.mark.parametrize(
    ("text", "mode", "what"),
    [
        ("", 0o644, "can be read by everybody (mode 0644): chmod 600 it"),
        ("[[key]\n", 0o600, "is not TOML: "),
        ("[key]\n", 0o600, "has [key] where [[key]] is meant"),
        ("[[keys]]\n", 0o600, "has unknown tables keys; only [[key]] is known"),
        ('[[key]]\nproject = "shop"\nsecret = "CANARY"\n', 0o600, "[[key]] number 1, kid: Field required"),
    ],
)
def test_the_check_of_a_service_reads_its_keys_file(folder: Path, text: str, mode: int, what: str) -> None:
    path = folder / "keys.toml"
    path.write_text(text)
    path.chmod(mode)
    result = CliRunner(env={KEYS: str(path)}).invoke(app, ["check", "main:Greeter"])
    assert result.exit_code == os.EX_CONFIG
    assert f"{KEYS}: keys file {path} {what}" in result.stderr
    assert result.stderr.endswith("; mend the file, or unset the setting\n")
    assert "CANARY" not in result.output


# The state folder


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("file", "it is not a folder"),
        ("file/state", "it is not a folder"),
        (LONG, "it cannot be used (File name too long)"),
    ],
)
def test_a_state_folder_that_is_none_is_told(folder: Path, name: str, what: str) -> None:
    (folder / "file").touch()
    path = folder / name
    assert problems({"CU_STATE_DIR": str(path)}) == [f"CU_STATE_DIR: {path}: {what}; choose another"]


def test_a_state_folder_that_is_not_there_is_none_of_a_checks_business(folder: Path) -> None:
    SharedConfig.load({"CU_STATE_DIR": str(folder / "later")})
    assert not (folder / "later").exists()


@pytest.mark.parametrize("setting", ["CU_STATE_DIR", "GRPC_TLS_CA_CERT", KEYS])
def test_no_path_has_a_zero_byte(folder: Path, setting: str) -> None:
    (folder / "mesh.toml").write_text(f'{setting} = "/a\\u0000b"\n')
    (told,) = problems({"CU_CONFIG_FILE": "mesh.toml"})
    assert told.startswith(f"{setting}: it has a zero byte in it; write the path of a file or folder")


# Certificates for Redis


@pytest.fixture
def pems(folder: Path) -> Path:
    """A folder with an authority, a client's certificate and key, and what is none of these."""
    signer = Signer()
    client, other = (signer.sign(dns=("client",)) for _ in range(2))
    (folder / "ca.pem").write_bytes(signer.pem)
    (folder / "certificate.pem").write_bytes(client.certificate)
    (folder / "text.pem").write_text("CANARY")
    write_private(folder / "key.pem", client.key)
    write_private(folder / "other.pem", other.key)
    write_private(folder / "locked.pem", pem_of(signer.key, b"CANARY"))
    write_private(folder / "open.pem", client.both).chmod(0o644)
    return folder


@pytest.mark.parametrize("setting", ["REDIS_URL", "CU_REGISTRY_URL"])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("ssl_ca_certs=none.pem", f"ssl_ca_certs: there is no file none.pem; {MEND_PATH}"),
        ("ssl_ca_certs=.", "ssl_ca_certs: . cannot be read (Is a directory); let this program's user read it"),
        ("ssl_ca_certs=text.pem", "ssl_ca_certs: text.pem holds no certificate; name a file with -----BEGIN"),
        ("ssl_certfile=certificate.pem", "ssl_certfile: certificate.pem holds no key; name the key's file"),
        ("ssl_certfile=open.pem", "ssl_certfile: open.pem holds a key, and can be read by everybody (mode 0644); "),
        ("ssl_certfile=certificate.pem&ssl_keyfile=none.pem", f"ssl_keyfile: there is no file none.pem; {MEND_PATH}"),
        ("ssl_certfile=certificate.pem&ssl_keyfile=locked.pem", "ssl_keyfile: locked.pem holds a key behind a"),
        ("ssl_certfile=certificate.pem&ssl_keyfile=other.pem", "ssl_keyfile: the key in other.pem is not that of the "
         "certificate in certificate.pem; name a pair"),
    ],
)  # fmt: skip
def test_certificates_for_redis_are_looked_at(pems: Path, setting: str, options: str, told: str) -> None:
    here = options.replace("=", f"={pems}/")
    (message,) = problems({setting: f"rediss://u:CANARY@h/0?{here}"})
    shown = message.replace(f"{pems}/", "").replace(str(pems), ".")
    assert shown.startswith(f"{setting}: its option {told}")
    assert "CANARY" not in message


def test_right_certificates_for_redis_are_taken(pems: Path) -> None:
    options = f"ssl_ca_certs={pems}/ca.pem&ssl_certfile={pems}/certificate.pem&ssl_keyfile={pems}/key.pem"
    SharedConfig.load({"REDIS_URL": f"rediss://u:p@h/0?{options}"})


# Files that may not be read


@pytest.fixture
def sealed() -> Iterator[Path]:
    """A file that nobody may read, in a folder that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="meshkit-config-") as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "sealed"
        path.write_text("CANARY")
        path.chmod(0o000)
        yield path


def test_a_file_that_may_not_be_read_is_told_by_the_setting_that_names_it(sealed: Path) -> None:
    environ = {
        "CU_CONFIG_FILE": str(sealed),
        "CU_PROJECT_SECRET_FILE": str(sealed),
        "REDIS_URL": f"rediss://u:p@h/0?ssl_ca_certs={sealed}",
        "GRPC_TLS_ENABLED": "true",
        "GRPC_TLS_CA_CERT": str(sealed),
        "GRPC_TLS_CLIENT_CERT": str(sealed),
        "GRPC_TLS_CLIENT_KEY": str(sealed),
        "CU_STATE_DIR": "/nowhere",
    }
    code = (
        "import os, cryptography.x509, pydantic\n"
        "from meshkit.config import ConfigError, SharedConfig\n"
        "from meshkit.security.assembly import file_ring\n"
        "from pathlib import Path\n"
        "try: SharedConfig.load({})\n"
        "except ConfigError: pass\n"
        "if os.geteuid() == 0: os.setuid(12345)\n"
        "for read in (lambda: SharedConfig.load(%r), lambda: file_ring(Path(%r))):\n"
        "    try: read()\n"
        "    except ConfigError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code % (environ, str(sealed))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    denied = f"{sealed} cannot be read (Permission denied); let this program's user read it"
    for told in (
        f"CU_CONFIG_FILE: the file cannot be read (Permission denied); mend its path ({sealed})",
        "CU_PROJECT_SECRET: the file cannot be read (Permission denied); mend its path (secret file ",
        f"REDIS_URL: its option ssl_ca_certs: {denied}",
        *(f"GRPC_TLS_{each}: {denied}" for each in ("CA_CERT", "CLIENT_CERT", "CLIENT_KEY")),
        f"CU_PROJECT_KEYS_FILE: keys file {sealed} cannot be read (Permission denied); mend the file",
    ):
        assert told in done.stdout
    assert "CANARY" not in done.stdout
