"""What happened between two answers."""

from hypothesis import given
from hypothesis import strategies as st

from meshkit.cli.top.rates import MethodRates, between, methods_of, refusals_of
from tests.cli.top.parts import MEASURE, SEARCH, UPSERT, measured


def test_counts_become_rates_by_the_clock_of_the_instance() -> None:
    before = measured(10.0, {SEARCH: {"OK": 100, "NOT_FOUND": 7}}, shed=4, retries=1, refusals={"SHED": 4})
    after = measured(
        12.5,
        {SEARCH: {"OK": 150, "NOT_FOUND": 7, "INTERNAL": 5}},
        shed=14,
        retries=6,
        hedges=3,
        refusals={"SHED": 14, "TOKEN_EXPIRED": 5},
    )
    rates = between(before, after)
    assert rates is not None
    assert (rates.calls, rates.errors) == (22.0, 2.0)
    assert rates.own[0].codes == {"OK": 20.0, "INTERNAL": 2.0}
    assert (rates.shed, rates.refused, rates.retries, rates.hedges) == (4.0, 2.0, 2.0, 1.2)
    assert rates.refusals == {"SHED": 4.0, "TOKEN_EXPIRED": 2.0}


def test_another_process_or_no_time_in_between_gives_no_rates() -> None:
    before = measured(10.0, {SEARCH: {"OK": 100}})
    assert between(before, measured(2.0, {SEARCH: {"OK": 3}}, instance_id="brain-9")) is None
    assert between(before, measured(2.0, {SEARCH: {"OK": 3}})) is None
    assert between(before, before) is None


@given(
    st.floats(0.001, 1e6),
    st.floats(0.001, 1e6),
    st.dictionaries(st.sampled_from(("OK", "INTERNAL", "CANCELLED")), st.integers(0, 2**60)),
    st.dictionaries(st.sampled_from(("OK", "INTERNAL", "CANCELLED")), st.integers(0, 2**60)),
)
def test_no_rate_is_negative_whatever_came(
    earlier: float, later: float, first: dict[str, int], second: dict[str, int]
) -> None:
    rates = between(
        measured(earlier, {SEARCH: first}, refusals=first, shed=sum(first.values()) % 7, retries=9),
        measured(later, {SEARCH: second}, refusals=second, shed=sum(second.values()) % 7, retries=3),
    )
    if rates is not None:
        assert rates.calls >= rates.errors >= 0
        assert min(rates.shed, rates.refused, rates.retries, rates.hedges) >= 0


def test_calls_of_those_who_look_do_not_count_as_the_services_own() -> None:
    rates = between(measured(0.0), measured(1.0, {SEARCH: {"OK": 3}, MEASURE: {"OK": 90, "INTERNAL": 1}}))
    assert rates is not None
    assert (rates.calls, rates.errors) == (3.0, 0.0)
    assert [each.method for each in rates.methods] == [SEARCH, MEASURE]


def test_calls_of_methods_that_it_does_not_have_count_as_its_own_errors() -> None:
    rates = between(measured(0.0), measured(1.0, {"_OTHER": {"UNIMPLEMENTED": 5}}))
    assert rates is not None
    assert (rates.calls, rates.errors) == (5.0, 5.0)


def test_the_latencies_of_several_methods_together() -> None:
    latencies = {SEARCH: (0.2, 0.9), UPSERT: (0.001, 0.004), "brain.v1.BrainService/Stats": (5.0, 9.0)}
    counts = {SEARCH: {"OK": 40}, UPSERT: {"OK": 960}, "brain.v1.BrainService/Stats": {"OK": 1}}
    rates = between(measured(0.0), measured(1.0, counts, p=latencies))
    assert rates is not None
    assert rates.p50_s == 0.001, "of the method that most calls are of"
    assert rates.p99_s == 0.9, "of the slowest, but for one that is hardly ever called"
    idle = between(measured(0.0, counts), measured(1.0, counts, p=latencies))
    assert idle is not None
    assert (idle.p50_s, idle.p99_s) == (None, None)


def test_methods_of_several_instances_are_summed_and_the_slowest_latencies_kept() -> None:
    one = between(
        measured(0.0), measured(1.0, {SEARCH: {"OK": 3}}, p={SEARCH: (0.1, 0.2)}, refusals={"A": 1})
    )
    two = between(
        measured(0.0),
        measured(1.0, {SEARCH: {"OK": 5, "INTERNAL": 1}}, p={SEARCH: (0.05, 0.9)}, refusals={"A": 1, "B": 5}),
    )
    assert one is not None
    assert two is not None
    assert methods_of([one, two]) == [MethodRates(SEARCH, {"OK": 8.0, "INTERNAL": 1.0}, 0.1, 0.9)]
    assert list(refusals_of([one, two]).items()) == [("B", 5.0), ("A", 2.0)]
