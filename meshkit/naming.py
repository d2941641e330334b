"""Names that follow from a contract: the Python name of an RPC, the mesh name of a service.

The generated clients, the services that implement a contract and the mesh that finds them must agree on
these, so the rules live here once.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Collection, Iterable

_WORD_BOUNDARY = re.compile(
    r"(?<=[a-z0-9])(?=[A-Z])"  # get|Status
    r"|(?<=[A-Z])(?=[A-Z](?!s(?:[A-Z0-9_]|$))[a-z])"  # HTTP|Status, but not the plural I|Ds
)


def snake_case(name: str) -> str:
    """Give a CamelCase name in snake_case: `GetHTTPStatus` -> `get_http_status`, `ListIDs` -> `list_ids`.

    Applying it to its own result changes nothing.
    """
    return _WORD_BOUNDARY.sub("_", name).lower()


def service_name(contract: str) -> str:
    """Give the mesh name of a contract: `UserProfileService` -> `user-profile`.

    Args:
        contract: The service's name in the proto, with or without its package.
    """
    name = contract.rpartition(".")[2]
    stem = name.removesuffix("Service") or name
    return snake_case(stem).strip("_").replace("_", "-")


def method_names(rpcs: Iterable[str], reserved: Collection[str] = ()) -> dict[str, str]:
    """Give the Python method name of each RPC of one service.

    It is the RPC's name in snake_case, with a `_` behind it where that is a keyword of Python or reserved
    (`Import` -> `import_`). RPCs that would share a name (`GetURL`, `GetUrl`) keep the names that the proto
    gives them.

    Args:
        rpcs: Names of all RPCs of the service.
        reserved: Names that the class already uses for something else.

    Returns:
        RPC name -> method name; the method names are distinct.
    """
    names = {rpc: _available(snake_case(rpc), reserved) for rpc in rpcs}
    uses = Counter(names.values())
    return {rpc: name if uses[name] == 1 else _available(rpc, reserved) for rpc, name in names.items()}


def _available(name: str, reserved: Collection[str]) -> str:
    return f"{name}_" if keyword.iskeyword(name) or name in reserved else name
