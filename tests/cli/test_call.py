"""`meshkit call`: against a greeter that runs as a process."""

import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf.descriptor_pool import Default
from greeter.v1 import greeter_pb2 as pb

from meshkit.cli.call import Target, find_method, parse_target, told
from meshkit.cli.documents import one, parse, rendered
from meshkit.cli.output import ExitCode, Failure
from meshkit.errors import ResourceExhausted
from meshkit.transport.reflecting import Contracts
from reference_services._gen.contextunity.brain.v1 import brain_pb2

GREETER = pb.DESCRIPTOR.services_by_name["GreeterService"]
BRAIN = brain_pb2.DESCRIPTOR.services_by_name["BrainService"]
UPSERT = brain_pb2.UpsertRequest.DESCRIPTOR


def test_a_service_alone_lists_its_methods(greeting) -> None:
    done = greeting("call", "greeter")
    assert done.code == 0
    assert done.out.splitlines() == [
        "greeter.v1.GreeterService",
        "  Greet      GreetRequest → GreetResponse",
        "  GreetMany  GreetManyRequest → stream GreetManyResponse",
        "  GreetAll   stream GreetAllRequest → GreetAllResponse",
        "  Chat       stream ChatRequest → stream ChatResponse",
    ]
    methods = json.loads(greeting("call", "greeter", "--json").out)
    assert methods[1] == {
        "path": "/greeter.v1.GreeterService/GreetMany",
        "request": "greeter.v1.GreetManyRequest",
        "response": "greeter.v1.GreetManyResponse",
        "streams_requests": False,
        "streams_responses": True,
    }


def test_one_request_and_one_reply(greeting) -> None:
    done = greeting("call", "greeter/Greet", '{"name": "Ädä"}', "--tenant", "acme", "--verbose")
    assert done.out == '{\n  "text": "Hello Ädä (acme)"\n}\n'
    assert done.err.startswith("greeter-")
    assert "answered in" in done.err


@pytest.mark.parametrize(
    "words",
    [
        ("/greeter.v1.GreeterService/Greet", "--data", '{"name": "Ada"}'),
        ("greeter.v1.GreeterService/Greet", "--service", "greeter", "-d", "@ada.json"),
        ("greeter/Greet", "-"),
    ],
)
def test_a_method_and_its_request_may_be_given_in_several_ways(greeting, words: tuple[str, ...]) -> None:
    (greeting.folder / "ada.json").write_text('{"name": "Ada"}')
    done = greeting("call", *words, "--compact", "--as", "tester", stdin='{"name": "Ada"}')
    assert done.out == '{"text": "Hello Ada (local)"}\n', done.err


def test_a_stream_of_replies_is_a_line_a_message_where_that_is_asked_for(greeting) -> None:
    done = greeting("call", "greeter/GreetMany", '{"name": "Ada", "times": 2}', "--compact")
    assert [json.loads(line)["text"] for line in done.out.splitlines()] == [
        "Hello Ada, for the 1. time",
        "Hello Ada, for the 2. time",
    ]


def test_a_stream_of_requests_is_a_document_a_line(greeting) -> None:
    done = greeting("call", "greeter/GreetAll", stdin='{"name": "Ada"}\n\n{"name": "Eve"}')
    assert json.loads(done.out) == {"text": "Hello Ada, Eve"}
    done = greeting("call", "greeter/GreetAll", '{"name": "Ada"}', '{"name": "Eve"}')
    assert json.loads(done.out) == {"text": "Hello Ada, Eve"}


def test_a_bad_line_of_a_stream_ends_the_call(greeting) -> None:
    done = greeting("call", "greeter/GreetAll", stdin='{"name": "Ada"}\n{"nmae": "Eve"}\n')
    assert done.code == ExitCode.USAGE
    assert done.out == ""
    assert "line 2: nmae: GreetAllRequest has no such field; did you mean name?" in done.err


def test_replies_are_printed_as_they_come_and_an_interrupt_ends_the_call(greeting) -> None:
    with greeting.started("call", "greeter/Chat", "--compact", stdin=subprocess.PIPE) as process:
        for name in ("Ada", "Eve"):
            process.stdin.write(json.dumps({"name": name}) + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == {"text": f"Hello {name}"}
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == ExitCode.INTERRUPTED
        assert "Traceback" not in err


def test_a_reader_that_has_had_enough_is_no_fault(greeting) -> None:
    reading, writing = os.pipe()
    words = ("call", "greeter/GreetMany", '{"name": "Ada", "times": 5000}', "--compact")
    with greeting.started(*words, stdout=writing) as process:
        os.close(writing)
        os.read(reading, 10)
        os.close(reading)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("greter/Greet",), 1, "did you mean greeter?"),
        (("greeter/Great",), 2, "did you mean Greet?\n  it has Greet, GreetMany, GreetAll, Chat"),
        (
            ("greeter.v1.GreeterServce/Greet", "--service", "greeter"),
            2,
            "did you mean greeter.v1.GreeterService?",
        ),
        (("greeter/Greet", "{'name': 1}"), 2, "this is not JSON"),
        (("greeter/Greet", "{}", "{}"), 2, "takes one request"),
        (("greeter/Greet", "-d", "@absent.json"), 2, "absent.json cannot be read: No such file"),
        (("greeter/Greet", "--tenant", "a b"), 1, "reason  TENANT_MALFORMED"),
        (("greeter/Greet", "--tenant", ""), 2, "name a tenant, or leave it out for that of CU_TENANT"),
        (("greeter/Greet", "-m", "nothing"), 2, "write KEY=VALUE"),
        (("greeter/Greet", "-m", "authorization=me"), 1, "METADATA_RESERVED"),
        (("greeter/Greet", "--timeout", "0"), 2, "--timeout"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_or_two(
    greeting, words: tuple[str, ...], code: int, says: str
) -> None:
    done = greeting("call", *words)
    assert done.code == code
    assert says in done.err
    assert done.out == ""
    assert "Traceback" not in done.err


def test_a_refusal_names_status_reason_and_instance(greeting) -> None:
    done = greeting("call", "greeter/Greet", CU_PROJECT_SECRET="another-secret-than-the-greeter-has-long")
    assert done.code == ExitCode.FAILED
    assert done.err.startswith("meshkit: UNAUTHENTICATED: ")
    assert "  reason" in done.err
    assert "  instance  greeter-" in done.err


def test_a_service_without_instances_is_unavailable(shell) -> None:
    with shell.serving("hello:Hello", CU_DRAIN_PROPAGATION_S="0"):
        pass
    done = shell("call", "greeter/Greet", "--timeout", "0.3")
    assert done.code == ExitCode.FAILED
    assert "NO_INSTANCE" in done.err


def test_a_call_waits_for_a_service_that_is_just_starting(shell) -> None:
    with shell.serving("hello:Hello", CU_DRAIN_PROPAGATION_S="0"):
        pass
    with shell.started("call", "greeter/Greet", "--timeout", "30", "--compact") as process:
        shell.line_with(process.stderr, "waiting up to 30 s for an instance of greeter")
        with shell.serving("hello:Hello", CU_DRAIN_PROPAGATION_S="0"):
            assert json.loads(process.stdout.readline()) == {"text": "Hello  (local)"}


def test_a_registry_that_cannot_be_opened_is_78(shell) -> None:
    done = shell("call", "greeter/Greet", CU_REGISTRY_URL="static://greeter")
    assert done.code == ExitCode.CONFIG
    assert "CU_REGISTRY_URL" in done.err


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("greeter", Target("greeter", "", "")),
        ("greeter/Greet", Target("greeter", "", "Greet")),
        ("/user.v1.UserProfileService/Get", Target("user-profile", "user.v1.UserProfileService", "Get")),
        ("user.v1.UserProfileService", Target("user-profile", "user.v1.UserProfileService", "")),
    ],
)
def test_a_target_is_a_service_or_a_path(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize("text", ["", "/", "Greeter/Greet", "greeter/a/b", "a.v1.Ü/Greet"])
def test_other_words_are_no_target(text: str) -> None:
    with pytest.raises(Failure, match="is not SERVICE/METHOD"):
        parse_target(text)


def test_a_method_of_two_contracts_must_be_named_in_full() -> None:
    contracts = Contracts({"one": GREETER, "two": GREETER}, Default())
    with pytest.raises(Failure, match=r"write /greeter[.]v1[.]GreeterService/Greet or "):
        find_method(Target("greeter", "", "Greet"), contracts)
    assert find_method(Target("greeter", "two", "Greet"), contracts).name == "Greet"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"cels": []}', "cels: UpsertRequest has no such field; did you mean cells?"),
        ('{"cells": [{}, {"txt": 1}]}', "cells[1].txt: Cell has no such field; did you mean text?"),
        ('{"cells": [{"text": 1}]}', "cells.text: this is to be a string, not int"),
        ('{"cells": 3}', "cells: this is to be a list, not 3"),
        ('{"cells": [{"created_at": "yesterday"}]}', "cells.created_at: "),
        ('{"cells": [], "cells": []}', "duplicate"),
        ("[]", "a UpsertRequest is an object, such as {}, not []"),
        ("", "this is not JSON"),
        ("{" * 100_000, "this is not JSON"),
        ('{"cells":' + "[" * 100_000, "nested too deeply"),
    ],
)
def test_a_request_that_is_none_names_the_field(text: str, says: str) -> None:
    with pytest.raises(Failure) as failure:
        parse(text, UPSERT, Default())
    assert says in str(failure.value)
    assert failure.value.code == ExitCode.USAGE


def test_free_data_times_and_maps_are_left_to_json() -> None:
    cell = {"metadata": {"any": {"thing": 1}}, "created_at": "2026-01-01T00:00:00Z"}
    message = parse(json.dumps({"cells": [cell], "ifMatch": {"a": "b"}}), UPSERT, Default())
    shown = json.loads(rendered(message, Default(), compact=True))
    assert shown["cells"][0]["metadata"] == {"any": {"thing": 1}}
    assert shown["if_match"] == {"a": "b"}
    assert shown["cells"][0]["text"] == "", "fields are shown where they are empty"


def test_no_request_is_an_empty_one() -> None:
    assert one([]) == "{}"


def test_an_error_is_told_whole() -> None:
    error = ResourceExhausted("too much", reason="TENANT_SHARE", tenant="acme")
    error.instance, error.pushback = "greeter-1", 0.25
    assert told(error).splitlines() == [
        "RESOURCE_EXHAUSTED: too much",
        "  reason        TENANT_SHARE",
        "  tenant        acme",
        "  instance      greeter-1",
        "  try again in  0.25 s",
    ]


def test_a_server_without_reflection_is_told_to_lack_it(shell) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        done = shell("call", "greeter/Greet", "{}", CU_REGISTRY_URL=f"static://greeter=127.0.0.1:{port}")
    finally:
        server.stop(0)
    assert done.code == ExitCode.FAILED
    assert done.err.startswith("meshkit: UNIMPLEMENTED: ")
    assert "it has no gRPC reflection, from which this command learns its contract" in done.err
