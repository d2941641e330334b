"""Where a service's master key comes from: the configuration, or in local a file that the first replica makes."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import secrets
import stat
from pathlib import Path

from pydantic import SecretStr

from meshkit.config import ConfigError, Problem, SharedConfig, Wrong

KEY_BYTES = 32

MAKE_MASTER_KEY = "openssl rand -base64 32 | tr '+/' '-_'"
"""The command that makes a key."""

_MEND = f"make one with `{MAKE_MASTER_KEY}`"


def parse_master_key(text: str) -> bytes:
    """Reads a key that is written in base64url, with or without padding.

    Raises:
        Wrong: It is no such key; the message quotes nothing of it.
    """
    stripped = text.strip().rstrip("=")
    key = b""
    with contextlib.suppress(binascii.Error, ValueError):
        key = base64.b64decode(stripped + "=" * (-len(stripped) % 4), altchars=b"-_", validate=True)
    if len(key) != KEY_BYTES:
        raise Wrong(f"it is not base64url of {KEY_BYTES} bytes", _MEND)
    return key


def check_master_key(value: SecretStr, env: object) -> SecretStr:
    """The master key of a setting, which production cannot do without; for its validator.

    Args:
        value: The setting; empty where there is none.
        env: `CU_ENV`.

    Raises:
        Wrong: It is no key, or is missing.
    """
    text = value.get_secret_value()
    if text:
        parse_master_key(text)
    elif env == "production":
        raise Wrong("it is missing, and production makes none", _MEND)
    return value


def master_key(config: SharedConfig, setting: str, configured: SecretStr, name: str) -> bytes:
    """The key that is configured, or this machine's own. Blocking.

    Args:
        config: Says where the state folder is.
        setting: Name of the setting.
        configured: What it says; empty where it says nothing.
        name: Name of the file with the machine's own key.

    Raises:
        ConfigError: The file with the machine's own key is none, or is open to others than its owner.
        OSError: It cannot be read or made.
    """
    if text := configured.get_secret_value():
        return parse_master_key(text)
    folder = config.ensure_state_dir()
    try:
        return local_master_key(folder, name)
    except Wrong as wrong:
        what = f"it is not set, and the key in {folder / name} is not used: {wrong.what}"
        raise ConfigError([Problem(setting, what, wrong.mend)]) from None


def local_master_key(folder: Path, name: str) -> bytes:
    """The key of this machine, which is made where there is none; replicas that start at once agree on one.

    Args:
        folder: The state folder.
        name: Name of the file in it.

    Raises:
        Wrong: The file is there, and is no key or is open to others than its owner.
        OSError: The folder cannot be written to.
    """
    path = folder / name
    if not path.exists():
        _make(folder, path)
    _check_private(path)
    return parse_master_key(path.read_text(encoding="ascii", errors="replace"))


def _make(folder: Path, path: Path) -> None:
    """Writes a fresh key under another name and links it into place, unless another was quicker."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = folder / f".{path.name}.{secrets.token_hex(8)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).rstrip(b"=") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def _check_private(path: Path) -> None:
    facts = path.stat()
    if facts.st_uid != os.getuid() or stat.S_IMODE(facts.st_mode) & 0o077:
        raise Wrong(f"{path} must belong to you and be readable by nobody else", "chmod 600 it, or delete it")
