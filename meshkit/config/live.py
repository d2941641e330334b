"""Live: the settings of a service as they are now, for those of them that may change while it runs.

Config objects are frozen. Whoever can do with another value of a setting while it runs follows it:

    replica.live.follow("max_calls", apply=lambda config: admission.change(max_calls=config.max_calls))

A change is checked by all followers before the first of them is told, and undone where one fails after all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import SecretBytes, SecretStr

from meshkit.config import rules
from meshkit.config.names import nearest
from meshkit.config.problems import ConfigError, Problem

if TYPE_CHECKING:
    from meshkit.config.shared import SharedConfig

    C = TypeVar("C", bound=SharedConfig)
else:
    C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Changed:
    """One setting that is another.

    Attributes:
        setting: Its name in the environment.
        text: From what to what, for people; of a secret, and where the difference is hidden, only `changed`.
    """

    setting: str
    text: str


@dataclass(frozen=True, slots=True)
class _Follower(Generic[C]):
    fields: frozenset[str]
    apply: Callable[[C], object]
    check: Callable[[C], object] | None


class Live(Generic[C]):
    """The settings of one service as they are now.

    Args:
        config: As they were at the start.

    Attributes:
        config: As they are now; those that nobody follows stay as they were at the start.
    """

    def __init__(self, config: C) -> None:
        self.config = config
        self._followers: list[_Follower[C]] = []

    @property
    def followed(self) -> frozenset[str]:
        """The fields that may change while the service runs."""
        return frozenset().union(*(follower.fields for follower in self._followers))

    def follow(
        self, *fields: str, apply: Callable[[C], object], check: Callable[[C], object] | None = None
    ) -> None:
        """Calls back when any of these settings is another. Followers are told in the order in which they came.

        Args:
            *fields: Names of the fields.
            apply: Takes the new settings; must not block, and is not expected to fail.
            check: Raises `ConfigError` where it could not do with them; called before anybody takes anything.

        Raises:
            ValueError: There is no such field.
        """
        known = type(self.config).model_fields
        for field in fields:
            if field not in known:
                right, _ = nearest(field, known)
                raise ValueError(f"{type(self.config).__name__} has no {field}; did you mean {right}?")
        self._followers.append(_Follower(frozenset(fields), apply, check))

    def change(self, new: C) -> Change[C]:
        """Checks new settings against everybody who would take them. Nothing is taken yet: see `Change.make`.

        Args:
            new: All the settings, as they were loaded anew.

        Raises:
            ConfigError: Somebody cannot do with them.
        """
        old = self.config
        differing = [name for name in type(old).model_fields if getattr(old, name) != getattr(new, name)]
        taken = [name for name in differing if name in self.followed]
        mixed = old.model_copy(update={name: getattr(new, name) for name in taken})
        mixed._sources = {**old._sources, **{n: s for n, s in new._sources.items() if n in taken}}
        concerned = [follower for follower in self._followers if not follower.fields.isdisjoint(taken)]
        if problems := [*rules.check_consistency(mixed), *_refusals(concerned, mixed)]:
            raise ConfigError(problems)
        return Change(
            self,
            mixed,
            tuple(concerned),
            taken=tuple(Changed(old.env_name(name), _told(old, new, name)) for name in taken),
            waiting=tuple(old.env_name(name) for name in differing if name not in taken),
        )


@dataclass(frozen=True, slots=True)
class Change(Generic[C]):
    """A change that is checked, and made when `make` is called.

    Attributes:
        live: Whose settings change.
        config: The settings afterwards.
        concerned: Who is told.
        taken: What is another afterwards.
        waiting: Names of settings that were changed and need a restart.
    """

    live: Live[C]
    config: C
    concerned: tuple[_Follower[C], ...]
    taken: tuple[Changed, ...]
    waiting: tuple[str, ...]

    def make(self) -> Callable[[], None]:
        """Tells everybody, and returns what takes it back.

        Raises:
            Exception: What one raised that took it; by then nobody has taken anything.
        """
        before = self.live.config

        def undo() -> None:
            self.live.config = before
            for follower in reversed(told):
                follower.apply(before)

        told: list[_Follower[C]] = []
        self.live.config = self.config
        try:
            for follower in self.concerned:
                told.append(follower)
                follower.apply(self.config)
        except BaseException:
            undo()
            raise
        return undo


def _refusals(concerned: Iterable[_Follower[C]], config: C) -> Iterable[Problem]:
    for follower in concerned:
        if follower.check is not None:
            try:
                follower.check(config)
            except ConfigError as error:
                yield from error.problems


def _told(old: SharedConfig, new: SharedConfig, name: str) -> str:
    from meshkit.config.explained import show

    before, after = getattr(old, name), getattr(new, name)
    if isinstance(after, (SecretStr, SecretBytes)) or show(before) == show(after):
        return "changed"
    return f"{show(before)} -> {show(after)}"
