"""Between the contract's messages and the worker's own records; requests are checked here."""

from __future__ import annotations

import json
import re
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from meshkit import InvalidArgument
from reference_services._gen.contextunity.worker.v1 import worker_pb2 as pb
from reference_services.worker.workflow import Json, State, Workflow

MAX_ARGUMENTS = 64 * 1024
"""Most bytes of a workflow's arguments, serialized."""

_KEY = re.compile(r"[\x21-\x7e]{1,128}")
_ID = re.compile(r"[0-9a-f]{32}(-[0-9]{1,6}){0,4}")


def checked_key(key: str) -> str:
    """An idempotency key.

    Raises:
        InvalidArgument: `IDEMPOTENCY_KEY_INVALID`.
    """
    if not _KEY.fullmatch(key):
        raise InvalidArgument(
            "idempotency_key must be 1 to 128 visible ASCII characters; choose one for each piece of work, so that a "
            "repeat of the call does not do it twice",
            reason="IDEMPOTENCY_KEY_INVALID",
        )
    return key


def checked_id(workflow_id: str) -> str:
    """A workflow's id.

    Raises:
        InvalidArgument: `WORKFLOW_ID_INVALID`.
    """
    if not _ID.fullmatch(workflow_id):
        raise InvalidArgument(
            "id is no workflow's id; StartWorkflow gives them", reason="WORKFLOW_ID_INVALID"
        )
    return workflow_id


def checked_arguments(arguments: Struct) -> Json:
    """A workflow's arguments as JSON, whole numbers as integers.

    Raises:
        InvalidArgument: `ARGUMENTS_TOO_LARGE`, `ARGUMENTS_INVALID`.
    """
    if arguments.ByteSize() > MAX_ARGUMENTS:
        raise InvalidArgument(
            f"arguments take {arguments.ByteSize()} bytes, {MAX_ARGUMENTS} are allowed; pass a reference to the data",
            reason="ARGUMENTS_TOO_LARGE",
        )
    try:
        plain: Json = _whole(MessageToDict(arguments))
        json.dumps(plain, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            "arguments hold a number or a depth that JSON cannot", reason="ARGUMENTS_INVALID"
        ) from error
    return plain


def checked_states(states: list[pb.WorkflowState.ValueType]) -> list[State]:
    """States to filter by; the unspecified one means any.

    Raises:
        InvalidArgument: `STATE_UNKNOWN`.
    """
    try:
        return [] if 0 in states else [State(state) for state in states[:8]]
    except ValueError:
        raise InvalidArgument(
            "states holds one that this version does not know", reason="STATE_UNKNOWN"
        ) from None


def workflow_message(found: Workflow, *, whole: bool = True) -> pb.Workflow:
    """A workflow as a message, with arguments and result where it is to be whole."""
    message = pb.Workflow(
        id=found.id,
        workflow=found.name,
        state=pb.WorkflowState.ValueType(found.state),
        progress=pb.WorkflowProgress(done=found.done, total=found.total, message=found.message),
        executor=found.executor,
        attempts=found.attempts,
        principal=found.principal,
        parent_id=found.parent_id,
        created_at=timestamp(found.created_at),
        started_at=timestamp(found.started_at),
        updated_at=timestamp(found.updated_at),
        finished_at=timestamp(found.finished_at),
    )
    if found.failure is not None:
        failure = found.failure
        message.error.CopyFrom(
            pb.WorkflowError(
                reason=failure.reason, message=failure.message, details=failure.details, code=failure.code
            )
        )
    if whole:
        message.arguments.update(found.arguments)
        if found.result is not None:
            message.result.update(found.result)
    return message


def timestamp(seconds: float) -> Timestamp | None:
    """A time as a message; None for one that has not come."""
    if not seconds:
        return None
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e6) * 1000)


def _whole(value: Any) -> Any:
    """Struct knows doubles only; a whole one becomes an integer again."""
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    return value
