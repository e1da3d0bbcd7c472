"""The report of a run of the load generator."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

OK = 200


@dataclass(slots=True)
class Response:
    """One response: when its request was due (time.monotonic), its latency from then, status and body."""

    due: float
    latency_s: float
    status: int
    body: bytes  # empty unless responses are kept


@dataclass(slots=True)
class LoadReport:
    """Statuses, errors and the generator's CPU time are of the whole run, the other metrics exclude the warm-up."""

    callers: int
    rate: float | None  # requested; None: closed loop
    seconds: float
    answers: int
    per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    statuses: dict[int, int]
    errors: dict[str, int]  # requests without a response, and failed connections, by reason
    unsent: int  # open loop: due, but no caller was free to send them
    cpu_us: float  # of the generator, per request
    cpu_share: float  # of the machine, taken by the generator
    kept: list[Response]

    @classmethod
    def of(
        cls,
        answers: Sequence[Response],
        *,
        window: tuple[float, float],
        callers: int,
        rate: float | None,
        statuses: Mapping[int, int],
        errors: Mapping[str, int],
        unsent: int,
        cpu_us: float,
        cpu_share: float,
        keep: bool,
    ) -> Self:
        """Throughput of responses received in the window; latency of requests due in it, however late their response.

        Latencies of received responses alone would hide the longest waits.
        """
        begin, end = window
        counted = sum(begin <= answer.due + answer.latency_s < end for answer in answers)
        waits = sorted(answer.latency_s for answer in answers if begin <= answer.due < end)
        return cls(
            callers=callers,
            rate=rate,
            seconds=end - begin,
            answers=counted,
            per_s=counted / (end - begin),
            p50_ms=1000 * quantile(waits, 0.5),
            p90_ms=1000 * quantile(waits, 0.9),
            p99_ms=1000 * quantile(waits, 0.99),
            statuses=dict(statuses),
            errors=dict(errors),
            unsent=unsent,
            cpu_us=cpu_us,
            cpu_share=cpu_share,
            kept=list(answers) if keep else [],
        )

    @property
    def ok(self) -> bool:
        """Whether there were requests, and every response was 200."""
        return set(self.statuses) == {OK} and not self.errors

    def figures(self) -> dict[str, Any]:
        """For JSON: everything but the responses."""
        return {name: value for name, value in asdict(self).items() if name != "kept"}

    def as_text(self) -> str:
        """Three lines."""
        wrong = "" if self.ok else f"\nFAILED: statuses {self.statuses}, errors {self.errors}"
        missed = f", {self.unsent} due but not sent" if self.unsent else ""
        return (
            f"{self.per_s:.1f} requests/s from {self.callers} callers, {self.answers} answers in {self.seconds:g} s"
            f"{missed}\np50 {self.p50_ms:.1f} ms, p90 {self.p90_ms:.1f} ms, p99 {self.p99_ms:.1f} ms\n"
            f"the generator took {self.cpu_us:.0f} µs a request, {self.cpu_share:.1%} of the machine{wrong}"
        )

    def write_responses(self, path: Path) -> None:
        """Write the responses as JSON Lines, in order of arrival."""
        with path.open("w", encoding="utf-8") as file:
            for answer in self.kept:
                line = {"due": answer.due, "latency_s": answer.latency_s, "status": answer.status}
                file.write(json.dumps(line | {"body": answer.body.decode(errors="replace")}) + "\n")


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that this share of the values does not exceed; NaN if there are none."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else math.nan
