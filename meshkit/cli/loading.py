"""`module:Class` on the command line: from the words to the class."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from meshkit.cli.nearest import did_you_mean
from meshkit.cli.output import ExitCode, Failure

if TYPE_CHECKING:
    from meshkit.service import CUService


def load_service(target: str) -> type[CUService]:
    """Finds a service class that can be run.

    Args:
        target: `module:Class`. Modules of the working folder are found, as with `python -m`.

    Raises:
        Failure: There is none, or it does not fit its contract; the message says what to mend.
    """
    from meshkit.service import CUService

    found = load_object(target)
    if not (isinstance(found, type) and issubclass(found, CUService)):
        services = _services_of(sys.modules[target.partition(":")[0]])
        there = f"; services there: {', '.join(services)}" if services else ""
        raise _wrong(f"{target} is not a CUService class{there}")
    if not hasattr(found, "definition"):
        raise _wrong(f"{target} has no contract: name one, as in class Greeter(CUService, contract=…)")
    try:
        found.config_class()
    except TypeError as error:
        raise _wrong(str(error)) from None
    return found


def load_object(target: str) -> object:
    """Imports whatever `module:name` names.

    Raises:
        Failure: There is no such module, nothing of that name in it, or it raises when it is imported: the message
            is its traceback then, from its own frames on.
    """
    module, _, name = target.partition(":")
    if module.endswith(".py") or "/" in module:
        path = module.removesuffix(".py").strip("./").replace("/", ".")
        raise _wrong(f"{target!r} is a path; write module:Class, such as {path}:{name or 'Greeter'}")
    if not module or not name:
        raise _wrong(f"{target!r} is not module:Class, such as greeter:Greeter")
    loaded = _import(module)
    try:
        return getattr(loaded, name)
    except AttributeError:
        near = did_you_mean(name, (each for each in vars(loaded) if not each.startswith("_")))
        raise _wrong(f"the module {module} has no {name}{near}") from None


def _import(module: str) -> ModuleType:
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.insert(0, "")  # modules of the working folder, as `python -m` finds them
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        absent = error.name or module
        if f"{module}.".startswith(f"{absent}."):
            raise _wrong(
                f"there is no module {absent} (looked up for {module}, also in {Path.cwd()})"
            ) from None
        where = "".join(f" ({frame.filename}:{frame.lineno})" for frame in _own_frames(error)[-1:])
        raise _wrong(f"{module} imports {absent}, which is not installed or not found{where}") from None
    except SystemExit as error:
        raise _wrong(
            f"{module} ends the process when it is imported (exit code {error.code}): put what it runs by itself "
            'under `if __name__ == "__main__":`'
        ) from None
    except Exception as error:
        if isinstance(error, TypeError) and _is_binding_fault(error):
            raise _wrong(str(error)) from None
        raise Failure(f"{module} cannot be imported:\n{_report(error)}") from None


def _report(error: Exception) -> str:
    """The error as Python would print it, without the frames that led to the module."""
    told = traceback.TracebackException.from_exception(error)
    told.stack = traceback.StackSummary.from_list(_own_frames(error))
    lines = told.format() if told.stack else told.format_exception_only()
    return "".join(lines).rstrip()


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of an error that are not of this module or of the import system."""
    return [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in (__file__, importlib.__file__)
        and not frame.filename.startswith("<frozen importlib")
    ]


def _is_binding_fault(error: TypeError) -> bool:
    """Whether a service did not fit its contract: that error says where and what, its traceback adds nothing."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and place.tb_frame.f_globals.get("__name__") == "meshkit.binding"


def _services_of(module: ModuleType) -> list[str]:
    return [
        name
        for name, found in vars(module).items()
        if isinstance(found, type) and "definition" in vars(found)
    ]


def _wrong(message: str) -> Failure:
    return Failure(message, code=ExitCode.USAGE)
