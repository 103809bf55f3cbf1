"""Docstrings name other objects by Sphinx roles; the API reference shows them as links."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Turn ``:class:`Name``` into a link to where the object is described, or into code where it is not."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrite every docstring of a package that was just read."""
        _rewrite(pkg, set())


def _rewrite(found: griffe.Object, seen: set[str]) -> None:
    if found.path in seen:
        return
    seen.add(found.path)
    if found.docstring is not None:
        found.docstring.value = _ROLE.sub(lambda match: _link(found, match[1]), found.docstring.value)
    for member in found.members.values():
        if not member.is_alias:
            _rewrite(member, seen)


def _link(scope: griffe.Object, name: str) -> str:
    """A link that stays plain text if nothing on the site describes its target."""
    try:
        path = name if name.startswith("sdk") else scope.resolve(name)
    except griffe.NameResolutionError:
        return f"`{name}`"
    shown = name.removeprefix("sdk.").rpartition(".")[2] if name.startswith("sdk.") else name
    return f'<autoref identifier="{path}" optional><code>{shown}</code></autoref>'
