"""What the detectors find in real writing, and what they leave alone."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_services.zero.detectors import detect
from reference_services.zero.detectors.ip import IpDetector
from reference_services.zero.findings import Finding, Kind, merge


def found(text: str, region: str = "DE", **options: object) -> list[tuple[str, str]]:
    return [
        (finding.kind.value, text[finding.start : finding.end])
        for finding in detect(text, region=region, **options)
    ]


HITS = [
    ("write to bob@example.com.", "EMAIL", "bob@example.com"),
    ("(bob.o'brien+news@mail.example.co.uk)", "EMAIL", "bob.o'brien+news@mail.example.co.uk"),
    ("почта: иван@пример.рф", "EMAIL", "иван@пример.рф"),
    ("müller@bücher.de", "EMAIL", "müller@bücher.de"),
    ("x@xn--bcher-kva.xn--p1ai", "EMAIL", "x@xn--bcher-kva.xn--p1ai"),
    ("邮箱是bob@example.com谢谢", "EMAIL", "bob@example.com"),
    ("<mailto:bob_1@example.museum>", "EMAIL", "bob_1@example.museum"),
    ("?email=bob@example.com&x=1", "EMAIL", "bob@example.com"),
    ('"john smith" <j.s@example.org>', "EMAIL", "j.s@example.org"),
    ("BOB@EXAMPLE.COM", "EMAIL", "BOB@EXAMPLE.COM"),
    ("root@[192.168.7.44]", "EMAIL", "root@[192.168.7.44]"),
    ("Call +49 30 1234567 now", "PHONE", "+49 30 1234567"),
    ("+49 (0)30 1234567", "PHONE", "+49 (0)30 1234567"),
    ("+1-212-555-2368", "PHONE", "+1-212-555-2368"),
    ("+1 (212) 555-2368 ext. 12", "PHONE", "+1 (212) 555-2368 ext. 12"),
    ("0049 30 1234567", "PHONE", "0049 30 1234567"),
    ("+380441234567", "PHONE", "+380441234567"),
    ("030 1234567", "PHONE", "030 1234567"),
    ("Tel.: 0171/1234567", "PHONE", "0171/1234567"),
    ("mobil 01761234567", "PHONE", "01761234567"),
    ("\uff0b49 30 1234567", "PHONE", "\uff0b49 30 1234567"),
    ("card 4111 1111 1111 1111 exp 12/27", "CARD", "4111 1111 1111 1111"),
    ("4111-1111-1111-1111 123", "CARD", "4111-1111-1111-1111"),
    ("4111111111111111", "CARD", "4111111111111111"),
    ("3782 822463 10005", "CARD", "3782 822463 10005"),
    ("5500\u00a00055\u00a05555\u00a05559", "CARD", "5500\u00a00055\u00a05555\u00a05559"),
    ("卡号4111111111111111。", "CARD", "4111111111111111"),
    ("2223003122003222", "CARD", "2223003122003222"),
    ("IBAN: DE89 3704 0044 0532 0130 00 and more", "IBAN", "DE89 3704 0044 0532 0130 00"),
    ("GB29NWBK60161331926819.", "IBAN", "GB29NWBK60161331926819"),
    ("de89370400440532013000", "IBAN", "de89370400440532013000"),
    ("NO93-8601-1117-947", "IBAN", "NO93-8601-1117-947"),
    ("from 203.0.113.77.", "IP", "203.0.113.77"),
    ("http://10.0.0.5:8080/x", "IP", "10.0.0.5"),
    ("server 1.2.3.4", "IP", "1.2.3.4"),
    ("192.168.17.0/24", "IP", "192.168.17.0"),
    ("[2001:db8::1]:443", "IP", "2001:db8::1"),
    ("at 2001:0db8:85a3:0000:0000:8a2e:0370:7334.", "IP", "2001:0db8:85a3:0000:0000:8a2e:0370:7334"),
    ("IP:fe80::1", "IP", "fe80::1"),
    ("::ffff:192.0.2.128", "IP", "::ffff:192.0.2.128"),
]


@pytest.mark.parametrize(("text", "kind", "value"), HITS)
def test_personal_data_are_found_to_the_letter(text: str, kind: str, value: str) -> None:
    assert found(text) == [(kind, value)]


MISSES = [
    "version 1.2.3.4, v10.20.30.40, libfoo==1.2.3.4, release 2.4.6.8",
    "see section 4.1.2.3 and 1.2.3.4.5",
    "Mozilla/5.0 Chrome/120.0.0.0 Safari/537.36",
    "127.0.0.1 and 255.255.255.0 and 0.0.0.0 and ::1",
    "300.1.2.3 and 1.2.3 and 01.002.3.4",
    "10:30:45 and 00:1a:2b:3c:4d:5e and 00:11:22:33:44:55:66:77",
    "std::vector<a::b> and ab::cd",
    "2026-11-23T10:30:00Z, 23.11.2026 10:30, 11/23/2026",
    "550e8400-e29b-41d4-a716-446655440000",
    "order 4711-0815-2233, INV-2024-0001234, #0301234567",
    "EUR 1,234,567.00; £1.234.567,00; $ 0301234567",
    "ISBN 978-3-16-148410-0",
    "1700000000 and 1763893800123",
    "https://shop.example/items/0301234567",
    "4111111111111112 is no card, nor is 0000000000000000",
    "0.4111111111111111 and 3.14159265358979323846",
    "sha1 a4111111111111111b and order-4111111111111111",
    "41111111111111111111111",
    "DE88370400440532013000 and XDE89370400440532013000",
    "@handle, a@b, icon@2x.png, pkg@1.2.3, git@github.com:team/repo.git",
    "[EMAIL_1_3f9xk2] and [PHONE_12_0000000]",
    "plain words without any of it",
    "",
]


@pytest.mark.parametrize("text", MISSES)
def test_what_only_looks_like_personal_data_is_left_alone(text: str) -> None:
    assert found(text) == []


def test_national_numbers_need_their_region() -> None:
    assert found("030 1234567", "") == []
    assert found("(212) 555-2368", "US") == [("PHONE", "(212) 555-2368")]
    assert found("020 7946 0958", "GB") == [("PHONE", "020 7946 0958")]
    assert found("0044 20 7946 0958", "") == [("PHONE", "0044 20 7946 0958")]


def test_bare_digits_are_a_number_where_the_text_calls_them_one() -> None:
    assert found("id 2125552368", "US") == []
    assert found("phone: 2125552368", "US") == [("PHONE", "2125552368")]
    assert found("id 2125552368", "US", min_confidence=0.3) == [("PHONE", "2125552368")]


def test_only_the_kinds_asked_for_are_found() -> None:
    text = "bob@example.com 203.0.113.77"
    assert found(text, kinds={Kind.IP_ADDRESS}) == [("IP", "203.0.113.77")]


def test_spans_count_code_points() -> None:
    text = "\U0001d518\U0001d52b 👩‍👩‍👧 bob@example.com é 203.0.113.77"
    assert found(text) == [("EMAIL", "bob@example.com"), ("IP", "203.0.113.77")]


def test_a_text_with_everything_is_taken_apart() -> None:
    text = (
        "Hi, I'm Ada (ada@example.org, +44 20 7946 0958). Charge 4111 1111 1111 1111, refund to\n"
        "GB29 NWBK 6016 1331 9268 19; my router is 192.168.178.1, running FRITZ!OS version 7.5.7.1."
    )
    assert [kind for kind, _ in found(text)] == ["EMAIL", "PHONE", "CARD", "IBAN", "IP"]


spans = st.tuples(
    st.sampled_from(list(Kind)),
    st.integers(0, 60),
    st.integers(1, 20),
    st.sampled_from([0.6, 0.9, 1.0]),
).map(lambda four: Finding(four[0], four[1], four[1] + four[2], four[3]))


@given(st.lists(spans, max_size=12), st.randoms())
def test_merging_covers_everything_once_whatever_the_order(findings: list[Finding], random: object) -> None:
    merged = merge(findings)
    assert {i for f in merged for i in range(f.start, f.end)} == {
        i for f in findings for i in range(f.start, f.end)
    }
    assert all(one.end <= other.start for one, other in itertools.pairwise(merged))
    shuffled = list(findings)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert merge(shuffled) == merged


@given(st.text())
@settings(max_examples=200)
def test_any_text_is_searched_without_failing(text: str) -> None:
    last = 0
    for finding in detect(text, region="US", min_confidence=0.01):
        assert last <= finding.start < finding.end <= len(text)
        last = finding.end


ADVERSARIAL = [
    "a" * 262144,
    "a." * 131072,
    "a@" * 131072,
    "a@b" * 80000,
    "@" + "a." * 131000,
    "a@" + "b-" * 131000,
    "1" * 262144,
    "4" * 262144,
    "1 " * 131072,
    "4111 " * 52000,
    "1.1.1." * 43000,
    "::" * 131072,
    "1:" * 131072,
    "DE89" * 65536,
    "DE89 " * 52000,
    "(" * 262144,
    "+1 " * 87000,
    '"' * 262144,
]


@pytest.mark.parametrize("text", ADVERSARIAL, ids=lambda text: json.dumps(text[:6]))
def test_hostile_texts_of_the_largest_size_come_to_an_end(text: str) -> None:
    """Quadratic work on any of these would take hours: the suite's patience is the bound."""
    assert len(detect(text, region="US")) <= len(text)


def test_an_ipv4_address_in_ipv6_dress_is_masked_whole() -> None:
    text = "mail to ::ffff:1.2.3.4 now"
    (found,) = [each for each in IpDetector().find(text, "") if each.confidence >= 0.6]
    assert text[found.start : found.end] == "::ffff:1.2.3.4"
