import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.discovery.record import MAX_RECORD_BYTES, RecordRefused, dump, load, revise
from meshkit.instance import RECORD_VERSION, Instance, State

INSTANCE = Instance(service="brain", instance_id="brain-1", address="h:1")

texts = st.text(st.characters(exclude_categories=["Cs"]))
instances = st.builds(
    Instance,
    service=st.just("brain"),
    instance_id=st.just("brain-1"),
    address=st.integers(1, 65535).map(lambda port: f"h:{port}"),
    zone=texts,
    version=texts,
    shard_key=texts,
    weight=st.floats(0, exclude_min=True, allow_infinity=False),
    started_at=st.floats(allow_nan=False, allow_infinity=False),
    contracts=st.lists(texts).map(tuple),
    tenants=st.lists(texts).map(tuple),
    state=st.sampled_from(State),
    record_version=st.integers(1, RECORD_VERSION + 1),
)


@given(instances)
def test_a_record_reads_as_it_was_written(instance: Instance) -> None:
    assert load(dump(instance), service="brain", instance_id="brain-1") == instance


@given(
    st.binary()
    | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(repr).map(str.encode)
)
def test_what_is_no_record_is_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(RecordRefused):
        load(data, service="brain", instance_id="brain-1")


@given(
    st.sampled_from(sorted(json.loads(dump(INSTANCE)))),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.lists(st.integers(), min_size=1)
    | st.dictionaries(st.text(), st.none()),
)
def test_a_field_of_any_kind_is_read_or_refused(name: str, value: object) -> None:
    row = json.loads(dump(INSTANCE)) | {name: value}
    with contextlib.suppress(RecordRefused):
        load(json.dumps(row).encode(), service="brain", instance_id="brain-1")


def test_a_newer_record_is_read_as_far_as_it_is_known() -> None:
    row = json.loads(dump(INSTANCE)) | {"record_version": RECORD_VERSION + 1, "colour": {"deep": [1]}}
    read = load(json.dumps(row).encode(), service="brain", instance_id="brain-1")
    assert read == Instance(
        service="brain", instance_id="brain-1", address="h:1", record_version=RECORD_VERSION + 1
    )


def test_an_older_record_may_lack_what_has_a_default() -> None:
    row = {"service": "brain", "instance_id": "brain-1", "address": "h:1"}
    assert load(json.dumps(row).encode(), service="brain", instance_id="brain-1") == INSTANCE


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"service": "router"}, "claims to be"),
        ({"instance_id": "brain-2"}, "claims to be"),
        ({"address": "nowhere"}, "not host:port"),
        ({"state": "resting"}, "state 'resting' is not known"),
        ({"weight": 0}, "no number above 0"),
        ({"weight": True}, "not a finite number"),
        ({"weight": 10**400}, "not a finite number"),
        ({"tenants": "acme"}, "not a list of texts"),
        ({"record_version": "2"}, "record_version"),
        ({"zone": "z" * MAX_RECORD_BYTES}, "longer than"),
    ],
)
def test_a_record_that_cannot_be_used_says_why(change: dict[str, object], complaint: str) -> None:
    row = json.loads(dump(INSTANCE)) | change
    with pytest.raises(RecordRefused, match=complaint):
        load(json.dumps(row).encode(), service="brain", instance_id="brain-1")


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(RecordRefused, match="not JSON"):
        load(b"[" * 30_000 + b"]" * 30_000, service="brain", instance_id="brain-1")


def test_a_revision_changes_what_was_given() -> None:
    assert revise(INSTANCE, state=State.DRAINING).weight == INSTANCE.weight
    assert revise(INSTANCE, weight=2).state is INSTANCE.state
    with pytest.raises(ValueError, match="weight"):
        revise(INSTANCE, weight=0)
