"""The line: who shares a batch, who waits, and what others hear of trouble. A painter that notes what it is asked."""

from __future__ import annotations

import threading

import pytest
from PIL import Image

pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")

from sdk.errors import InputError
from sdk.library import KeptPack
from sdk.runtime import Cancelled, Phase
from sdk.serve.drawing.batching import Batcher, Busy, Order
from sdk.serve.drawing.pack_cache import PackCache
from sdk.serve.drawing.painter import How, Painter, Row


class Noting(Painter):
    """Draws when it is let; remembers every batch."""

    suffix, resolution, most_at_once, base = "", 64, 4, "none"

    def __init__(self):
        self.batches, self.free, self.begun = [], threading.Semaphore(0), threading.Semaphore(0)

    def draw(self, rows, how, progress=None, cancel=None):
        self.begun.release()
        assert self.free.acquire(timeout=20)
        self.batches.append([row.prompt for row in rows])
        phase = Phase("draw", 2, progress, cancel)
        for _ in range(2):
            phase.step()
        if any(row.prompt == "bad" for row in rows):
            raise InputError("bad")
        if any(row.prompt == "bug" for row in rows):
            raise RuntimeError("a bug")
        return [Image.new("L", (1, 1), row.seed) for row in rows]

    def read_pack(self, path):
        self.batches.append(str(path))
        assert self.free.acquire(timeout=20)
        if path == "bad":
            raise InputError("bad")
        return [path]

    def size_of(self, pack):
        return 10


def order(*prompts, how=None, pack=None, told=lambda share: None):
    return Order([Row(prompt, "", pack, i) for i, prompt in enumerate(prompts)], how or How(), told)


@pytest.fixture
def painter():
    return Noting()


@pytest.fixture
def line(painter):
    with Batcher(painter, 4, 8) as batcher:
        yield batcher
        painter.free.release(1000)


def held(painter, batcher):
    """A first batch that is being drawn."""
    first = batcher.submit(order("first"))
    assert painter.begun.acquire(timeout=20)
    return first


def pictures(order):
    return [image.getpixel((0, 0)) for image in order.done.result(20)]


def test_who_waits_shares_a_batch_whatever_the_pack(painter, line):
    held(painter, line)
    orders = [line.submit(order(name, pack=name)) for name in "abc"]
    painter.free.release(2)
    assert [pictures(each) for each in orders] == [[0]] * 3
    assert painter.batches == [["first"], ["a", "b", "c"]]


def test_packs_stay_apart_where_they_are_told_to():
    painter = Noting()
    with Batcher(painter, 4, 8, across=False) as batcher:
        held(painter, batcher)
        one, other = object(), object()
        orders = [batcher.submit(order(name, pack=pack)) for name, pack in (("a", one), ("b", other), ("c", one))]
        painter.free.release(3)
        for each in orders:
            pictures(each)
    assert painter.batches == [["first"], ["a", "c"], ["b"]]


def test_other_sizes_and_steps_have_batches_of_their_own(painter, line):
    held(painter, line)
    orders = [line.submit(order(str(steps), how=How(steps=steps))) for steps in (5, 6, 5)]
    painter.free.release(3)
    for each in orders:
        pictures(each)
    assert painter.batches == [["first"], ["5", "5"], ["6"]]


def test_nobody_waits_for_all_of_a_large_request(painter, line):
    held(painter, line)
    large = line.submit(order(*"abcdef"))
    small = line.submit(order("small"))
    painter.free.release(3)
    assert pictures(small) == [0]
    assert pictures(large) == [0, 1, 2, 3, 4, 5]
    assert painter.batches == [["first"], ["a", "b", "c", "d"], ["small", "e", "f"]]


def test_a_full_line_refuses_and_says_when_to_come_back(painter, line):
    held(painter, line)
    orders = [line.submit(order(*"abcd")) for _ in range(2)]
    with pytest.raises(Busy) as refused:
        line.submit(order("x"))
    assert refused.value.seconds >= 1
    assert line.rows_waiting == 8
    painter.free.release(3)
    assert [len(pictures(each)) for each in orders] == [4, 4]


def test_of_one_that_cannot_be_drawn_the_others_hear_nothing(painter, line):
    held(painter, line)
    orders = [line.submit(order(name)) for name in ("a", "bad", "c")]
    painter.free.release(10)
    assert pictures(orders[0]) == pictures(orders[2]) == [0]
    with pytest.raises(InputError, match="bad"):
        orders[1].done.result(20)


def test_a_bug_does_not_end_the_line(painter, line):
    held(painter, line)
    broken = line.submit(order("bug"))
    painter.free.release(3)
    with pytest.raises(RuntimeError, match="a bug"):
        broken.done.result(20)
    assert pictures(line.submit(order("after"))) == [0]


def test_who_goes_is_not_drawn(painter, line):
    held(painter, line)
    gone, stays = line.submit(order("gone")), line.submit(order("stays"))
    gone.cancel.set()
    painter.free.release(2)
    assert pictures(stays) == [0]
    with pytest.raises(Cancelled):
        gone.done.result(20)
    assert painter.batches == [["first"], ["stays"]]


def test_who_stops_waiting_for_a_future_ends_nobody(painter, line):
    held(painter, line)
    gone, stays = line.submit(order("gone")), line.submit(order("stays"))
    assert not gone.done.cancel()
    gone.cancel.set()
    painter.free.release(3)
    assert pictures(stays) == [0]
    assert line.alive


def test_a_batch_that_nobody_waits_for_ends_between_two_steps(painter, line):
    first = held(painter, line)
    first.cancel.set()
    painter.free.release()
    with pytest.raises(Cancelled):
        first.done.result(20)


def test_progress_is_the_share_of_the_request(painter, line):
    held(painter, line)
    shares = []
    large = line.submit(order(*"abcdef", told=shares.append))
    painter.free.release(3)
    pictures(large)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert 0.3 < shares[1] < 0.4  # half of four of six


def test_the_end_draws_what_is_at_hand_and_refuses_the_rest():
    painter = Noting()
    batcher = Batcher(painter, 4, 8)
    first = held(painter, batcher)
    late = batcher.submit(order("late"))
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while not batcher._closing:
        pass
    with pytest.raises(Busy):
        batcher.submit(order("too late"))
    painter.free.release()
    closing.join(20)
    assert pictures(first) == [0]
    with pytest.raises(Cancelled):
        late.done.result(20)


def test_packs_are_read_once_and_the_last_used_stay(painter):
    told = []
    cache = PackCache(painter, 20, told.append)
    packs = [KeptPack(i, str(i), f"path {i}", 1, 0.0, {}) for i in range(3)]
    found = []
    threads = [threading.Thread(target=lambda: found.append(cache.get(packs[0]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    painter.free.release(10)
    for thread in threads:
        thread.join()
    assert all(each is found[0] for each in found)
    assert painter.batches == ["path 0"]
    cache.get(packs[1])
    cache.get(packs[0])
    cache.get(packs[2])
    assert (len(cache), cache.bytes) == (2, 20)
    assert told[-1] == "evicted"
    cache.get(packs[0])
    assert painter.batches == ["path 0", "path 1", "path 2"]
    cache.forget(0)
    cache.get(packs[0])
    assert painter.batches[-1] == "path 0"


def test_a_pack_that_cannot_be_read_is_tried_again(painter):
    cache = PackCache(painter, 20)
    bad = KeptPack(1, "bad", "bad", 1, 0.0, {})
    painter.free.release(10)
    for _ in range(2):
        with pytest.raises(InputError, match="bad"):
            cache.get(bad)
    assert painter.batches == ["bad", "bad"]
