"""Settings that may change while a service runs."""

import pytest

from meshkit.config import ConfigError, Live, LogLevel, Problem, Secret
from tests.config.samples import OTHER, SECRET, BrainConfig


class Taker:
    """Somebody who follows settings."""

    def __init__(self, *, refuses: str = "", fails: bool = False) -> None:
        self.taken: list[int] = []
        self._refuses = refuses
        self._fails = fails

    def check(self, config: BrainConfig) -> None:
        if self._refuses:
            raise ConfigError([Problem("CU_MAX_CALLS", self._refuses)])

    def apply(self, config: BrainConfig) -> None:
        self.taken.append(config.max_calls)
        if self._fails and config.max_calls == 2:
            raise RuntimeError("no")


def following(*takers: Taker) -> Live[BrainConfig]:
    live = Live(BrainConfig(max_calls=1))
    for taker in takers:
        live.follow("max_calls", apply=taker.apply, check=taker.check)
    return live


def test_who_follows_a_setting_takes_it() -> None:
    taker = Taker()
    live = following(taker)
    change = live.change(BrainConfig(max_calls=2))
    assert (taker.taken, live.config.max_calls) == ([], 1), "checked, and not made"
    change.make()
    assert (taker.taken, live.config.max_calls) == ([2], 2)
    assert [(each.setting, each.text) for each in change.taken] == [("CU_MAX_CALLS", "1 -> 2")]
    assert change.waiting == ()


def test_the_rest_waits_for_a_restart_each_time_that_it_is_read() -> None:
    live = following(Taker())
    for _ in range(2):
        change = live.change(BrainConfig(max_calls=1, zone="b", brain_limits={"a": 1}))
        change.make()
        assert (change.taken, change.waiting) == ((), ("CU_ZONE", "BRAIN_LIMITS"))
        assert live.config.zone == ""


def test_nobody_takes_what_one_refuses() -> None:
    first, second = Taker(), Taker(refuses="too many")
    with pytest.raises(ConfigError, match="CU_MAX_CALLS: too many"):
        following(first, second).change(BrainConfig(max_calls=2))
    assert first.taken == []


def test_what_one_fails_to_take_is_taken_back_in_reverse() -> None:
    first, second, third = Taker(), Taker(fails=True), Taker()
    live = following(first, second, third)
    with pytest.raises(RuntimeError):
        live.change(BrainConfig(max_calls=2)).make()
    assert (first.taken, second.taken, third.taken) == ([2, 1], [2, 1], [])
    assert live.config.max_calls == 1


def test_a_change_can_be_taken_back() -> None:
    taker = Taker()
    live = following(taker)
    live.change(BrainConfig(max_calls=2)).make()()
    assert (taker.taken, live.config.max_calls) == ([2, 1], 1)


def test_what_is_taken_must_fit_to_what_waits() -> None:
    live = Live(BrainConfig())
    live.follow("token_ttl_s", apply=lambda config: None)
    with pytest.raises(ConfigError, match=r"CU_TOKEN_TTL_S: 4000 s is above CU_TOKEN_MAX_TTL_S \(3600 s\)"):
        live.change(BrainConfig(token_ttl_s=4000, token_max_ttl_s=5000))


def test_no_change_shows_a_secret() -> None:
    old, new = "redis://u:canary@h", "redis://u:other-canary@h"
    live = Live(BrainConfig(project_secret=Secret(SECRET), registry_url=old))
    live.follow("project_secret", "registry_url", "log_level", apply=lambda config: None)
    change = live.change(
        BrainConfig(project_secret=Secret(OTHER), registry_url=new, log_level=LogLevel.DEBUG)
    )
    assert {each.setting: each.text for each in change.taken} == {
        "LOG_LEVEL": "INFO -> DEBUG",
        "CU_REGISTRY_URL": "changed",
        "CU_PROJECT_SECRET": "changed",
    }
    assert "canary" not in repr(change.taken)


def test_a_setting_that_there_is_not_cannot_be_followed() -> None:
    with pytest.raises(ValueError, match="BrainConfig has no max_call; did you mean max_calls"):
        Live(BrainConfig()).follow("max_call", apply=lambda config: None)
