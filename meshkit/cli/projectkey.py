"""The key that `meshkit projects add` writes: of what is there, and what the command line says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshkit.cli.output import ExitCode, Failure
from meshkit.cli.secrets import new_secret
from meshkit.security.keys import Grants, KeyRow, KeyStatus

if TYPE_CHECKING:
    from meshkit.config import ProjectSecret

LISTS = ("tenants", "permissions", "subjects", "delegate")


class Draft:
    """A key as it shall be.

    Args:
        project: Whose it is.
        kid: Its name; empty: made of its secret.
        status: Whether it verifies.
        lists: The lists of grants that replace those that are there, by name.
        secret: The secret that was given, if one was.

    Attributes:
        kid: Its name.
        made: The secret, where one was made.

    Raises:
        Failure: It is no key row.
    """

    def __init__(
        self,
        project: str,
        kid: str,
        status: KeyStatus,
        lists: dict[str, frozenset[str]],
        secret: ProjectSecret | None,
    ) -> None:
        self.made: ProjectSecret | None = None
        self._project = project
        self._status = status
        self._lists = lists
        self._secret = secret
        if secret is None and not kid:
            if status is KeyStatus.RETIRED:
                raise Failure("say with --kid which key is retired", code=ExitCode.USAGE)
            self._secret = self.made = new_secret("")
        self.kid = self._secret.kid if self._secret is not None else kid
        self._check()

    @property
    def project(self) -> str:
        """Whose key it is."""
        return self._project

    def revise(self, before: KeyRow | None) -> KeyRow:
        """The key to write in the place of the one that is there.

        Raises:
            Failure: That one has another secret, or none is known.
        """
        grants = self._grants(before.grants if before is not None else Grants())
        if self._status is KeyStatus.RETIRED:
            return KeyRow(self._project, self.kid, self._status, grants)
        secret = self._secret_beside(before)
        keys = before.keys if before is not None and secret is None else None
        return KeyRow(self._project, self.kid, self._status, grants, secret=secret, keys=keys)

    def _secret_beside(self, before: KeyRow | None) -> bytes | None:
        given = self._secret.secret.encode() if self._secret is not None else None
        if before is None:
            return given or self._made()
        if before.secret is not None and given not in (None, before.secret):
            raise Failure(
                f"{self._project}:{self.kid} is there with another secret: give the new one another --kid, or remove "
                "the old key first"
            )
        if given is None and before.secret is None and before.keys is None:
            raise Failure(
                f"{self._project}:{self.kid} was retired, and its secret is not kept: give it with --secret-file"
            )
        return given or before.secret

    def _made(self) -> bytes:
        self._secret = self.made = new_secret(self.kid)
        return self.made.secret.encode()

    def _grants(self, before: Grants) -> Grants:
        return Grants(**{name: self._lists.get(name, getattr(before, name)) for name in LISTS})

    def _check(self) -> None:
        """Refuses what is no key row, before anything is asked of Redis."""
        from meshkit.security.keyrows import dump_grants, parse_row

        fields = {"project": self._project, "kid": self.kid, "status": KeyStatus.RETIRED.value}
        try:
            parse_row(fields | {"grants": dump_grants(self._grants(Grants()))}, "the key")
        except ValueError as error:
            raise Failure(str(error), code=ExitCode.USAGE) from None
