"""Nothing forged is taken: not what differs in one bit from what is right, and not what anybody makes up."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.errors import MeshError, Unauthenticated
from meshkit.security.keys import own_ring
from meshkit.security.proof import Proof
from meshkit.security.tokens import TokenVerifier
from tests.fuzz import targets
from tests.fuzz.targets import CALLER, CLAIM, CLOCK, PROOF, SEALED, TARGETS, TOKEN, Accepted, finish
from tests.security.handmade import SECRET


def flipped(data: bytes) -> list[bytes]:
    """The data with each of its bits turned, one at a time."""
    out = []
    for place in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            out.append(bytes(changed))
    return out


def test_what_is_altered_below_is_right_to_begin_with() -> None:
    assert finish(targets.VERIFIER.verify(TOKEN)).principal.name == "script"
    Proof.parse(PROOF).check_signature(CLAIM, CALLER.key("proof"))
    assert targets.SEALER.open(SEALED, key="contextunity:projects", field="shop:k1")


@pytest.mark.parametrize(
    ("run", "right"),
    [(targets.token, TOKEN.encode()), (targets.proof, PROOF.encode()), (targets.sealed, SEALED)],
    ids=["token", "proof", "sealed record"],
)
def test_every_change_of_one_bit_is_refused(run: Callable[[bytes], None], right: bytes) -> None:
    changes = flipped(right)
    assert len(changes) == 8 * len(right) > 700
    for changed in changes:
        run(changed)


def test_every_change_of_one_bit_of_a_subject_is_refused() -> None:
    """The subject is a token for the actor; and the actor's proof covers it besides."""
    ring = own_ring("shop", [("k1", SECRET)])
    verifier = TokenVerifier("echo", ring, namespace="contextunity", clock=CLOCK)
    assert finish(verifier.verify(TOKEN, "brain")).principal.name == "script"
    for changed in flipped(TOKEN.encode()):
        with pytest.raises(MeshError):
            finish(verifier.verify(changed.decode("latin-1"), "brain"))
    whole = CLAIM._replace(subject_digest="0" * 64)
    with pytest.raises(Unauthenticated):
        Proof.parse(PROOF).check_signature(whole, CALLER.key("proof"))


def test_every_line_that_a_proof_covers_is_covered() -> None:
    for name, value in CLAIM._asdict().items():
        with pytest.raises(Unauthenticated) as refused:
            Proof.parse(PROOF).check_signature(CLAIM._replace(**{name: f"{value}0"}), CALLER.key("proof"))
        assert refused.value.reason == "PROOF_MISMATCH"


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_breaks_nothing(name: str) -> None:
    """A few of what `make fuzz` gives a million of."""
    target = TARGETS[name]
    near = st.sampled_from(target.seeds)

    @given(
        st.binary(max_size=300)
        | st.builds(
            lambda seed, place, piece, length: (
                seed[: place % len(seed)] + piece + seed[place % len(seed) + length :]
            ),
            near,
            st.integers(0, 10_000),
            st.binary(max_size=12),
            st.integers(0, 12),
        )
    )
    def breaks_nothing(data: bytes) -> None:
        target.run(data)

    breaks_nothing()


def test_a_target_tells_what_is_taken() -> None:
    """It can fail."""
    right = TOKEN
    try:
        targets.TOKEN = ""  # type: ignore[misc]
        with pytest.raises(Accepted):
            targets.token(right.encode())
    finally:
        targets.TOKEN = right  # type: ignore[misc]
