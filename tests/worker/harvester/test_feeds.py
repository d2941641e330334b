from __future__ import annotations

import io
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit import Aborted, FailedPrecondition, InvalidArgument, MeshError
from reference_services.worker.harvester import feeds
from reference_services.worker.harvester.generate import feed as generated
from reference_services.worker.harvester.planning import outline
from reference_services.worker.harvester.records import Layout, read_records

CSV = Layout("csv", ",", ("a", "b"))


def records(data: bytes, layout: Layout = CSV, line: int = 1) -> list[tuple[int, object]]:
    return [
        (found.line, found.fields or found.fault) for found in read_records(io.BytesIO(data), layout, line)
    ]


def test_the_feed_in_the_package_is_what_its_generator_makes(feed: Path) -> None:
    assert generated(2400, 7) == feed.read_bytes()


def test_quoted_line_breaks_belong_to_the_record_and_stray_quotes_cost_one_row() -> None:
    data = b'1,"x\ny"\n2,"stray\n3,z\n4,"q""q"\n5,a"b\n6\n7,x,y\n8,\xff\n9,ok'
    assert records(data) == [
        (1, ["1", "x\ny"]),
        (3, "STRAY_QUOTE"),
        (4, ["3", "z"]),
        (5, ["4", 'q"q']),
        (6, "STRAY_QUOTE"),
        (7, "TOO_FEW_COLUMNS"),
        (8, "TOO_MANY_COLUMNS"),
        (9, "BAD_ENCODING"),
        (10, ["9", "ok"]),
    ]


def test_json_lines_are_read_one_by_one() -> None:
    data = b'{"sku": 1, "price": 1.299, "on": true}\n[1]\n{"x\n\n'
    assert records(data, Layout("jsonl")) == [
        (1, {"sku": "1", "price": "1.2990", "on": "true"}),
        (2, "BAD_JSON"),
        (3, "BAD_JSON"),
        (4, ""),
    ]


def test_a_line_without_end_is_one_broken_row_and_takes_no_memory() -> None:
    assert records(b"1,2\n" + b"x" * 1_000_000 + b"\n3,4\n") == [
        (1, ["1", "2"]),
        (2, "ROW_TOO_LONG"),
        (3, ["3", "4"]),
    ]


@given(
    st.lists(
        st.sampled_from([b"1,2", b'1,"2', b'"x"', b"\xff", b"", b'"a""', b'1,"x\ny"', b"1,2,3"]), max_size=40
    )
)
def test_a_feed_cut_between_records_splits_as_the_whole_does(lines: list[bytes]) -> None:
    data = b"\n".join(lines)
    whole = list(read_records(io.BytesIO(data), CSV, 1))
    assert sum(found.size for found in whole) == len(data)
    start, parts = 0, []
    for size in (whole[place : place + 3] for place in range(0, len(whole), 3)):
        end = start + sum(found.size for found in size)
        parts += list(read_records(io.BytesIO(data[start:end]), CSV, size[0].line))
        start = end
    assert parts == whole


@pytest.mark.parametrize("wanted", ["auto", "csv"])
def test_a_feed_is_divided_without_gaps(wanted: str, feed: Path) -> None:
    plan = outline(feed, [str(feed.parent)], wanted, 100)
    edges = [(batch.start, batch.end) for batch in plan.batches]
    assert all(left[1] == right[0] for left, right in pairwise(edges))
    assert edges[-1][1] == feed.stat().st_size
    assert sum(batch.rows for batch in plan.batches) == 2616


def test_only_feeds_under_the_roots_are_read(tmp_path: Path) -> None:
    root, other = tmp_path / "feeds", tmp_path / "other"
    root.mkdir()
    other.mkdir()
    for folder in (root, other):
        (folder / "a b.csv").write_text("sku,name,price\n")
    (root / "link.csv").symlink_to(other / "a b.csv")
    roots = [str(root)]
    assert feeds.locate((root / "a b.csv").as_uri(), roots) == root / "a b.csv"
    for bad in (
        f"{root}/../other/a b.csv",
        str(root / "link.csv"),
        "relative.csv",
        "/etc/passwd",
        str(other),
    ):
        with pytest.raises(InvalidArgument) as refused:
            feeds.locate(bad, roots)
        assert refused.value.reason == "FEED_OUTSIDE_ROOTS"
    for bad in ("file://elsewhere/x.csv", "x\0y", "file:///x%00y"):
        with pytest.raises(InvalidArgument) as refused:
            feeds.locate(bad, roots)
        assert refused.value.reason == "FEED_UNREADABLE"
    with pytest.raises(FailedPrecondition, match="HARVEST_ROOTS"):
        feeds.locate(str(root / "a b.csv"), [])


def test_what_is_no_feed_is_refused_with_a_reason(tmp_path: Path) -> None:
    roots = [str(tmp_path)]
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "head.csv").write_text("sku,price\n")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\n")
    (tmp_path / "empty.csv").touch()
    reasons = {}
    for name in ("pipe", "missing.csv", "head.csv", "bytes.csv", "empty.csv", "."):
        with pytest.raises(MeshError) as refused:
            outline((tmp_path / name).resolve(), roots, "csv", 10)
        reasons[name] = refused.value.reason
    assert reasons == {
        **dict.fromkeys(("pipe", "missing.csv", "."), "FEED_UNREADABLE"),
        **dict.fromkeys(("head.csv", "bytes.csv", "empty.csv"), "FEED_FORMAT"),
    }


def test_a_changed_feed_is_noticed_even_with_its_times_set_back(tmp_path: Path) -> None:
    path = tmp_path / "feed.csv"
    path.write_text("sku,name,price\n1,a,1.00\n")
    plan = outline(path, [str(tmp_path)], "auto", 10)
    (batch,) = plan.batches
    times = path.stat()
    path.write_text("sku,name,price\n1,a,2.00\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(Aborted) as refused:
        feeds.read_slice(path, [str(tmp_path)], plan.seen, batch.start, batch.end, batch.digest)
    assert refused.value.reason == "FEED_CHANGED"
