"""Secrets that a verb is given or makes: read from a file or standard input, never from the command line."""

from __future__ import annotations

import getpass
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from meshkit.cli.output import ExitCode, Failure

if TYPE_CHECKING:
    from meshkit.config import ProjectSecret

MAX_INPUT = 8192
"""Bytes read of what should be a secret."""


def given_secret(file: Path, kid: str) -> ProjectSecret:
    """Reads a project's secret, `kid:secret` or the secret alone.

    Args:
        file: The file; `-` for standard input.
        kid: Its name, empty where the file says it, or none does.

    Raises:
        Failure: It cannot be read, or is no secret, or has another name.
    """
    found = given_secrets(file, kid)
    if len(found) != 1:
        raise Failure("give one secret, as KID:SECRET or alone", code=ExitCode.USAGE)
    if kid and found[0].kid != kid:
        raise Failure(
            f"the secret comes with the kid {found[0].kid}, and --kid is {kid}", code=ExitCode.USAGE
        )
    return found[0]


def given_secrets(file: Path, kid: str = "") -> list[ProjectSecret]:
    """Reads secrets, as CU_PROJECT_SECRET has them.

    Args:
        file: The file; `-` for standard input.
        kid: Name of a secret that is given alone; empty: made of it.

    Raises:
        Failure: It cannot be read, or holds something else.
    """
    from meshkit.config import Wrong, parse_project_secrets

    text = _read(file)
    try:
        return list(parse_project_secrets(f"{kid}:{text}" if kid and ":" not in text else text))
    except Wrong as wrong:
        raise Failure(f"the secret cannot be used: {wrong}", code=ExitCode.USAGE) from None


def new_secret(kid: str) -> ProjectSecret:
    """Makes a secret; where it is given no name it has one made of it, as a bare `CU_PROJECT_SECRET` has."""
    from meshkit.config import parse_project_secrets

    secret = secrets.token_urlsafe(32)
    (made,) = parse_project_secrets(f"{kid}:{secret}" if kid else secret)
    return made


@contextmanager
def new_file(path: Path) -> Iterator[Callable[[str], None]]:
    """Makes a file that its owner only can read; gives what writes into it. Where the block fails it is deleted.

    Raises:
        Failure: It cannot be made, or is there already.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise Failure(f"--out {path} cannot be made: {error.strerror}", code=ExitCode.USAGE) from None

    def write(text: str) -> None:
        try:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        except OSError as error:
            raise Failure(f"--out {path} cannot be written: {error.strerror}") from None

    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield write
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _read(file: Path) -> str:
    if str(file) == "-" and sys.stdin.isatty():
        return getpass.getpass("secret: ").strip()
    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as opened:
            data = opened.read(MAX_INPUT + 1)
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}", code=ExitCode.USAGE) from None
    if len(data) > MAX_INPUT:
        raise Failure(f"the secret has more than {MAX_INPUT} bytes", code=ExitCode.USAGE)
    return data.decode(errors="surrogateescape").strip()
