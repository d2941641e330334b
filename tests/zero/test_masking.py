"""Texts are masked, and come back as they were, for their own session and tenant only."""

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshkit import FailedPrecondition, ResourceExhausted
from reference_services.zero.findings import Kind
from reference_services.zero.masking import Privacy, Search
from reference_services.zero.placeholders import MAX_LENGTH, new_tag, placeholder, tokens
from reference_services.zero.sealing import Master
from reference_services.zero.vault import VaultStore
from tests.zero.conftest import KEY, Clock, with_privacy

ALL = Search(region="DE")
TEXT = "Mail bob@example.com or call +49 30 1234567, card 4111 1111 1111 1111, again bob@example.com."


async def test_values_become_typed_placeholders_and_come_back(privacy: Privacy) -> None:
    masked = await privacy.mask("acme", TEXT, "s", ALL)
    assert re.fullmatch(
        r"Mail (\[EMAIL_1_(\w{6})\]) or call \[PHONE_2_\2\], card \[CARD_3_\2\], again \1\.", masked.text
    )
    assert [finding.kind for finding in masked.findings] == [
        Kind.EMAIL,
        Kind.PHONE,
        Kind.PAYMENT_CARD,
        Kind.EMAIL,
    ]
    assert all(masked.text.count(written) for written in masked.placeholders)
    unmasked = await privacy.unmask("acme", masked.text, "s")
    assert (unmasked.text, unmasked.restored, unmasked.unresolved) == (TEXT, 4, 0)


async def test_a_value_keeps_its_placeholder_throughout_a_session(privacy: Privacy) -> None:
    first = await privacy.mask("acme", "bob@example.com", "s", ALL)
    await privacy.mask("acme", "eve@example.com", "s", ALL)
    again = await privacy.mask("acme", "it is bob@example.com", "s", ALL)
    other = await privacy.mask("acme", "bob@example.com", "other", ALL)
    assert again.text == f"it is {first.text}"
    assert other.text != first.text


async def test_what_a_model_does_to_placeholders_does_not_lose_them(privacy: Privacy) -> None:
    bare = (await privacy.mask("acme", "bob@example.com", "s", ALL)).text[1:-1]
    escaped = bare.replace("_", "\\_")
    answer = (
        f"**[{bare}]**, {bare}, [{bare.lower()}]'s, ({bare.upper()}), [{escaped}], \\[{bare}\\], [{bare}](x)"
    )
    unmasked = await privacy.unmask("acme", answer, "s")
    bob = "bob@example.com"
    assert unmasked.text == f"**{bob}**, {bob}, {bob}'s, ({bob}), {bob}, {bob}, {bob}(x)"
    assert unmasked.restored == 7


async def test_placeholders_of_others_stay_and_are_counted(privacy: Privacy) -> None:
    foreign = (await privacy.mask("acme", "eve@example.com", "other", ALL)).text
    own = (await privacy.mask("acme", "bob@example.com", "s", ALL)).text
    invented = own.replace("_1_", "_99_")
    mislabelled = own.replace("EMAIL", "PHONE")
    unmasked = await privacy.unmask("acme", f"{foreign} {own} {invented} {mislabelled}", "s")
    assert unmasked.text == f"{foreign} bob@example.com {invented} {mislabelled}"
    assert (unmasked.restored, unmasked.unresolved) == (1, 3)


async def test_another_tenant_with_the_same_session_id_sees_nothing(privacy: Privacy) -> None:
    masked = await privacy.mask("acme", TEXT, "s", ALL)
    for prepare in (False, True):
        if prepare:
            await privacy.mask("evil", "eve@example.com", "s", ALL)
        unmasked = await privacy.unmask("evil", masked.text, "s")
        assert (unmasked.text, unmasked.restored, unmasked.unresolved) == (masked.text, 0, 4)
    assert (await privacy.holdings("evil")).entities == {"EMAIL": 1}
    assert await privacy.destroy("evil", "s")
    assert (await privacy.unmask("acme", masked.text, "s")).text == TEXT


async def test_a_destroyed_session_is_unknown_and_its_id_begins_anew(privacy: Privacy) -> None:
    masked = await privacy.mask("acme", TEXT, "s", ALL)
    assert await privacy.destroy("acme", "s")
    assert not await privacy.destroy("acme", "s")
    assert (await privacy.unmask("acme", masked.text, "s")).unresolved == 4
    await privacy.mask("acme", "eve@example.com", "s", ALL)
    assert (await privacy.unmask("acme", masked.text, "s")).text == masked.text


async def test_a_session_expires_unless_masking_renews_it(privacy: Privacy, clock: Clock) -> None:
    masked = await privacy.mask("acme", TEXT, "s", ALL)
    assert masked.expires_at == clock.now + 60
    clock.now += 50
    renewed = await privacy.mask("acme", "nothing in it", "s", ALL)
    assert renewed.expires_at == clock.now + 60
    clock.now += 50
    assert (await privacy.unmask("acme", masked.text, "s")).restored == 4
    clock.now += 10
    assert (await privacy.unmask("acme", masked.text, "s")).restored == 0
    assert not await privacy.destroy("acme", "s")


async def test_an_expired_id_begins_anew_before_it_is_swept(privacy: Privacy, clock: Clock) -> None:
    before = await privacy.mask("acme", TEXT, "s", ALL)
    clock.now += 61
    after = await privacy.mask("acme", "bob@example.com", "s", ALL)
    assert after.placeholders[0] != before.placeholders[0]
    assert (await privacy.holdings("acme")).entities == {"EMAIL": 1}


async def test_a_text_without_personal_data_leaves_nothing_behind(privacy: Privacy) -> None:
    masked = await privacy.mask("acme", "nothing here", "", ALL)
    assert (masked.text, masked.expires_at) == ("nothing here", None)
    assert len(masked.session_id) == 32
    assert (await privacy.holdings("acme")).sessions == 0


async def test_masked_history_can_keep_its_placeholders(privacy: Privacy) -> None:
    masked = await privacy.mask("acme", TEXT, "s", ALL)
    history = f"{masked.text} And eve@example.com?"
    kept = await privacy.mask("acme", history, "s", ALL, keep_placeholders=True)
    assert kept.text.startswith(masked.text)
    assert (await privacy.unmask("acme", kept.text, "s")).text == f"{TEXT} And eve@example.com?"
    literal = await privacy.mask("acme", history, "s", ALL)
    assert (await privacy.unmask("acme", literal.text, "s")).text == history


async def test_limits_are_kept(vault: VaultStore, clock: Clock) -> None:
    privacy = Privacy(vault, Master(KEY), max_sessions=2, max_entities=3, clock=clock)
    for session in ("a", "b"):
        await privacy.mask("acme", "bob@example.com", session, ALL)
    with pytest.raises(ResourceExhausted, match="TOO_MANY_SESSIONS"):
        await privacy.mask("acme", "bob@example.com", "c", ALL)
    await privacy.mask("other", "bob@example.com", "c", ALL)
    with pytest.raises(ResourceExhausted, match="SESSION_FULL"):
        await privacy.mask("acme", "a@x.com b@x.com c@x.com", "a", ALL)
    assert (await privacy.holdings("acme")).entities == {"EMAIL": 2}
    await privacy.mask("acme", "b@x.com c@x.com bob@example.com", "a", ALL)
    privacy.close()


async def test_another_master_key_is_told_apart_from_an_unknown_session(
    privacy: Privacy, vault: VaultStore
) -> None:
    masked = await privacy.mask("acme", TEXT, "s", ALL)
    other = Privacy(vault, Master(bytes(32)), clock=Clock())
    with pytest.raises(FailedPrecondition, match="MASTER_KEY_MISMATCH"):
        await other.unmask("acme", masked.text, "s")
    other.close()


def test_placeholders_are_short_ascii() -> None:
    longest = placeholder("A" * 12, 9_999_999, new_tag())
    assert longest.isascii()
    assert len(longest) <= MAX_LENGTH
    assert len(list(tokens(longest, longest[-7:-1]))) == 1


ATOMS = st.one_of(
    st.sampled_from(
        [
            "bob@example.com",
            "+49 30 1234567",
            "4111 1111 1111 1111",
            "DE89370400440532013000",
            "203.0.113.77",
            "[",
            "]",
            "\\",
            "_",
            " ",
            "<TAG>",
            "[EMAIL_1_<TAG>]",
            "[email_01_<TAG>]",
            "PHONE_2_<TAG>",
            "\\[EMAIL\\_1\\_<TAG>\\]",
            "[TEXT_3_<TAG>]",
            "EMAIL_1_",
            "[EMAIL_1_3f9xk2]",
            "bob@EMAIL_1_<TAG>.com",
            "EMAIL_1_<TAG>@example.com",
        ]
    ),
    st.text(max_size=8),
)


@given(st.lists(st.lists(ATOMS, max_size=10).map("".join), min_size=1, max_size=4), st.booleans())
@example(["bob@example.com", "\\[EMAIL_1_<TAG>\\]", "[[TEXT_2_<TAG>]]"], True)
@settings(max_examples=150, deadline=None)
def test_unmasking_gives_back_any_text_exactly(texts: list[str], known: bool) -> None:
    """Also texts that hold placeholders of the very session, given out or not yet."""

    async def work(privacy: Privacy) -> None:
        tag = (await privacy.mask("acme", "first@example.com", "s", ALL)).text[-7:-1] if known else "000000"
        history = []
        for text in (text.replace("<TAG>", tag) for text in texts):
            masked = await privacy.mask("acme", text, "s", ALL)
            assert all(
                text[f.start : f.end] not in masked.text for f in masked.findings if f.kind == Kind.EMAIL
            )
            history.append((text, masked.text))
        for text, masked_text in history:
            assert (await privacy.unmask("acme", masked_text, "s")).text == text

    with tempfile.TemporaryDirectory() as folder:
        with_privacy(Path(folder) / "zero.sqlite", work)
