"""scan: whatever schemathesis asks the service, the answer is one that its OpenAPI document names."""

from __future__ import annotations

import pytest

from tests.scan.scan import Plan, scan


@pytest.mark.slow
@pytest.mark.parametrize(("who", "cases"), [("anybody", 900), ("holder", 900), ("stranger", 300)])
def test_no_question_gets_an_undocumented_answer(who: str, cases: int) -> None:
    """Valid and invalid requests to every operation, with all checks: no 5xx, no surprise, nothing internal."""
    verdict = scan(Plan(seed=20261124, cases=cases, examples=40, who=who))
    assert verdict.is_good, str(verdict)
    assert verdict.cases >= cases
