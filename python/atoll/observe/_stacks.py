"""Stacks of stuck threads, for the native half of the monitor: asked for by it, answered by whoever gets the GIL.

A monitor has a thread that answers. Where it does not get the GIL, the native half sends a signal instead.
"""

import sys
import threading
from typing import TYPE_CHECKING, Final

from atoll._core import answer_stack_question, begin_stack_answers, end_stack_answers, wait_stack_question

if TYPE_CHECKING:
    from types import FrameType

_MOST_FRAMES: Final = 100


class StackThread:
    """Answers questions for stacks on a thread of its own, from `start()` to `stop()`."""

    def start(self) -> None:
        """Starts it; raises what keeps a thread from starting."""
        self._answerer = begin_stack_answers()
        self._thread = threading.Thread(target=_answer, args=(self._answerer,), name="atoll-stacks", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            end_stack_answers(self._answerer)
            raise

    def stop(self) -> None:
        """Ends it and waits for that. Not on the thread itself."""
        end_stack_answers(self._answerer)
        self._thread.join()


def _answer(answerer: int) -> None:
    while (question := wait_stack_question(answerer)) is not None:
        number, thread = question
        answer_stack_question(number, _stack(thread))


def _stack(native_id: int) -> str:
    """The stack of a thread as faulthandler writes it, the innermost frame first; empty when there is none."""
    found = next((thread.ident for thread in threading.enumerate() if thread.native_id == native_id), None)
    frame: FrameType | None = None if found is None else sys._current_frames().get(found)  # noqa: SLF001 - meant for this
    lines: list[str] = []
    while frame is not None and len(lines) < _MOST_FRAMES:
        code = frame.f_code
        lines.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}\n')
        frame = frame.f_back
    return "".join(lines)
