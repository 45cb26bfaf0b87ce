"""What follows from the bus's contract alone."""

from protocol.bus import ShortLog


def test_a_log_that_seems_short_is_asked_again_for_a_while() -> None:
    """Only when it has ended too early for as long as that, without a break, is it another log."""
    short = ShortLog(30.0)

    assert short.may_pass(last=4, position=5, now=100.0)
    assert short.may_pass(last=4, position=5, now=129.9)
    assert not short.may_pass(last=4, position=5, now=130.0)


def test_a_log_that_was_long_enough_meanwhile_gets_its_while_anew() -> None:
    """A server that stands still again is given the same time again."""
    short = ShortLog(30.0)

    assert short.may_pass(last=4, position=5, now=100.0)
    assert not short.may_pass(last=5, position=5, now=120.0)
    assert short.may_pass(last=4, position=5, now=140.0)
