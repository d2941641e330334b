"""What counts as a sentence in a piece of a page."""

import pytest

from reference_services.router.sentences import sentences

PROSE = "A gate shuts."
CODE = "gate shut: 4 of 5"


@pytest.mark.parametrize(
    "text",
    [
        f"{PROSE}\n\n```text\n{CODE}\n```\n",
        f"{PROSE}\n\n```\n{CODE}\n```\n",
        f"{PROSE}\n\n```text\n{CODE}\n",
        f"{CODE}\n```\n\n{PROSE}\n",
        f"{CODE}\n```\n\n{PROSE}\n\n```console\n$ {CODE}\n```\n",
        f"{CODE}\n```\n\n{PROSE}\n\n```console\n$ {CODE}\n",
        f"# Gates\n\n{PROSE}",
    ],
)
def test_code_is_no_prose_though_a_piece_may_begin_or_end_amid_it(text: str) -> None:
    assert list(sentences(text)) == [PROSE]
