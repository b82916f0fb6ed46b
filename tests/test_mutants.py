"""mutants: each rule that exactness rests on has a break, and a test that catches it."""

from __future__ import annotations

import pytest

from tests.mutants import MUTANTS, Mutant, judge, places


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_each_break_is_of_text_that_is_there(mutant: Mutant) -> None:
    """A mutant that changes nothing, or two places at once, shows nothing: keep tests/mutants.py in step."""
    assert places(mutant) == 1


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_each_break_is_caught(mutant: Mutant) -> None:
    """The tests that a mutant names fail on it."""
    assert judge(mutant).word.startswith("caught")
