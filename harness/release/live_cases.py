"""Cases on the version that is live: what it does wrong today, told beside what the new version does.

Every prediction of it costs money, so equal inputs are run once, however many comparisons need the answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.errors import HarnessError
from harness.model_server.client import Outcome
from harness.release.cases import Case, Runs, run_cases
from harness.release.findings import Finding, stops


@dataclass(frozen=True)
class Remembered:
    """Runs predictions on `runs`, equal inputs once: the answer, or the error in its place, is given again."""

    runs: Runs
    _known: dict[str, Outcome | HarnessError] = field(default_factory=dict, init=False, repr=False)

    async def run(self, prediction_id: str, input: Mapping[str, Any], *, timeout_s: float) -> Outcome:
        """Run one prediction, or give the answer that its inputs had before. Raises as `runs` does."""
        key = json.dumps(dict(input), sort_keys=True)
        if key not in self._known:
            try:
                self._known[key] = await self.runs.run(prediction_id, input, timeout_s=timeout_s)
            except HarnessError as error:  # a prediction that was too slow has cost as much as any
                self._known[key] = error
        answer = self._known[key]
        if isinstance(answer, HarnessError):
            raise answer
        return answer


async def run_live_cases(live: Runs, cases: Sequence[Case]) -> list[Finding]:
    """Run cases on the live version; nothing that it does wrong stops a push. The first that has no answer ends it."""
    findings: list[Finding] = []
    for case in cases:
        named = replace(case, name=f"On the live version: {case.name}")
        try:
            findings += await run_cases(live, [named], live, "real")
        except HarnessError as error:
            message = f"{named.name}: there was no answer, so the rest was not run: {error}"
            findings.append(Finding("CASE_NOT_RUN", "warning", str(case.file), message, "Run the gate again later."))
            break
    return [replace(one, severity="warning") if stops(one) else one for one in findings]
