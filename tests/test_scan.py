"""scan: whatever schemathesis asks the service, the answer is one that its OpenAPI document names."""

from __future__ import annotations

import pytest

from tests.scan.scan import Plan, scan


@pytest.mark.slow
def test_no_question_gets_an_undocumented_answer() -> None:
    """Valid and invalid requests to every operation, with all checks: no 5xx, no surprise, nothing internal."""
    verdict = scan(Plan(seed=20261124, cases=1500, examples=80))
    assert verdict.is_good, str(verdict)
    assert verdict.cases >= 1500
