"""From the messages of the contract to what they mean, checked, and back."""

from __future__ import annotations

from collections.abc import Callable, Collection

from meshkit import InvalidArgument
from meshkit.authority import KID, PROJECT, is_permission, is_tenant
from meshkit.protocol import shield as pb
from reference_services.shield.keybook import KeyBook
from reference_services.shield.model import KeyState, Project, ProjectKey, Revocation
from reference_services.shield.policy import Asked

MAX_NAMES = 1000
"""Names in one list."""

MAX_KEYS = 16
"""Keys of one project."""

MAX_ID = 200
"""Characters of a name or an id."""

KEY_BYTES = 32

_STATES = {
    KeyState.UPCOMING: pb.KEY_STATE_UPCOMING,
    KeyState.ACTIVE: pb.KEY_STATE_ACTIVE,
    KeyState.RETIRING: pb.KEY_STATE_RETIRING,
    KeyState.RETIRED: pb.KEY_STATE_RETIRED,
}


def asked(scope: pb.Scope) -> Asked:
    """What a token is wanted for.

    Raises:
        InvalidArgument: A part of it is malformed.
    """
    _check_names("scope.tenants", scope.tenants, is_tenant)
    _check_names("scope.permissions", scope.permissions, is_permission)
    if not _is_service(scope.audience):
        raise InvalidArgument("scope.audience is no service's name", reason="AUDIENCE_MALFORMED")
    lifetime = scope.lifetime.ToTimedelta().total_seconds() if scope.HasField("lifetime") else 0.0
    if scope.HasField("lifetime") and lifetime < 1:
        raise InvalidArgument("scope.lifetime is below a second", reason="LIFETIME_INVALID")
    return Asked(scope.audience, frozenset(scope.tenants), frozenset(scope.permissions), lifetime)


def public_key(key: bytes) -> bytes:
    """The key of a caller.

    Raises:
        InvalidArgument: It is none.
    """
    if len(key) != KEY_BYTES:
        raise InvalidArgument(
            f"public_key is not an Ed25519 public key of {KEY_BYTES} bytes", reason="PUBLIC_KEY_MALFORMED"
        )
    return key


def issued(token: str, expires_at: float) -> pb.IssuedToken:
    """A token that was made."""
    message = pb.IssuedToken(token=token)
    message.expires_at.FromSeconds(int(expires_at))
    return message


def keys_of(book: KeyBook) -> list[pb.VerificationKey]:
    """The signing keys, as verifiers want them."""
    return [_key(key.kid, state, key.public, key.signs_from, key.verifies_until) for key, state in book.all()]


def revocation(revoked: Revocation) -> pb.Revocation:
    """A revocation."""
    message = pb.Revocation()
    if revoked.token_id:
        message.token.token_id = revoked.token_id
        message.token.until.FromMilliseconds(int(revoked.moment * 1000))
    else:
        message.project.project_id = revoked.project_id
        message.project.issued_before.FromMilliseconds(int(revoked.moment * 1000))
    return message


def project(message: pb.Project, *, keep_keys: bool) -> Project:
    """A project as it is to be written.

    Raises:
        InvalidArgument: A part of it is malformed.
    """
    if not is_project(message.project_id):
        raise InvalidArgument(
            f"project_id is not {PROJECT.pattern}, or is shield", reason="PROJECT_MALFORMED"
        )
    _check_names("tenants", message.tenants, is_tenant)
    _check_names("permissions", message.permissions, is_permission)
    _check_names("subjects", message.subjects, is_id)
    _check_names("audiences", message.audiences, lambda name: name == "*" or _is_service(name))
    _check_names("delegate", message.delegate, lambda name: name == "*" or is_project(name))
    kids = [key.kid for key in message.keys]
    if len(kids) > MAX_KEYS or len(set(kids)) < len(kids):
        raise InvalidArgument(f"keys: at most {MAX_KEYS}, each kid once", reason="PROJECT_KEYS_MALFORMED")
    if not kids and not keep_keys:
        raise InvalidArgument(
            "keys: a project without any cannot prove itself; name one, or set keep_keys",
            reason="PROJECT_KEYS_MALFORMED",
        )
    return Project(
        message.project_id,
        tuple(_project_key(key) for key in message.keys),
        frozenset(message.tenants),
        frozenset(message.permissions),
        frozenset(message.subjects),
        frozenset(message.audiences),
        frozenset(message.delegate),
        max_lifetime=message.max_lifetime.ToTimedelta().total_seconds(),
        disabled=message.disabled,
    )


def project_message(stored: Project) -> pb.Project:
    """A project, without its keys' bytes."""
    message = pb.Project(
        project_id=stored.project_id,
        keys=[pb.ProjectKey(kid=key.kid, retired=key.retired) for key in stored.keys],
        tenants=sorted(stored.tenants),
        permissions=sorted(stored.permissions),
        subjects=sorted(stored.subjects),
        audiences=sorted(stored.audiences),
        delegate=sorted(stored.delegate),
        disabled=stored.disabled,
        updated_by=stored.updated_by,
    )
    message.updated_at.FromMilliseconds(int(stored.updated_at * 1000))
    if stored.max_lifetime:
        message.max_lifetime.FromMilliseconds(int(stored.max_lifetime * 1000))
    return message


def is_project(name: str) -> bool:
    """Whether it can be a project's name."""
    return PROJECT.fullmatch(name) is not None and name != "shield"


def is_id(name: str) -> bool:
    """Whether it can be a subject's name, or the id of a token."""
    return 0 < len(name) <= MAX_ID and name.isprintable()


def _is_service(name: str) -> bool:
    return is_permission(f"{name}:*")


def _project_key(key: pb.ProjectKey) -> ProjectKey:
    if not KID.fullmatch(key.kid):
        raise InvalidArgument(f"keys: a kid is not {KID.pattern}", reason="PROJECT_KEYS_MALFORMED")
    if not key.retired and (len(key.token_key), len(key.proof_key)) != (KEY_BYTES, KEY_BYTES):
        raise InvalidArgument(
            f"keys: token_key and proof_key of {key.kid} are not {KEY_BYTES} bytes each: give those that "
            "`meshkit keys export --for shield` prints",
            reason="PROJECT_KEYS_MALFORMED",
        )
    if key.token_key and key.token_key == key.proof_key:
        raise InvalidArgument(
            f"keys: token_key and proof_key of {key.kid} are one key: give both as they were exported",
            reason="PROJECT_KEYS_MALFORMED",
        )
    return ProjectKey(key.kid, key.token_key, key.proof_key, key.retired)


def _check_names(field: str, names: Collection[str], is_name: Callable[[str], bool]) -> None:
    if len(names) > MAX_NAMES:
        raise InvalidArgument(f"{field}: at most {MAX_NAMES} names", reason="NAMES_MALFORMED")
    for name in names:
        if not is_name(name):
            raise InvalidArgument(f"{field}: {name[:80]!r} cannot stand there", reason="NAMES_MALFORMED")


def _key(
    kid: str, state: KeyState, public: bytes, signs_from: float, verifies_until: float | None
) -> pb.VerificationKey:
    message = pb.VerificationKey(kid=kid, state=_STATES[state], algorithm="EdDSA")
    if state is not KeyState.RETIRED:
        message.public_key = public
    message.signs_from.FromMilliseconds(int(signs_from * 1000))
    if verifies_until is not None:
        message.verifies_until.FromMilliseconds(int(verifies_until * 1000))
    return message
