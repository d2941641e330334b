"""Names that look like settings and are none: misspelt ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from meshkit.config.names import nearest
from meshkit.config.problems import Problem
from meshkit.config.secrets import takes_file

if TYPE_CHECKING:
    from meshkit.config.shared import SharedConfig

_SLIP = 2
_NOT_SETTINGS = frozenset({"CU_CONFIG_FILE"})
_SERVICE_LINK = "_SERVICE_HOST"
_OURS = "names of the form CU_* are meshkit's: unset it; `meshkit config explain` shows all there are"


def known_names(config_class: type[SharedConfig]) -> frozenset[str]:
    """All names that the sources of a config class may hold."""
    own = {config_class.env_name(field) for field in config_class.model_fields}
    files = {
        f"{config_class.env_name(f)}_FILE" for f in config_class.model_fields if takes_file(config_class, f)
    }
    return frozenset(own | files | _NOT_SETTINGS)


def check_names(
    config_class: type[SharedConfig],
    sources: Mapping[str, str],
    *,
    file: bool,
    shared_process: bool,
) -> list[Problem]:
    """What is wrong with the names of one source.

    Args:
        config_class: Whose settings they are.
        sources: Where each name stands.
        file: It is a configuration file, where every name must be ours; elsewhere, others have theirs.
        shared_process: Several services read the same file, and each leaves the others' names alone.
    """
    from meshkit.config.shared import SharedConfig

    known = known_names(config_class)
    strict = file and config_class is not SharedConfig and not shared_process
    links = service_links(sources)
    problems = []
    for name, source in sources.items():
        if name in known or name.startswith(links):
            continue
        if mend := _mend(name, known, strict=strict, file=file):
            problems.append(Problem(name, "there is no such setting", mend, source))
    return problems


def service_links(names: Iterable[str]) -> tuple[str, ...]:
    """Prefixes of the variables that Kubernetes puts into a container for each service of its namespace.

    A Kubernetes service named `cu-brain` brings CU_BRAIN_SERVICE_HOST, CU_BRAIN_PORT and more.
    """
    hosts = (name for name in names if name.endswith(_SERVICE_LINK))
    return tuple(name.removesuffix(_SERVICE_LINK) + "_" for name in hosts if re.fullmatch("[A-Z0-9_]+", name))


def _mend(name: str, known: frozenset[str], *, strict: bool, file: bool) -> str:
    """How to mend a name that is not ours; empty where it is none of our business."""
    upper = name.upper()
    if not file and not upper.startswith(("CU_", "GRPC_")):
        return ""
    close, distance = nearest(upper, known)
    hint = f"did you mean {close}?"
    if upper.startswith("CU_"):
        return hint if distance <= len(upper) // 3 else _OURS
    return hint if strict or distance <= _SLIP else ""
