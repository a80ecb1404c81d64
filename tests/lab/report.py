# SPDX-License-Identifier: Apache-2.0
"""report.py - what a lab run prints: a line per scenario, retries, pass rates, and where the logs are."""

import sys
import time


class Report:
    """Collects results. Lines go to stderr when stdout carries JSON."""

    def __init__(self, stream=None):
        self._stream = stream or sys.stdout
        self._results = []
        self._figures = {}
        self.retries = 0

    def line(self, text):
        print(text, file=self._stream, flush=True)

    def note(self, text):
        self.line(f"lab: {text}")

    def figures(self, title, values):
        """Measured values by name: a line, and part of what `json` gives."""
        self._figures[title] = values
        self.note(f"{title}: " + ", ".join(f"{name} {value}" for name, value in values.items()))

    def json(self):
        """What --json prints: each run with its error or null, and the figures."""
        return {"runs": [{"title": title, "error": None if error is None else str(error)} for title, error in self._results],
                "figures": self._figures}

    def retry(self, guest, first_log, second_log):
        self.retries += 1
        self.line(f"lab-retry {guest} first={first_log} second={second_log}")

    def result(self, title, error, seconds):
        """One run of a scenario: `error` is None when it passed."""
        self._results.append((title, error))
        if error is None:
            self.line(f"lab: pass  {title}  {seconds:.0f} s")
        else:
            self.line(f"lab: FAIL  {title}  {seconds:.0f} s: {error}")

    def failed(self):
        return sum(1 for _, error in self._results if error is not None)

    def rates(self):
        """Prints the pass rate of each scenario, for --repeat."""
        titles = list(dict.fromkeys(title for title, _ in self._results))
        for title in titles:
            errors = [error for t, error in self._results if t == title]
            good = sum(1 for error in errors if error is None)
            self.line(f"lab: rate  {title}  {good}/{len(errors)}")

    def summary(self, logs_kept):
        self.line(f"lab: {len(self._results) - self.failed()} passed, {self.failed()} failed, {self.retries} boots repeated")
        if logs_kept:
            self.line(f"lab: logs in {logs_kept}")


class Stopwatch:
    def __init__(self):
        self._begin = time.monotonic()

    def seconds(self):
        return time.monotonic() - self._begin
