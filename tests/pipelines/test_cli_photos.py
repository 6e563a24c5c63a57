"""Bands of a picture are made while others are written."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from pipelines.cli.photos import made_ahead


def test_the_next_item_is_made_while_one_is_used() -> None:
    begun = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        begun.set()
        yield 2

    for item in made_ahead(items(), 1, threading.Event()):
        assert begun.wait(60), f"nothing was made while {item} was used"


def test_all_items_come_in_their_order_and_no_more_are_ahead_than_asked_for() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    for expected, item in enumerate(made_ahead(items(), 3, threading.Event())):
        assert item == expected
        assert len(made) <= expected + 1 + 3
    assert made == list(range(20))


def test_an_error_reaches_the_caller_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    ended = threading.Event()
    ahead = made_ahead(items(), 4, ended)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="no more"):
        next(ahead)
    assert ended.is_set()


def test_nothing_more_is_made_once_the_caller_stops() -> None:
    ended = threading.Event()
    made: list[int] = []

    def items() -> Iterator[int]:
        yield 0
        assert ended.wait(60)  # as `upscale_file` looks at it before each tile
        for number in range(1, 20):
            made.append(number)
            yield number

    with closing(made_ahead(items(), 8, ended)) as ahead:
        assert next(ahead) == 0
    assert len(made) <= 1  # the one that was being made
