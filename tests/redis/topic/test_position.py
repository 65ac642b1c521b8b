from __future__ import annotations

import csp
from csp.errors import ConnectionFailedError, Kind
from trio_csp_redis.connection.line import Outage
from trio_csp_redis.topic.position import Mark, Position, mark_before, mark_of, merged


def outage(seconds: float = 1.5, attempts: int = 2) -> Outage:
    return Outage(ConnectionFailedError("lost", kind=Kind.UNAVAILABLE, retryable=True), seconds, attempts)


def at(number: int, epoch: bytes = b"5-a") -> Position:
    position = Position()
    position.set(Mark(epoch, number))
    return position


def test_a_mark_is_what_publishers_write() -> None:
    assert mark_of([b"e", b"5-a", b"n", b"12", b"d", b"data"]) == Mark(b"5-a", 12)


def test_other_entries_have_no_mark() -> None:
    for fields in (
        [],
        [b"d", b"data"],
        [b"e", b"5-a", b"n", b"12", b"x", b"data"],
        [b"e", b"5-a", b"n", b"-1", b"d", b"data"],
        [b"e", b"5-a", b"n", b"12", b"d", b"data", b"more", b"1"],
    ):
        assert mark_of(fields) is None


def test_the_next_value_has_no_gap_before_it() -> None:
    position = at(3)
    assert position.gap_before(Mark(b"5-a", 4)) is None
    assert position.gap_before(Mark(b"5-a", 5)) is None


def test_a_gap_tells_how_many_are_missing() -> None:
    position = at(3)
    assert position.gap_before(Mark(b"5-a", 10)) == csp.Gap(None, 0.0, 0, 6)
    assert position.gap_before(Mark(b"5-a", 11)) is None


def test_another_epoch_or_a_number_that_was_there_is_a_gap_of_unknown_size() -> None:
    position = at(3)
    assert position.gap_before(Mark(b"6-b", 4)) == csp.Gap(None, 0.0, 0, None)
    assert position.gap_before(Mark(b"6-b", 5)) is None
    assert position.gap_before(Mark(b"6-b", 5)) == csp.Gap(None, 0.0, 0, None)


def test_before_anything_was_published_the_first_epoch_is_the_one_that_comes() -> None:
    position = at(0, b"")
    assert position.gap_before(Mark(b"5-a", 1)) is None
    position = at(0, b"")
    assert position.gap_before(Mark(b"5-a", 4)) == csp.Gap(None, 0.0, 0, 3)


def test_where_nothing_is_known_nothing_is_missing() -> None:
    position = Position()
    assert position.gap_before(Mark(b"5-a", 7)) is None
    assert position.gap_before(Mark(b"5-a", 9)) == csp.Gap(None, 0.0, 0, 1)


def test_a_gap_after_an_outage_tells_of_that_and_only_the_first_one_does() -> None:
    position, lost = at(3), outage()
    position.reconnected(lost)
    assert position.gap_before(Mark(b"5-a", 6)) == csp.Gap(lost.error, 1.5, 2, 2)
    assert position.gap_before(Mark(b"5-a", 8)) == csp.Gap(None, 0.0, 0, 1)


def test_an_outage_that_missed_nothing_is_forgotten() -> None:
    position = at(3)
    position.reconnected(outage())
    assert position.gap_before(Mark(b"5-a", 4)) is None
    assert position.gap_before(Mark(b"5-a", 6)) == csp.Gap(None, 0.0, 0, 1)


def test_outages_without_a_value_in_between_are_one() -> None:
    position, last = at(3), outage(0.5, 1)
    position.reconnected(outage())
    position.reconnected(last)
    assert position.gap_before(Mark(b"5-a", 5)) == csp.Gap(last.error, 2.0, 3, 1)


def test_beginning_again_is_one_gap_of_unknown_size() -> None:
    position, lost = at(3), outage()
    position.reconnected(lost)
    assert position.begin_again() == csp.Gap(lost.error, 1.5, 2, None)
    assert position.gap_before(Mark(b"6-b", 9)) is None


def test_follows_values_that_come_one_after_the_other() -> None:
    position = at(3)
    position.reconnected(outage())
    assert position.follow(Mark(b"5-a", 4), Mark(b"5-a", 8), 5)
    assert position.gap_before(Mark(b"5-a", 10)) == csp.Gap(None, 0.0, 0, 1)


def test_follows_nothing_else() -> None:
    for first, last, count in (
        (Mark(b"5-a", 5), Mark(b"5-a", 8), 4),
        (Mark(b"5-a", 4), Mark(b"5-a", 8), 4),
        (Mark(b"6-b", 4), Mark(b"6-b", 8), 5),
        (Mark(b"5-a", 4), Mark(b"6-b", 8), 5),
    ):
        assert not at(3).follow(first, last, count)
        assert not Position().follow(first, last, count)


def test_an_entry_that_is_kept_tells_its_epoch() -> None:
    assert mark_before((9, 4), b"5-a", b"2-x", kept=True) == Mark(b"2-x", 4)


def test_an_id_between_those_that_are_kept_misses_nothing() -> None:
    assert mark_before((9, 4), b"5-a", None, kept=True) is None


def test_a_trimmed_id_is_of_this_epoch_if_it_is_not_older() -> None:
    assert mark_before((5, 4), b"5-a", None, kept=False) == Mark(b"5-a", 4)


def test_what_is_missing_after_an_older_id_or_a_mere_time_is_not_known() -> None:
    for since, epoch in (((4, 4), b"5-a"), ((9, 0), b"5-a"), ((9, 4), b"")):
        mark = mark_before(since, epoch, None, kept=False)
        position = Position()
        position.set(mark)
        assert position.gap_before(Mark(b"5-a", 5)) == csp.Gap(None, 0.0, 0, None)


def test_gaps_are_merged_to_one_of_unknown_size() -> None:
    first, second = outage(), outage(0.5, 1)
    a, b, deleted = (
        csp.Gap(first.error, 1.5, 2, 3),
        csp.Gap(second.error, 0.5, 1, None),
        csp.Gap(None, 0.0, 0, None),
    )
    assert merged(a, b) == csp.Gap(second.error, 2.0, 3, None)
    assert merged(b, deleted) == csp.Gap(second.error, 0.5, 1, None)
