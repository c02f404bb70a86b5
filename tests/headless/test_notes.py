"""Warnings of one piece of work."""

from __future__ import annotations

import logging
import threading

from inkstone.headless.notes import MOST, noted, repeat

log = logging.getLogger("inkstone.sampling.anything")


def test_each_thread_and_block_has_its_own():
    with noted() as outer:
        log.warning("one %d", 1)
        with noted() as inner:
            log.warning("two")
            log.warning("two")
            log.info("not this")
            log.error("nor this")
            other = threading.Thread(target=log.warning, args=("elsewhere",))
            other.start()
            other.join()
        with noted() as empty:
            pass
        log.warning("three")
    log.warning("after")
    assert (outer, inner, empty) == (["one 1", "two", "three"], ["two"], [])


def test_they_are_bounded():
    with noted() as notes:
        for k in range(2 * MOST):
            log.warning("%d", k)
        repeat(["x"] * 5)
    assert notes == [str(k) for k in range(MOST)]
