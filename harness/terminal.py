"""Progress on stderr: a spinner with the time that has passed, and lines above it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn


class Progress:
    """A spinner while a block runs; without a terminal only the lines appear."""

    def __init__(self, what: str) -> None:
        self._console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._bar = Bar(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(what, total=None)
        self._open_line = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()
        if self._open_line:
            self.say(self._open_line)

    def now(self, what: str) -> None:
        """Show another activity beside the spinner."""
        self._bar.update(self._task, description=what)

    def say(self, line: str) -> None:
        """Print a line above the spinner, exactly as it is."""
        self._console.print(line, markup=False)

    def logs(self, piece: str) -> None:
        """Print the whole lines of a piece of log; the rest waits for the next piece."""
        *lines, self._open_line = (self._open_line + piece).split("\n")
        for line in lines:
            self.say(line)
