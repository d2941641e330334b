"""`meshkit token`: tokens and signed metadata for callers that have no mesh of their own, such as grpcurl."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshkit.cli.output import ExitCode, Failure, note, say, show_json

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.security.minting import HmacTokens, Minted

app = typer.Typer(
    help="Make tokens, and look into them.", no_args_is_help=True, pretty_exceptions_enable=False
)

MAX_INPUT = 64 * 1024
"""Characters read of what should be a token."""

_DISTANCES = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


@app.command()
def mint(
    service: Annotated[str, typer.Option("--for", metavar="SERVICE", help="The service that is called.")],
    tenant: Annotated[
        list[str] | None,
        typer.Option(metavar="T", help="A tenant that it may name, several times; CU_TENANT by default."),
    ] = None,
    permission: Annotated[
        list[str] | None,
        typer.Option(metavar="P", help="A permission that it claims, several times; * by default."),
    ] = None,
    subject: Annotated[str, typer.Option(metavar="NAME", help="Who calls; SERVICE_NAME by default.")] = "",
    ttl: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="For how long; CU_TOKEN_TTL_S by default.")
    ] = None,
    method: Annotated[
        str, typer.Option(metavar="/PACKAGE.SERVICE/METHOD", help="Sign one call of this method, too.")
    ] = "",
    message_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The call's serialized request message; - reads standard input."),
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="The call's requests are a stream.")] = False,
    to: Annotated[
        str, typer.Option(metavar="INSTANCE", help="Id of the instance that the call is for; - for any.")
    ] = "-",
    criticality: Annotated[
        str, typer.Option(metavar="C", help="The call's criticality: critical, default or sheddable.")
    ] = "default",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print a token for calls to a service; with --method, all the metadata of one call, a line each.

    A signed call is good once, for about half a minute. docs/wire.md says what the metadata mean.
    """
    config = _settings()
    if config.shield_grpc_url and service != "shield":
        raise Failure(
            f"this mesh has a Shield (CU_SHIELD_GRPC_URL), and {service} takes its tokens only: a token made here is "
            "good for --for shield",
            code=ExitCode.USAGE,
        )
    tenants = _tenants(config, tenant)
    source = _source(config, service, subject)
    minted = _mint(source, config, service, tenants, permission or ["*"], ttl)
    if not method:
        if message_file is not None or stream:
            raise Failure("--message-file and --stream go with --method", code=ExitCode.USAGE)
        _show_token(minted, as_json=as_json)
        return
    lines = _sign(minted, method, _message(message_file, stream=stream), tenants, to, criticality)
    if as_json:
        show_json(lines)
    else:
        for key, value in lines.items():
            say(f"{key}: {value}")


@app.command()
def inspect(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print what is in the token on standard input, and whether the own secrets verify it.

    Exits with 1 where they do not. A token is a secret, so it is not taken as an argument, which others would see.
    """
    from meshkit.security.tokens import peek

    if sys.stdin.isatty():
        note("paste the token, and end with Enter and Ctrl-D")
    text = sys.stdin.read(MAX_INPUT).strip()
    token = text.removeprefix("authorization:").strip().removeprefix("Bearer ").strip()
    header, claims = peek(token)
    refusal = _refusal(_settings(), token, claims)
    times = {name: _moment(claims.get(name)) for name in ("iat", "nbf", "exp")}
    if as_json:
        verdict = {"holds": refusal is None, "why_not": refusal}
        say(json.dumps({"header": header, "claims": claims, "times": times, **verdict}, indent=2))
    else:
        say(f"header {json.dumps(header, indent=2)}")  # with escapes: it may hold what a terminal would obey
        say(f"claims {json.dumps(claims, indent=2)}")
        for name, label in (("iat", "made"), ("nbf", "good from"), ("exp", "ends")):
            say(f"{label}: {times[name]}")
        say("it holds: the own secrets verify it" if refusal is None else f"it does not hold: {refusal}")
    if refusal is not None:
        raise typer.Exit(ExitCode.FAILED)


def _settings() -> SharedConfig:
    from meshkit.config import SharedConfig

    return SharedConfig.load()


def _tenants(config: SharedConfig, given: list[str] | None) -> list[str]:
    if given is not None:
        return given
    return [config.tenant] if config.tenant else []


def _source(config: SharedConfig, service: str, subject: str) -> HmacTokens:
    from meshkit.instance import SERVICE_NAME
    from meshkit.security.assembly import tokens_of

    if not SERVICE_NAME.fullmatch(service):
        raise Failure(f"--for {service!r} is no service's name ({SERVICE_NAME.pattern})", code=ExitCode.USAGE)
    if len(subject) > 200 or not subject.isprintable():
        raise Failure("--subject is not 1 to 200 printable characters", code=ExitCode.USAGE)
    return tokens_of(config, subject)


def _mint(
    source: HmacTokens,
    config: SharedConfig,
    service: str,
    tenants: list[str],
    permissions: list[str],
    ttl: float | None,
) -> Minted:
    if ttl is not None and not 1 <= ttl <= config.token_max_ttl_s:
        raise Failure(
            f"--ttl is not between 1 and {config.token_max_ttl_s} s (CU_TOKEN_MAX_TTL_S): no service would take it",
            code=ExitCode.USAGE,
        )
    try:
        return source.mint(service, tenants=tenants, permissions=permissions, lifetime=ttl)
    except ValueError as error:
        raise Failure(str(error), code=ExitCode.USAGE) from None


def _show_token(minted: Minted, *, as_json: bool) -> None:
    from meshkit.security.tokens import peek

    if as_json:
        show_json({"token": minted.text, "claims": peek(minted.text)[1]})
    else:
        say(minted.text)


def _message(file: Path | None, *, stream: bool) -> bytes | None:
    if stream == (file is not None):
        raise Failure(
            "a call is signed over its message: give --message-file FILE, or --stream where requests are a stream",
            code=ExitCode.USAGE,
        )
    if file is None:
        return None
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}", code=ExitCode.USAGE) from None


def _sign(
    minted: Minted, method: str, message: bytes | None, tenants: list[str], to: str, criticality: str
) -> dict[str, str]:
    """The metadata of one call, by key."""
    from meshkit import metadata
    from meshkit.call import CRITICALITIES
    from meshkit.security.proof import Claim, body_digest, make_proof

    if not _is_path(method):
        raise Failure(f"--method {method!r} is not /package.Service/Method", code=ExitCode.USAGE)
    if not (to.isascii() and to.isprintable() and to and " " not in to):
        raise Failure("--to is neither the id of an instance nor -", code=ExitCode.USAGE)
    if criticality not in CRITICALITIES:
        raise Failure(f"--criticality is none of {', '.join(CRITICALITIES)}", code=ExitCode.USAGE)
    if len(tenants) > 1 or "*" in tenants:
        raise Failure("a call is for one tenant: give --tenant once, by name", code=ExitCode.USAGE)
    claim = Claim(
        alg=minted.alg,
        kid=minted.kid,
        to=to,
        path=method,
        tenant="".join(tenants),
        criticality="" if criticality == "default" else criticality,
        token_digest=minted.digest,
        subject_digest="",
        body_digest="" if message is None else body_digest(message),
    )
    lines = {
        metadata.AUTHORIZATION: metadata.BEARER + minted.text,
        metadata.PROOF: make_proof(claim, minted.proof_key),
        metadata.TO: to,
        metadata.TENANT: claim.tenant,
        metadata.CRITICALITY: claim.criticality,
    }
    return {key: value for key, value in lines.items() if value}


def _is_path(method: str) -> bool:
    service, _, name = method.removeprefix("/").rpartition("/")
    parts = [*service.split("."), name]
    return method.startswith("/") and all(part.isascii() and part.isidentifier() for part in parts)


def _refusal(config: SharedConfig, token: str, claims: Mapping[str, Any]) -> str | None:
    """Why the own secrets do not verify the token; None where they do."""
    import asyncio

    from meshkit.errors import MeshError
    from meshkit.security.keys import own_ring
    from meshkit.security.tokens import TokenVerifier

    own = [(secret.kid, secret.secret) for secret in config.ensure_project_secrets()]
    verifier = TokenVerifier(
        str(claims.get("aud")),
        own_ring(config.project_id, own),
        namespace=config.namespace,
        max_lifetime=config.token_max_ttl_s,
        skew=config.clock_skew_s,
    )
    try:
        asyncio.run(verifier.verify(token))
    except MeshError as error:
        return str(error)
    return None


def _moment(seconds: object) -> str:
    """A time of a token in words."""
    if type(seconds) is not int or not 0 <= seconds < 2**36:
        return "never, it is no time"
    at = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    off = seconds - int(time.time())
    size, unit = next(((size, unit) for size, unit in _DISTANCES if abs(off) >= size), (1, "second"))
    count = abs(off) // size
    distance = f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{at}, {f'in {distance}' if off > 0 else f'{distance} ago'}"
