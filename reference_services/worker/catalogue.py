"""The code of workflows: the decorator that declares one, and the set of those that a worker knows."""

from __future__ import annotations

import importlib
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

from meshkit import InvalidArgument
from meshkit.config import Wrong
from reference_services.worker.context import Resources, WorkflowContext
from reference_services.worker.workflow import Json

Body: TypeAlias = Callable[[WorkflowContext, Json], Awaitable[Json]]
"""The code of a workflow."""

Check: TypeAlias = Callable[[Json, Resources], Awaitable[None]]
"""Looks at arguments before a workflow is accepted; raises a `MeshError` where they will not do."""

Forget: TypeAlias = Callable[[str, Sequence[str], Resources], Awaitable[None]]
"""Lets go of what some workflows of a tenant, given by their ids, have left in the world to be found by their ids."""

F = TypeVar("F", bound=Callable[..., Any])
_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")


@dataclass(frozen=True, slots=True)
class Definition:
    """A workflow's code under its name.

    Attributes:
        name: Its name.
        body: The coroutine function that is it.
        check: Looks at the arguments before it is accepted; None accepts any.
        internal: Whether only other workflows may start it.
        forget: Lets go of what it has left by its id; None where that is nothing.
    """

    name: str
    body: Body
    check: Check | None = None
    internal: bool = False
    forget: Forget | None = None


def workflow(
    name: str, *, check: Check | None = None, internal: bool = False, forget: Forget | None = None
) -> Callable[[F], F]:
    """Declares an `async def` function as a workflow; the function itself stays as it is.

    A module named in `WORKER_MODULES` brings its workflows to the worker:

        @workflow("greet-all")
        async def greet_all(context: WorkflowContext, arguments: Json) -> Json:
            for number, name in enumerate(arguments["names"]):
                await context.step(f"greet-{number}", lambda: greet(name))
            return {"greeted": len(arguments["names"])}

    A workflow runs again from its beginning after a takeover; its steps that are recorded are not repeated,
    their results are there. So all that it does to the world, and all that could come out otherwise, belongs
    into steps, and the steps must come in the same order each time.

    Args:
        name: `[a-z][a-z0-9-]{0,63}`, unique in the worker.
        check: Looks at the arguments before a workflow is accepted; raises a `MeshError` where they will not
            do.
        internal: Whether only other workflows may start it.
        forget: Called before workflows that ended `WORKER_RETENTION_DAYS` ago are forgotten, maybe more than once: an
            idempotency key may come again then, and with it the id. So marks of effects that bear the id must go.

    Raises:
        ValueError: The name is not well-formed.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"workflow name {name!r} is not {_NAME.pattern}")

    def decorate(function: F) -> F:
        function.__meshkit_workflow__ = Definition(name, function, check, internal, forget)  # type: ignore[attr-defined]
        return function

    return decorate


class Catalogue:
    """The workflows that a worker knows, by name.

    Args:
        definitions: The workflows.

    Raises:
        Wrong: Two have the same name.
    """

    def __init__(self, definitions: Iterable[Definition]) -> None:
        self._by_name: dict[str, Definition] = {}
        for definition in definitions:
            if definition.name in self._by_name:
                raise Wrong(f"two workflows are called {definition.name!r}", "rename one")
            self._by_name[definition.name] = definition

    @classmethod
    def of(cls, modules: Iterable[ModuleType | str]) -> Catalogue:
        """The workflows declared in these modules, given as modules or by dotted name.

        Raises:
            Wrong: A module cannot be imported, declares none, or two workflows have the same name.
        """
        return cls([found for module in modules for found in _declared(module)])

    def get(self, name: str) -> Definition | None:
        """The workflow of that name."""
        return self._by_name.get(name)

    def startable(self, name: str) -> Definition:
        """The workflow of that name, for a caller.

        Raises:
            InvalidArgument: `WORKFLOW_UNKNOWN`.
        """
        found = self._by_name.get(name)
        if found is None or found.internal:
            known = ", ".join(sorted(key for key, value in self._by_name.items() if not value.internal))
            raise InvalidArgument(
                f"there is no such workflow; known are: {known}. Others come from modules in WORKER_MODULES",
                reason="WORKFLOW_UNKNOWN",
            )
        return found


def _declared(module: ModuleType | str) -> list[Definition]:
    if isinstance(module, str):
        try:
            module = importlib.import_module(module)
        except ImportError as error:
            raise Wrong(f"{module} cannot be imported ({error})", "mend the name, or install it") from error
    found = [
        value.__meshkit_workflow__
        for value in vars(module).values()
        if hasattr(value, "__meshkit_workflow__") and value.__module__ == module.__name__
    ]
    if not found:
        raise Wrong(f"{module.__name__} declares no @workflow", "name the module that does")
    return found
