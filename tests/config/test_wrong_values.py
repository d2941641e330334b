"""Each setting with each kind of value that it cannot have: the message says what is wrong, and the mend."""

import pytest

from meshkit.config import ConfigError, SharedConfig
from tests.config.wrong_values import ANY_TEXT, BY_HAND, FILES, Case, generated, names_a_path, settings

CASES = {
    (kind, kind.env_name(name)): [*generated(name, info), *BY_HAND.get(kind.env_name(name), ())]
    for kind, name, info in settings()
}


@pytest.mark.parametrize(
    ("kind", "setting", "cases"),
    [pytest.param(*key, cases, id=key[1]) for key, cases in CASES.items() if cases],
)
def test_wrong_values_are_told_with_their_setting_and_the_mend(
    kind: type[SharedConfig], setting: str, cases: list[Case]
) -> None:
    for value, told in cases:
        with pytest.raises(ConfigError) as caught:
            kind.load({setting: value})
        (problem,) = caught.value.problems
        message = str(problem)
        assert message.startswith(f"{setting}: {told}"), value
        assert message.endswith("(environment)"), value
        assert problem.mend, value
        assert "CANARY" not in message, value


def test_each_setting_is_in_a_table() -> None:
    known = {kind.env_name(name): info for kind, name, info in settings()}
    assert BY_HAND.keys() | ANY_TEXT | FILES <= known.keys()
    for (_, setting), cases in CASES.items():
        assert cases or setting in ANY_TEXT | FILES, f"{setting}: say in wrong_values.py what it cannot be"
        assert (setting in FILES) == names_a_path(known[setting]), setting
