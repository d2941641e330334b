"""What is wrong with a configuration: all of it at once, in words for the person who has to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        setting: Name of the setting as it is set, such as `GRPC_PORT`.
        what: What is wrong. Never holds the value of a secret.
        mend: What to do about it.
        source: Where the value came from; empty where nothing was set.
    """

    setting: str
    what: str
    mend: str = ""
    source: str = ""

    def __str__(self) -> str:
        mend = f"; {self.mend}" if self.mend else ""
        source = f" ({self.source})" if self.source else ""
        return f"{self.setting}: {self.what}{mend}{source}"


class ConfigError(Exception):
    """The configuration cannot be used.

    Attributes:
        problems: Everything that is wrong with it.
        exit_code: What a program that stops because of it exits with: 78, `EX_CONFIG` of sysexits.h.
    """

    exit_code: ClassVar[int] = 78

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"configuration: {self.problems[0]}"
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        return f"configuration: {len(self.problems)} problems{lines}"


class Wrong(ValueError):
    """Raised by a validator of a setting: what is wrong with the value, and the mend.

    A service's own validators may raise it, or any `ValueError`. It must not quote a secret.
    """

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what, mend)
        self.what = what
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.what}; {self.mend}" if self.mend else self.what
