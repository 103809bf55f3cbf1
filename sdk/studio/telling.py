"""What handlers tell: errors as one sentence in a box of the page; text of users and files as text, never as markup."""

from __future__ import annotations

import html
import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import gradio as gr

from ..errors import SdkError
from ..printable import printable
from ..runtime import Cancelled


def text(value: object, longest: int = 2000) -> str:
    """Return any text as it may stand in a page."""
    return html.escape(printable(str(value), longest))


def problem(error: BaseException) -> gr.Error:
    """Return an error as the page shows it."""
    return gr.Error(text(error), title="That did not work", print_exception=False)


def told(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Let a handler's errors that users can do something about be told; any other is a mistake and logged."""
    if inspect.isgeneratorfunction(handler):

        @wraps(handler)
        def stepping(*given: Any, **named: Any) -> Any:
            try:
                yield from handler(*given, **named)
            except (SdkError, Cancelled) as error:
                raise problem(error) from error

        return stepping

    @wraps(handler)
    def once(*given: Any, **named: Any) -> Any:
        try:
            return handler(*given, **named)
        except (SdkError, Cancelled) as error:
            raise problem(error) from error

    return once


def notes(lines: Sequence[str], kind: str = "note") -> str:
    """Return notes as a box; nothing where there are none."""
    if not lines:
        return ""
    return f'<div class="{kind}" role="status">' + "".join(f"<p>{text(line)}</p>" for line in lines) + "</div>"


def bar(label: str, share: float, beside: str = "") -> str:
    """Return a bar of progress with words, which screen readers read, too."""
    percent = round(100 * min(max(share, 0.0), 1.0))
    return (
        f'<div class="course"><p><strong>{text(label)}</strong> <span>{percent} %{text(beside)}</span></p>'
        f'<progress max="100" value="{percent}" aria-label="{text(label)}"></progress></div>'
    )


def duration(seconds: float) -> str:
    """Return a time for people: ``about 2 minutes``."""
    if seconds < 90:
        whole = max(1, round(seconds))
        return f"about {whole} second{'s' if whole > 1 else ''}"
    minutes = seconds / 60
    return f"about {round(minutes)} minutes" if minutes < 90 else f"about {minutes / 60:.1f} hours"
