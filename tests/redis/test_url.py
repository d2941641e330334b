from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.config import RedisKind, RedisUrl, Wrong, is_redis_url

SENTINEL = "redis+sentinel://u:p@h/m"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("redis://h", RedisUrl(False, RedisKind.SINGLE, (("h", 6379),))),
        ("REDIS://h/", RedisUrl(False, RedisKind.SINGLE, (("h", 6379),))),
        (
            "rediss://u:p@redis-1.internal:7000/15",
            RedisUrl(True, RedisKind.SINGLE, (("redis-1.internal", 7000),), "u", "p", 15),
        ),
        ("redis://:p@10.0.0.1", RedisUrl(False, RedisKind.SINGLE, (("10.0.0.1", 6379),), "", "p")),
        ("redis://[::1]:1/0", RedisUrl(False, RedisKind.SINGLE, (("::1", 1),))),
        ("redis://[fe80::1]", RedisUrl(False, RedisKind.SINGLE, (("fe80::1", 6379),))),
        (
            "redis+sentinel://u:p@a:1,b,[::2]/my.master-1_x/3",
            RedisUrl(
                False,
                RedisKind.SENTINEL,
                (("a", 1), ("b", 26379), ("::2", 26379)),
                "u",
                "p",
                3,
                master="my.master-1_x",
            ),
        ),
        (
            "rediss+sentinel://u:p@a/m?sentinel_auth=true",
            RedisUrl(True, RedisKind.SENTINEL, (("a", 26379),), "u", "p", master="m", sentinel_auth=True),
        ),
        (
            "rediss+cluster://a,b:7/0?ssl_ca_certs=/ca.pem&ssl_certfile=/a%20b.pem&ssl_keyfile=/k&ssl_cert_reqs=required",
            RedisUrl(
                True,
                RedisKind.CLUSTER,
                (("a", 6379), ("b", 7)),
                ca_certs=Path("/ca.pem"),
                certfile=Path("/a b.pem"),
                keyfile=Path("/k"),
            ),
        ),
    ],
)
def test_what_a_url_says_is_read(text: str, url: RedisUrl) -> None:
    assert RedisUrl.parse(text) == url
    assert is_redis_url(text)


def nodes(host: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[tuple[str, int], ...]]:
    node = st.tuples(host, st.integers(1, 65535))
    return st.lists(node, min_size=1, max_size=32, unique=True).map(tuple)


hosts = st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z0-9]", fullmatch=True) | st.ip_addresses().map(str)
secrets = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40)


@given(st.booleans(), st.sampled_from(RedisKind), nodes(hosts), secrets, secrets, st.integers(0, 65535))
def test_what_is_written_is_read(
    tls: bool,
    kind: RedisKind,
    where: tuple[tuple[str, int], ...],
    username: str,
    password: str,
    database: int,
) -> None:
    where = where[:1] if kind is RedisKind.SINGLE else where
    url = RedisUrl(
        tls,
        kind,
        where,
        username,
        password,
        0 if kind is RedisKind.CLUSTER else database,
        "m" if kind is RedisKind.SENTINEL else "",
    )
    scheme, _, rest = str(url).partition("://")
    text = f"{scheme}://{quote(username, safe='')}:{quote(password, safe='')}@{rest}"
    if len(text) <= 4096:
        assert RedisUrl.parse(text) == url


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("redis://u:canary@h", "redis://h:6379/0"),
        ("rediss://:canary@[::1]:1/2?ssl_ca_certs=/f", "rediss://[::1]:1/2"),
        ("rediss+sentinel://u:canary@a,b:1/m", "rediss+sentinel://a:26379,b:1/m/0"),
        ("redis+cluster://u:canary@a,b", "redis+cluster://a:6379,b:6379"),
    ],
)
def test_its_name_is_for_people(text: str, name: str) -> None:
    url = RedisUrl.parse(text)
    assert str(url) == name
    assert RedisUrl.parse(name).nodes == url.nodes
    assert "canary" not in f"{url} {url!r}"
    assert url.password == "canary"
    assert url.authenticated


def test_a_url_without_a_password_is_not_authenticated() -> None:
    assert not RedisUrl.parse("redis://h").authenticated


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "it has no scheme"),
        ("h:6379", "it has no scheme"),
        ("unix:///redis.sock", "its scheme is none of Redis's"),
        ("redis://", "it names no host"),
        ("redis:///0", "it names no host"),
        ("redis+cluster://a,,b", "host 2 of 3 is not host or host:port"),
        ("redis://h:", "host 1 of 1 is not"),
        ("redis://h:0", "host 1 of 1 is not"),
        ("redis://h:65536", "host 1 of 1 is not"),
        ("redis://::1", "host 1 of 1 is not"),
        ("redis://[h]", "host 1 of 1 is not"),
        ("redis://[::1", "host 1 of 1 is not"),
        ("redis://u:canary", "host 1 of 1 is not"),
        ("redis://1.2.3", "host 1 of 1 is not"),
        ("redis://a,b", "it names 2 hosts"),
        ("redis+cluster://" + ",".join(f"h{n}" for n in range(33)), "it names 33 hosts"),
        ("redis+cluster://a,a:6379", "it names a host twice"),
        ("redis://h/x", "its path is not the number of a database"),
        ("redis://h/0/1", "its path is not the number of a database"),
        ("redis://h/65536", "its path is not the number of a database"),
        ("redis://h/-1", "its path is not the number of a database"),
        ("redis+cluster://h/1", "a Cluster has database 0 only"),
        ("redis+sentinel://h", "its path names no master"),
        ("redis+sentinel://h//0", "its path names no master"),
        ("redis+sentinel://h/a%20b/0", "the master's name is none of Sentinel's"),
        ("redis+sentinel://h/m/x", "its path is not the number of a database"),
        ("redis://u@h", "it names a user and no password"),
        ("redis://u:@h", "it names a user and no password"),
        ("redis://@h", "there is nothing before the @"),
        ("redis://u:can:ary@h", "the password has a : in it"),
        ("redis://u:can@ary@h", "there is an @ beyond the one that ends the credentials"),
        ("redis://u:can/ary@h", "there is an @ beyond the one that ends the credentials"),
        ("redis://u:can?ary@h", "there is an @ beyond the one that ends the credentials"),
        ("redis://u:can#ary@h", "it has a # in it"),
        ("redis://u:can ary@h", "it has white space"),
        ("redis://u:canäry@h", "characters that are not ASCII"),
        ("redis://h\n", "it has white space"),
        ("redis://u:canary%4@h", "the password has a % that begins no percent-encoding"),
        ("redis://u%:canary@h", "the user has a % that begins no percent-encoding"),
        ("redis://u:canary%ff@h", "the password is not UTF-8"),
        ("redis://h?x", "its query is not name=value&name=value"),
        ("redis://h?CANARY=1", "its query is not name=value&name=value"),
        ("rediss://h?ssl_ca_certs=/a&ssl_ca_certs=/b", "the option ssl_ca_certs stands there twice"),
        ("rediss://h?ssl_cacerts=/a", "there is no option ssl_cacerts of a Redis URL; did you mean ssl_ca_certs?"),
        ("rediss://h?socket_timeout=1", "there is no option socket_timeout of a Redis URL; there are ssl_ca_certs,"),
        ("redis://h?ssl_ca_certs=/a", "the option ssl_ca_certs is TLS's, and the scheme has none"),
        ("redis://h?ssl_cert_reqs=required", "the option ssl_cert_reqs is TLS's"),
        ("rediss://h?ssl_ca_certs=a", "the option ssl_ca_certs is not an absolute path"),
        ("rediss://h?ssl_ca_certs=", "the option ssl_ca_certs is not an absolute path"),
        ("rediss://h?ssl_ca_certs=/a%00", "the option ssl_ca_certs is not an absolute path"),
        ("rediss://h?ssl_keyfile=/a", "there is an ssl_keyfile and no ssl_certfile"),
        ("rediss://h?ssl_cert_reqs=none", "ssl_cert_reqs may be `required` only: without it anybody"),
        ("rediss://h?ssl_cert_reqs=optional", "ssl_cert_reqs may be `required` only"),
        ("redis://u:p@h?sentinel_auth=true", "the option sentinel_auth is Sentinel's"),
        (f"{SENTINEL}?sentinel_auth=yes", "the option sentinel_auth is neither true nor false"),
        ("redis+sentinel://h/m?sentinel_auth=true", "sentinel_auth wants credentials"),
        ("redis://h" + "/" * 4096, "it has 4105 characters, more than 4096"),
    ],
)  # fmt: skip
def test_a_wrong_url_is_refused_with_the_mend(text: str, what: str) -> None:
    with pytest.raises(Wrong) as caught:
        RedisUrl.parse(text)
    assert what in str(caught.value)
    assert caught.value.mend
    assert caught.value.__context__ is None
    assert not any(part in str(caught.value) for part in ("canary", "CANARY", "ary@"))


@given(st.text(st.sampled_from("redis+cluntl:/@[]#?=&%,.0123456789abc_- \x00ä"), max_size=60))
def test_any_text_is_read_or_refused(rest: str) -> None:
    for text in (rest, f"redis://{rest}", f"rediss+sentinel://u:p@{rest}"):
        try:
            url = RedisUrl.parse(text)
        except Wrong:
            continue
        assert str(RedisUrl.parse(str(url))) == str(url)
