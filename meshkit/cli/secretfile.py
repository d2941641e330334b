"""The file of a project's secrets, which CU_PROJECT_SECRET_FILE names: `kid:secret,kid:secret`, the first signs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from meshkit.cli.output import ExitCode, Failure
from meshkit.cli.secrets import given_secrets, new_secret

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshkit.config import ProjectSecret


class SecretFile:
    """The secrets in a file. A change replaces it whole, readable by its owner only.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def kids(self) -> list[str]:
        """Names of the secrets, the one that signs first.

        Raises:
            Failure: The file cannot be read, or holds something else.
        """
        return [secret.kid for secret in self._read()]

    def add(self, kid: str) -> str:
        """Puts a new secret behind those that are there; its name.

        Args:
            kid: What to call it; empty: made of it.

        Raises:
            Failure: There is one of that name, or the file cannot be read or written.
        """
        from meshkit.security.keys import KID

        if kid and not KID.fullmatch(kid):
            raise Failure(f"--kid {kid!r} is no kid ({KID.pattern})", code=ExitCode.USAGE)
        there = self._read() if self._path.exists() else []
        if kid in [secret.kid for secret in there]:
            raise Failure(f"{self._path} has a secret {kid} already: give the new one another --kid")
        made = new_secret(kid)
        self._write([*there, made])
        return made.kid

    def promote(self) -> None:
        """Puts the last secret first.

        Raises:
            Failure: There is one only, or the file cannot be read or written.
        """
        there = self._read()
        if len(there) < 2:
            raise Failure(
                f"{self._path} has one secret, and nothing to rotate to: make one with `meshkit keys new`, and restart "
                "all services of the project, before this"
            )
        self._write([there[-1], *there[:-1]])

    def remove(self, kid: str) -> None:
        """Takes a secret out.

        Raises:
            Failure: There is none of that name, it signs, or the file cannot be read or written.
        """
        there = self._read()
        kept = [secret for secret in there if secret.kid != kid]
        if len(kept) == len(there):
            names = ", ".join(secret.kid for secret in there)
            raise Failure(f"{self._path} has no secret {kid}: it has {names}")
        if there[0].kid == kid:
            raise Failure(f"{kid} signs: have another sign first, with `meshkit keys rotate`")
        self._write(kept)

    def _read(self) -> list[ProjectSecret]:
        return given_secrets(self._path)

    def _write(self, secrets: Iterable[ProjectSecret]) -> None:
        text = ",".join(f"{secret.kid}:{secret.secret}" for secret in secrets)
        beside = self._path.with_name(f".{self._path.name}.new")
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise Failure(
                f"somebody else changes {self._path} just now; if nobody does, delete {beside}"
            ) from None
        except OSError as error:
            raise Failure(f"{self._path} cannot be written: {error.strerror}", code=ExitCode.USAGE) from None
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(f"{text}\n")
                file.flush()
                os.fsync(descriptor)
            beside.replace(self._path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise Failure(f"{self._path} cannot be written: {error.strerror}") from None
