"""`meshkit explain`: what a call to a service would meet now."""

import json
import re

from meshkit.cli.output import ExitCode


def test_a_call_from_here_is_explained_layer_by_layer(greeting) -> None:
    done = greeting("explain", "greeter", COLUMNS="200")
    assert done.code == 0, done.err
    layers = re.findall(r"^  [1-9] (\w+)", done.out, re.MULTILINE)
    assert layers == ["deadline", "retry", "token", "pick", "sign", "send"]
    assert "over 1 of 1 endpoints" in done.out
    assert re.search(r"greeter-\w+ +127\.0\.0\.1:\d+ +eu-1 +serving +yes +open", done.out)


def test_its_methods_are_told_with_what_they_ask_of_callers(greeting) -> None:
    done = greeting("explain", "greeter", COLUMNS="200")
    assert re.search(r"method +permission +tenant +idempotent +timeout +peers +own policy", done.out)
    assert re.search(
        r"/greeter\.v1\.GreeterService/Greet +greeter:greet +required +yes +\S+( s)? +any +no", done.out
    )
    told = json.loads(greeting("explain", "greeter", "--json").out)
    methods = {each["path"].rpartition("/")[2]: each for each in told["methods"]}
    assert (methods["Greet"]["permission"], methods["Greet"]["own_policy"]) == ("greeter:greet", False)
    assert (methods["Chat"]["idempotent"], methods["Chat"]["allowed_peers"]) == (False, [])


def test_it_is_there_for_programs_too(greeting) -> None:
    done = greeting("explain", "greeter", "--json")
    told = json.loads(done.out)
    (endpoint,) = told["pool"]["endpoints"]
    assert (endpoint["ready"], endpoint["state"], endpoint["gate"]) == (True, "serving", "open")
    assert told["layers"][0]["layer"] == "deadline"


def test_an_instance_that_called_nobody_says_so(greeting) -> None:
    done = greeting("explain", "greeter", "--from", "greeter")
    assert done.code == ExitCode.FAILED
    assert re.search(r"greeter-\w+ has not called greeter; it has called nobody", done.err)


def test_a_service_that_is_not_there_is_named(greeting) -> None:
    done = greeting("explain", "greter")
    assert done.code == ExitCode.FAILED
    assert "did you mean greeter" in done.err
    assert greeting("explain", "Greeter!").code == ExitCode.USAGE


def test_a_service_whose_instances_are_gone_is_no_success(shell) -> None:
    addresses = "static://greeter=127.0.0.1:9"
    done = shell("explain", "greeter", CU_REGISTRY_URL=addresses, COLUMNS="200")
    assert done.code == ExitCode.FAILED
    assert "over 0 of 1 endpoints" in done.out
