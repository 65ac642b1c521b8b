from __future__ import annotations

from trio_csp_redis.reading.appetite import Appetite

MIB = 1024 * 1024


def test_begins_small_and_grows_by_doubling_while_entries_are_small() -> None:
    appetite = Appetite(capacity=1000)
    counts = [appetite.count(0)]
    for _ in range(7):
        appetite.saw(100, held=10)
        counts.append(appetite.count(0))
    assert counts == [16, 32, 64, 128, 256, 512, 1000, 1000]


def test_asks_for_no_more_than_there_is_room_for() -> None:
    appetite = Appetite(capacity=4)
    assert [appetite.count(held) for held in (0, 1, 4, 5, 9)] == [4, 3, 0, 0, 0]


def test_large_entries_are_asked_for_in_small_numbers_and_one_at_least() -> None:
    appetite = Appetite(capacity=256)
    appetite.saw(4 * MIB, held=0)
    assert [appetite.count(held) for held in (0, 1, 3, 4, 5)] == [4, 3, 1, 0, 0]
    assert appetite.any_count == 4
    appetite.saw(100 * MIB, held=0)
    assert [appetite.count(held) for held in (0, 1)] == [1, 0]
    assert appetite.any_count == 1


def test_what_is_held_counts_as_large_until_nothing_is_held() -> None:
    appetite = Appetite(capacity=256)
    appetite.saw(4 * MIB, held=0)
    for _ in range(30):
        appetite.saw(1, held=1)
    assert (appetite.count(3), appetite.count(4)) == (253, 0)
    appetite.saw(1, held=0)
    assert appetite.count(4) == 252


def test_half_of_the_room_is_free_when_no_more_than_low_are_held() -> None:
    appetite = Appetite(capacity=256)
    assert appetite.low == 8
    for _ in range(30):
        appetite.saw(100, held=0)
    assert appetite.low == 128
    appetite.saw(4 * MIB, held=0)
    assert appetite.low == 2
    appetite.saw(9 * MIB, held=0)
    assert appetite.low == 0
    assert appetite.count(appetite.low) == 1
