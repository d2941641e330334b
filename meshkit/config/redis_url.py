"""RedisUrl: where a Redis is and how it is spoken to, read from one URL.

The forms are redis-py's for a single server, and ours for Sentinel and Cluster, which redis-py reads no URLs of:

- `redis://[user:password@]host[:port][/database]`
- `redis+sentinel://[user:password@]host[:port],host[:port]…/master[/database]`, the hosts being sentinels
- `redis+cluster://[user:password@]host[:port],host[:port]…`

`rediss://` and `rediss+…://` are the same over TLS. Certificates are always verified.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from meshkit.config.grammar import check_host
from meshkit.config.names import nearest
from meshkit.config.problems import Wrong

MAX_URL_CHARACTERS = 4096
MAX_NODES = 32
_MAX_DATABASE = 65535
_TRUTH = {"true": True, "false": False}
_PATH_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_OPTIONS = (*_PATH_OPTIONS, "ssl_cert_reqs", "sentinel_auth")
_FORM = "write redis://user:password@host:6379/0, or rediss:// for TLS"
_ENCODE = "write @ : / ? # % and what is not ASCII in user and password percent-encoded (@ is %40)"


class RedisKind(StrEnum):
    """How the servers behind a URL work together."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_DEFAULT_PORTS = {RedisKind.SINGLE: 6379, RedisKind.SENTINEL: 26379, RedisKind.CLUSTER: 6379}
_SCHEMES = {
    f"redis{'s' if tls else ''}{'' if kind is RedisKind.SINGLE else f'+{kind.value}'}": (tls, kind)
    for tls in (False, True)
    for kind in RedisKind
}
REDIS_SCHEMES = frozenset(_SCHEMES)
"""What the URL of a Redis may begin with, before the `://`."""


def is_redis_url(text: str) -> bool:
    """Whether the scheme of a URL is one of Redis's; says nothing of the rest."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.strip().lower() in REDIS_SCHEMES


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A Redis, as a URL names it. Its `str` names it without credentials and without query.

    Attributes:
        tls: Whether connections are encrypted, and the server's certificate verified.
        kind: One server, servers watched by Sentinel, or a Cluster.
        nodes: Host and port of the server, of the sentinels, or of some nodes of the Cluster.
        username: ACL user; empty: the default user.
        password: Its password; empty: none is given. Hidden in the repr.
        database: Number of the database; 0 in a Cluster.
        master: What the sentinels call the group of servers; empty without Sentinel.
        ca_certs: PEM file of authorities to trust; None: those of the system.
        certfile: PEM file of the client certificate, None where there is none.
        keyfile: PEM file of the client certificate's key; None: it stands in `certfile`.
        sentinel_auth: Whether the sentinels want the same user and password.
    """

    tls: bool
    kind: RedisKind
    nodes: tuple[tuple[str, int], ...]
    username: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    master: str = ""
    ca_certs: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None
    sentinel_auth: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a URL. Files that it names are not looked at.

        Raises:
            Wrong: It is none, with what is wrong. The message quotes no part that may be a secret.
        """
        _check_text(text)
        scheme, _, rest = text.partition("://")
        if scheme.lower() not in _SCHEMES:
            raise Wrong(
                "its scheme is none of Redis's",
                f"it must be {', '.join(f'{s}://' for s in sorted(_SCHEMES))}",
            )
        tls, kind = _SCHEMES[scheme.lower()]
        address, _, query = rest.partition("?")
        authority, _, path = address.partition("/")
        user_information, at, hosts = authority.rpartition("@")
        username, password = _credentials(user_information) if at else ("", "")
        master, database = _path(path, kind)
        options = _options(query)
        _check_options(options, tls, kind, authenticated=bool(password))
        files = {name: Path(options[name]) if name in options else None for name in _PATH_OPTIONS}
        return cls(
            tls=tls,
            kind=kind,
            nodes=_nodes(hosts, kind),
            username=username,
            password=password,
            database=database,
            master=master,
            ca_certs=files["ssl_ca_certs"],
            certfile=files["ssl_certfile"],
            keyfile=files["ssl_keyfile"],
            sentinel_auth=_TRUTH[options.get("sentinel_auth", "false")],
        )

    @property
    def authenticated(self) -> bool:
        """Whether it carries a password."""
        return bool(self.password)

    def __str__(self) -> str:
        scheme = next(name for name, meant in _SCHEMES.items() if meant == (self.tls, self.kind))
        nodes = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes)
        path = {
            RedisKind.SINGLE: f"/{self.database}",
            RedisKind.SENTINEL: f"/{self.master}/{self.database}",
            RedisKind.CLUSTER: "",
        }
        return f"{scheme}://{nodes}{path[self.kind]}"


def _check_text(text: str) -> None:
    if len(text) > MAX_URL_CHARACTERS:
        raise Wrong(f"it has {len(text)} characters, more than {MAX_URL_CHARACTERS}", _FORM)
    if "://" not in text:
        raise Wrong("it has no scheme", _FORM)
    if not re.fullmatch(r"[\x21-\x7e]*", text):
        raise Wrong("it has white space, or characters that are not ASCII", _ENCODE)
    if "#" in text:
        raise Wrong("it has a # in it", _ENCODE)
    beyond = re.split("[/?]", text.partition("://")[2], maxsplit=1)
    if "@" in "".join(beyond[1:]) or beyond[0].count("@") > 1:
        raise Wrong("there is an @ beyond the one that ends the credentials", _ENCODE)


def _credentials(user_information: str) -> tuple[str, str]:
    username, _, password = user_information.partition(":")
    if ":" in password:
        raise Wrong("the password has a : in it", _ENCODE)
    username, password = _decoded(username, "the user"), _decoded(password, "the password")
    if not password:
        what = "it names a user and no password" if username else "there is nothing before the @"
        raise Wrong(what, "write user:password@host, or :password@host for the default user")
    return username, password


def _decoded(text: str, noun: str) -> str:
    if re.search("%(?![0-9A-Fa-f]{2})", text):
        raise Wrong(f"{noun} has a % that begins no percent-encoding", _ENCODE)
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        pass  # raised outside: the error that it replaces holds the text
    raise Wrong(f"{noun} is not UTF-8", _ENCODE)


def _nodes(hosts: str, kind: RedisKind) -> tuple[tuple[str, int], ...]:
    items = hosts.split(",")
    if not hosts:
        raise Wrong("it names no host", _FORM)
    if len(items) > 1 and kind is RedisKind.SINGLE:
        raise Wrong(
            f"it names {len(items)} hosts", "name one; several are redis+sentinel:// or redis+cluster://"
        )
    if len(items) > MAX_NODES:
        raise Wrong(f"it names {len(items)} hosts", f"name at most {MAX_NODES}: a few find all others")
    nodes = tuple(_node(item, n, len(items), _DEFAULT_PORTS[kind]) for n, item in enumerate(items, 1))
    if len(set(nodes)) < len(nodes):
        raise Wrong("it names a host twice", "name each once")
    return nodes


def _node(item: str, position: int, count: int, default_port: int) -> tuple[str, int]:
    wrong = Wrong(
        f"host {position} of {count} is not host or host:port",
        "write redis-1:6379 or [::1]:6379, with a port within 1 to 65535",
    )
    matched = re.fullmatch(r"(\[[^\[\]]+\]|[^\[\]:]+)(?::([0-9]{1,5}))?", item)
    if not matched:
        raise wrong
    host, port = matched[1].strip("[]"), int(matched[2] or default_port)
    if not _is_host(host) or (":" in host) != item.startswith("[") or not 0 < port < 65536:
        raise wrong
    return host, port


def _is_host(host: str) -> bool:
    try:
        check_host(host)
    except Wrong:
        return False
    return True


def _path(path: str, kind: RedisKind) -> tuple[str, int]:
    """Master and database; the master is empty without Sentinel."""
    master = ""
    if kind is RedisKind.SENTINEL:
        master, _, path = path.partition("/")
        if not re.fullmatch("[A-Za-z0-9._-]{1,64}", master):
            what = "its path names no master" if not master else "the master's name is none of Sentinel's"
            raise Wrong(
                what, "write redis+sentinel://host:26379/master/0, as the sentinels' configuration names it"
            )
    if not re.fullmatch("[0-9]{0,5}", path) or int(path or 0) > _MAX_DATABASE:
        raise Wrong(
            "its path is not the number of a database", f"write /0 to /{_MAX_DATABASE}, or leave it out"
        )
    database = int(path or 0)
    if database and kind is RedisKind.CLUSTER:
        raise Wrong("a Cluster has database 0 only", "leave the number out")
    return master, database


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in query.split("&") if query else ():
        name, equals, value = item.partition("=")
        if not equals or not re.fullmatch("[a-z_]{1,40}", name):
            raise Wrong("its query is not name=value&name=value", f"the names are {', '.join(_OPTIONS)}")
        if name not in _OPTIONS:
            close, distance = nearest(name, _OPTIONS)
            hint = (
                f"did you mean {close}?" if distance <= len(name) // 3 else f"there are {', '.join(_OPTIONS)}"
            )
            raise Wrong(f"there is no option {name} of a Redis URL", hint)
        if name in options:
            raise Wrong(f"the option {name} stands there twice", "give it once")
        options[name] = _decoded(value, f"the option {name}")
    return options


def _check_options(options: dict[str, str], tls: bool, kind: RedisKind, *, authenticated: bool) -> None:
    if options.get("ssl_cert_reqs", "required") != "required":
        raise Wrong(
            "ssl_cert_reqs may be `required` only: without it anybody on the way may be the server",
            "to trust an authority of your own, name its file in ssl_ca_certs",
        )
    for name in options:
        if name.startswith("ssl_") and not tls:
            raise Wrong(
                f"the option {name} is TLS's, and the scheme has none", "write rediss:// or take it out"
            )
        if name in _PATH_OPTIONS and not re.fullmatch("/[^\0]+", options[name]):
            raise Wrong(f"the option {name} is not an absolute path", f"write {name}=/folder/file.pem")
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise Wrong(
            "there is an ssl_keyfile and no ssl_certfile", "name the certificate that the key belongs to"
        )
    _check_sentinel_auth(options.get("sentinel_auth"), kind, authenticated=authenticated)


def _check_sentinel_auth(value: str | None, kind: RedisKind, *, authenticated: bool) -> None:
    if value is None:
        return
    if value not in _TRUTH:
        raise Wrong("the option sentinel_auth is neither true nor false", "write sentinel_auth=true")
    if kind is not RedisKind.SENTINEL:
        raise Wrong("the option sentinel_auth is Sentinel's, and the scheme is not", "take it out")
    if _TRUTH[value] and not authenticated:
        raise Wrong(
            "sentinel_auth wants credentials, and there are none", "write user:password@ before the hosts"
        )
