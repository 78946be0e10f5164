"""Windows and panes are formulas over the epoch."""

from hypothesis import given
from hypothesis import strategies as st

from smartscale.stream.windows import Window, pane_us, windows_of

INSTANTS = st.integers(-(10**15), 10**16)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    slide = draw(st.integers(1, 10**6))
    return Window(slide * draw(st.integers(1, 20)) + draw(st.integers(0, slide - 1)), slide)


def test_a_tumbling_window_holds_each_instant_once() -> None:
    """
    ::

        time   0         10        20
        w0     [---------)
        w1               [---------)
        t=9           ^            in w0 alone
        t=10             ^         in w1 alone: the end is open
    """
    tumbling = Window(10, 10)
    assert list(tumbling.ends_containing(9)) == [10]
    assert list(tumbling.ends_containing(10)) == [20]


def test_a_sliding_window_holds_each_instant_size_over_slide_times() -> None:
    """
    ::

        time  -5   0   5   10  15  20
        w0    [-----------)
        w1        [-----------)
        w2            [-----------)
        t=7             ^          in w0, w1 and w2
    """
    assert list(Window(15, 5).ends_containing(7)) == [10, 15, 20]


def test_a_slide_that_does_not_divide_the_size_gives_some_instants_one_window_more() -> None:
    """
    ::

        time   0 1 2 3 4 5 6 7
        w0     [---------)
        w1         [---------)
        w2             [---------)
        t=4            ^           in w0, w1 and w2;  t=3 in w0 and w1
    """
    uneven = Window(5, 2)
    assert list(uneven.ends_containing(4)) == [5, 7, 9]
    assert list(uneven.ends_containing(3)) == [5, 7]


def test_windows_are_aligned_before_the_origin_too() -> None:
    """Nothing special happens at the epoch: -1 is in [-10, 0)."""
    assert list(Window(10, 10).ends_containing(-1)) == [0]
    assert list(Window(10, 10).ends_containing(-10)) == [0]
    assert list(Window(10, 5).ends_containing(-1)) == [0, 5]


@given(windows(), INSTANTS)
def test_an_instant_is_in_exactly_the_windows_that_contain_it(window: Window, instant: int) -> None:
    """The formula against a look at every window near the instant."""
    k = instant // window.slide_us
    near = range(k - window.size_us // window.slide_us - 2, k + 3)
    ends = [
        i * window.slide_us + window.size_us
        for i in near
        if 0 <= instant - i * window.slide_us < window.size_us
    ]
    assert list(window.ends_containing(instant)) == ends


@given(windows(), INSTANTS)
def test_the_first_end_after_an_instant_is_the_least_one(window: Window, instant: int) -> None:
    """It is an end, it is after the instant, and the one before it is not."""
    end = window.first_end_after(instant)
    assert (end - window.size_us) % window.slide_us == 0
    assert end - window.slide_us <= instant < end


@given(st.lists(windows(), min_size=1, max_size=4), INSTANTS)
def test_a_pane_is_in_a_window_wholly_or_not_at_all(kinds: list[Window], instant: int) -> None:
    """The first and the last microsecond of a pane are in the same windows."""
    pane = pane_us(kinds)
    start = instant // pane * pane
    for window in kinds:
        assert list(window.ends_containing(start)) == list(window.ends_containing(start + pane - 1))


def test_the_shortest_tumbling_window_comes_first_and_none_twice() -> None:
    """The first one is the base that the ledger goes by; a sliding window of full slide is the tumbling one."""
    kinds = windows_of([60.0, 10.0], [[60.0, 60.0], [60.0, 5.0]])
    assert [window.label for window in kinds] == ["10s", "60s", "60s/5s"]
    assert pane_us(kinds) == 5_000_000
