"""Errors a user can cause. Each message is one sentence that says what to do."""

from __future__ import annotations

from .printable import printable

__all__ = [
    "BaseModelError",
    "ImageError",
    "InputError",
    "MissingFileError",
    "NotFiniteError",
    "OutputError",
    "PackError",
    "SdkError",
]


class SdkError(Exception):
    """Base of all errors below; the command line turns it into exit code 2 and one line.

    Messages may hold words of a user or of a file: they are made printable, in one line of bounded length.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(message))


class InputError(SdkError, ValueError):
    """An argument that cannot work: a prompt, a concept, a picture, a configuration."""


class ImageError(InputError):
    """A file that is not a usable picture."""


class MissingFileError(SdkError, FileNotFoundError):
    """A file or folder that should be there and is not."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class PackError(InputError):
    """A pack that is damaged, incomplete or of an unknown format."""


class BaseModelError(InputError):
    """A base model that cannot be loaded, or a pack of another base model."""


class OutputError(SdkError, OSError):
    """A result that could not be written."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class NotFiniteError(SdkError, ArithmeticError):
    """A value that is NaN or infinite where a number is needed: a fit that diverged, a model that overflows."""
