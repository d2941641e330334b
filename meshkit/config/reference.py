"""The configuration reference: a Markdown page made from the settings classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from meshkit.config.allowed import allowed
from meshkit.config.explained import default_text, summary
from meshkit.config.shared import SharedConfig

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

MADE_BY = "meshkit config reference"

_INTRODUCTION = """\
# Configuration

A program of the mesh reads its settings at the start, and checks them before it binds a port. It
reports everything that is wrong at once and exits with 78. `meshkit config check` gives the same report
without starting anything; `meshkit config explain` prints each setting with its value, where that came
from, and its meaning. Some settings [change while it runs](operations.md#changing-settings-while-it-runs).

## Where settings come from

Later sources hold over earlier ones. An empty value is no value.

1. The defaults of this page.
2. The TOML file that `CU_CONFIG_FILE` names. Its keys are the names of this page, in either case. Secrets,
   and URLs with passwords, are refused in it.
3. `.env` in the working folder, for local use: in production its presence is an error. Values are taken as
   they stand; `$NAME` in them is not replaced.
4. The environment.
5. Files, for secrets and URLs: `NAME_FILE` names one (setting both `NAME` and `NAME_FILE` is an error), or
   a systemd credential is called `NAME` in upper or lower case.

A service's own settings are the fields of its config class: `brain_database_url` reads
`BRAIN_DATABASE_URL`. Tuples are written `a,b,c`, mappings `a=1,b=2`. Numbers are in the unit of the setting's
name; seconds (`…_S`) may be written with another one, `500ms`, `20s`, `5min`, `2h`, `1d`, and MiB (`…_MB`) as
`512KiB`, `16MiB` or `1GiB`. Units that can be mistaken (`5m`, `16MB`) are refused.

Names that begin with `CU_` and are no setting are refused, and so are names that begin with `GRPC_` and are
within two letters of one; gRPC's own `GRPC_VERBOSITY` and the variables of Kubernetes service links pass.
In the configuration file of a service any unknown name is refused. Where several services share a process,
`GRPC_PORT`, `CU_HEALTH_PORT` and `SERVICE_NAME` are refused, because they could be meant for only one.
"""

_RULES = """\
## Production

With `CU_ENV=production` a program starts only where all of this holds. Its report names every rule that is broken:

- TLS is on, and complete: the authority, the certificate and key that a service shows to its callers, and, unless
  `GRPC_TLS_REQUIRE_CLIENT_AUTH` is off, those that it shows to the services that it calls ([TLS](tls.md));
- the registry is one that machines share, not `file://` or `memory://`;
- each Redis is asked with `rediss…://` and credentials, and where there is one `REDIS_SECRET_KEY` is set;
- a project secret is set;
- request proofs are required;
- databases are not SQLite, and PostgreSQL is asked with `sslmode=verify-full`;
- there is no `.env` in the working folder.

## The URL of a Redis

`redis://user:password@host:6379/0` names one server, `redis+sentinel://user:password@host,host/master/0` the
sentinels that watch a group of servers, `redis+cluster://user:password@host,host` some nodes of a Cluster. With
`rediss` in place of `redis` connections are encrypted and certificates verified. Ports may be left out (6379;
26379 for sentinels), and so may the database. What is special in user and password is percent-encoded.

| option | meaning |
|---|---|
| `ssl_ca_certs=/file.pem` | authorities to trust, in place of the system's |
| `ssl_certfile=/file.pem` | the client's certificate |
| `ssl_keyfile=/file.pem` | its key, where it is not in the same file |
| `ssl_cert_reqs=required` | what holds anyway; anything weaker is refused |
| `sentinel_auth=true` | the sentinels want the same user and password |

`REDIS_URL` and `CU_REGISTRY_URL` may stand in files, as all URLs may: passwords are safer there.

## The local secret

In local, a program that binds to loopback and has no `CU_PROJECT_SECRET` uses a secret of the machine's
own: `project-secret` in the state folder, made by the first program that needs it, with mode 0600. A file
that others may read, that belongs to somebody else or that is broken is refused. A program that other
machines can reach must be given a secret.
"""


def reference(sections: Iterable[tuple[str, type[SharedConfig]]]) -> str:
    """The page.

    Args:
        sections: The services' config classes, each with the `module:Class` that it was asked for by.
    """
    listed = list(sections)
    command = " ".join([MADE_BY, *(target for target, _ in listed)])
    parts = [f"<!-- Made by `{command}`. Do not edit. -->\n", _INTRODUCTION]
    parts.append("## Settings of every program\n\n" + _table(SharedConfig, list(SharedConfig.model_fields)))
    for _, config_class in listed:
        own = [name for name in config_class.model_fields if name not in SharedConfig.model_fields]
        parts.append(f"## {config_class.__name__}\n\n{summary(config_class)}\n\n{_table(config_class, own)}")
    parts.append(_RULES)
    return "\n".join(parts)


def _table(config_class: type[SharedConfig], fields: Sequence[str]) -> str:
    if not fields:
        return "It has none beyond those of every program.\n"
    rows = [_row(config_class.env_name(name), config_class.model_fields[name]) for name in fields]
    return "\n".join(["| name | default | values | meaning |", "|---|---|---|---|", *rows]) + "\n"


def _row(name: str, info: FieldInfo) -> str:
    values = allowed(info)
    grammar = values.startswith("[")
    cells = (f"`{name}`", default_text(info), f"`{values}`" if grammar else values, info.description or "")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
