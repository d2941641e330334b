"""What docs/wire.md says of Shield's own refusals is what Shield has."""

import re

from tests.docs.pages import ROOT

SERVICE = "reference_services/shield"
FILES = ["policy.py", "authority.py", "messages.py", "rates.py", "keybook.py"]


def test_every_reason_of_shield_on_the_page_is_one_of_its_code() -> None:
    page = (ROOT / "docs" / "wire.md").read_text("utf-8")
    rows = re.search(r"^\| reason \| status \|.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert rows is not None
    listed = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", re.sub(r"(?m)^(\|[^|]*\|).*$", r"\1", rows[1])))
    code = "".join((ROOT / SERVICE / file).read_text("utf-8") for file in FILES)
    known = set(re.findall(r'reason="([A-Z_]+)"', code))
    assert len(listed) > 8
    assert sorted(listed - known) == []
