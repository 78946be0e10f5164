"""Who holds which row, and the rows of one step as cells."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from smartscale.ml.anomaly import evidence
from smartscale.ml.series import cells, table
from smartscale.ml.series.register import NOBODY, NOTHING, Register
from smartscale.ml.series.rows import Row

KEYS = st.tuples(st.just("t"), st.sampled_from("abcd"), st.sampled_from(["rate", "arrivals"]))


@given(st.lists(st.one_of(KEYS, st.integers(0, 3))))
def test_rows_stay_with_their_holder_and_are_used_again(moves: list[tuple[str, str, str] | int]) -> None:
    """Series enrol, services are forgotten: rows never move or are shared, and a rebuilt register is the same."""
    who = Register()
    held: dict[tuple[str, str, str], int] = {}
    for move in moves:
        if isinstance(move, tuple):
            row = who.row(move)
            assert held.setdefault(move, row) == row
        elif move < len(who.services) and who.services[move] != NOBODY:
            name = who.services[move]
            freed = who.forget(move)
            assert sorted(freed) == sorted(row for key, row in held.items() if key[:2] == name)
            held = {key: row for key, row in held.items() if key[:2] != name}
    for each in (who, Register(who.services, who.series)):
        assert {key: row for row, key in each.known()} == held
        assert [k for k in each.series if k != NOTHING] == [k for _, k in each.known()]
        for (tenant, service, series), row in held.items():
            place = each.place((tenant, service))
            assert place is not None
            assert each.owners[row] == place
            assert each.rows_of(series)[place] == row
        assert (
            (each.owners >= 0).sum()
            == len(held)
            == sum((each.rows_of(s) >= 0).sum() for s in ("rate", "arrivals"))
        )
    assert who.row(("t", "new", "rate")) == Register(who.services, who.series).row(("t", "new", "rate"))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3), st.booleans()), max_size=30))
def test_cells_keep_the_highest_revision_in_any_order(rows: list[tuple[int, int, bool]]) -> None:
    """Cells grow to hold any place; a place without a row is NaN."""
    kept, expected = cells.fresh(0), dict[int, tuple[int, bool]]()
    for number, (place, revision, final) in enumerate(rows):
        value = float(number)
        row = Row("t", "s", "interaction", "*", "10s", 0, 10_000_000, 5, 0, value, revision, final, True)
        kept = cells.put(kept, place, row)
        if (revision, final) >= expected.get(place, (-1, False)):
            expected[place] = (revision, final)
    shown = cells.fit(kept, 41)
    assert len(shown) == 41
    assert {int(i): (int(r) // 2, bool(r % 2)) for i, r in enumerate(shown["rank"]) if r >= 0} == expected
    assert np.isnan(shown["value"]).sum() == 41 - len(expected)


def test_a_table_that_grows_keeps_its_rows_whether_it_is_looked_at_or_not() -> None:
    """In place if nothing else refers to it, else as a copy."""
    state = evidence.fresh(2)
    state.errors[:] = 7.0
    looked_at = state.latency
    table.join(state, evidence.fresh(3))
    assert state.errors[:2].tolist() == [[7.0, 7.0]] * 2
    assert state.errors.shape == (5, 2)
    assert looked_at.shape == (2, 2, 2)
    assert state.latency.shape == (5, 2, 2)
    part = table.part(state, slice(1, 4))
    part.errors[:] = 1.0
    part.seen = part.seen + 9
    table.put_back(state, slice(1, 4), part)
    assert state.seen.tolist() == [0, 9, 9, 9, 0]
    assert state.errors[:, 0].tolist() == [7.0, 1.0, 1.0, 1.0, 0.0]
