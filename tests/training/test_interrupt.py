import signal
import threading

import pytest

from minidl.training.interrupt import DeferredInterrupt, Interrupted


def test_the_first_asks_and_the_second_insists():
    before = signal.getsignal(signal.SIGINT)
    with DeferredInterrupt() as interrupt:
        assert not interrupt.requested
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_handler_is_put_back_after_a_quiet_block():
    before = signal.getsignal(signal.SIGINT)
    with DeferredInterrupt():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_leaves_the_signals_alone():
    seen = []

    def work():
        with DeferredInterrupt() as interrupt:
            seen.append(interrupt.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_a_script_that_does_not_catch_it_ends_like_any_interrupted_one():
    assert issubclass(Interrupted, KeyboardInterrupt)
