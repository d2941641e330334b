"""The state folder, and the secret that a machine makes for itself there.

The local secret is written to a temporary file and linked into place: of several processes that start at once
one link succeeds, and all read what it put there.
"""

from __future__ import annotations

import contextlib
import os
import secrets as randomness
import stat
from pathlib import Path

from meshkit.config.problems import ConfigError, Problem, Wrong
from meshkit.config.secrets import ProjectSecret, Secret, parse_project_secrets

SECRET_FILE = "project-secret"
"""Name of the local secret's file in the state folder."""

_SETTING = "CU_STATE_DIR"
_MAX_BYTES = 4096


def default_folder(namespace: str, state_home: str = "", home: str = "") -> Path:
    """The state folder of a mesh where none is configured.

    Args:
        namespace: Name of the mesh.
        state_home: `XDG_STATE_HOME`; counts only where it is absolute, as its specification says.
        home: The user's home folder; found by the operating system where empty.
    """
    if state_home.startswith("/"):
        return Path(state_home) / "meshkit" / namespace
    if home:
        return Path(home) / ".local" / "state" / "meshkit" / namespace
    return absolute(Path("~/.local/state/meshkit") / namespace)


def absolute(path: Path) -> Path:
    """The path without `~` and independent of the working folder."""
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise Wrong(f"the home folder of {str(path)!r} is not known", "give an absolute path") from None


def ensure_folder(folder: Path) -> Path:
    """Makes the folder, mode 0700, where it is missing.

    Raises:
        ConfigError: It cannot be made, or anybody may write into it.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        mode = folder.stat().st_mode
    except OSError as error:
        raise _refuse(
            folder, f"it cannot be made ({error.strerror})", "choose a folder that can be"
        ) from None
    if not stat.S_ISDIR(mode):
        raise _refuse(folder, "it is not a folder", "choose another")
    if mode & stat.S_IWOTH:
        raise _refuse(
            folder, "anybody may write into it", "choose a folder of the mesh's own, or chmod 700 it"
        )
    return folder


def local_secret(state_dir: Path) -> Secret:
    """The secret that this machine's programs share, made by the first that asks.

    Raises:
        ConfigError: It cannot be made or read, belongs to or can be read by others, or is broken.
    """
    path = ensure_folder(state_dir) / SECRET_FILE
    if not os.path.lexists(path):
        _make(path)
    return Secret(_read(path))


def local_secret_kid(state_dir: Path) -> str | None:
    """The kid of the local secret, or None where there is none yet; makes nothing.

    Raises:
        ConfigError: As `local_secret`.
    """
    path = state_dir / SECRET_FILE
    return _parse(path, _read(path))[0].kid if os.path.lexists(path) else None


def _make(path: Path) -> None:
    temporary = path.with_name(f".{SECRET_FILE}.{os.getpid()}.{randomness.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(randomness.token_urlsafe(48) + "\n")
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            temporary.unlink()
    except OSError as error:
        what = f"the local secret cannot be made in it ({error.strerror})"
        raise _refuse(
            path.parent, what, "choose a folder on a local disk, or set CU_PROJECT_SECRET"
        ) from None


def _read(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise _distrust(path, f"it cannot be read ({error.strerror})") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _distrust(path, "it is not a plain file")
        if status.st_uid != os.geteuid():
            raise _distrust(path, f"it belongs to user {status.st_uid}, not to {os.geteuid()}")
        if status.st_mode & 0o077:
            raise _distrust(path, f"others may use it (mode {stat.S_IMODE(status.st_mode):04o})")
        text = os.read(descriptor, _MAX_BYTES).decode("utf-8", "replace").rstrip("\r\n")
    finally:
        os.close(descriptor)
    _parse(path, text)
    return text


def _parse(path: Path, text: str) -> tuple[ProjectSecret, ...]:
    try:
        if keys := parse_project_secrets(text):
            return keys
        what = "it is empty"
    except Wrong as wrong:
        what = f"it is broken: {wrong.what}"
    raise _distrust(path, what)


def _distrust(path: Path, what: str) -> ConfigError:
    mend = "stop the mesh and delete the file, and a new secret is made; or set CU_PROJECT_SECRET"
    return ConfigError([Problem("CU_PROJECT_SECRET", f"the local secret {path} is not used: {what}", mend)])


def _refuse(folder: Path, what: str, mend: str) -> ConfigError:
    return ConfigError([Problem(_SETTING, f"{folder}: {what}", mend)])
