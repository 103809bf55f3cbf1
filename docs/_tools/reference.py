"""Reference text made from the code: settings, presets, the command line, the public names of each room.

Usage: python docs/_tools/reference.py [settings|presets|bundled|commands]     prints Markdown
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib import import_module
from importlib.util import resolve_name
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

ROOMS = (
    *("sdk", "sdk.fit", "sdk.sampling", "sdk.masks", "sdk.combine", "sdk.eval", "sdk.comparison", "sdk.exports"),
    *(
        "sdk.deploy",
        "sdk.serve",
        "sdk.studio",
        "sdk.fleet",
        "sdk.client",
        "sdk.library",
        "sdk.model",
        "sdk.kernels",
        "sdk.errors",
        "sdk.runtime",
    ),
)
FIRST = ("Personalizer", "OnnxPersonalizer")  # what a reader of a page wants to see before the rest
PRESETS = ("best", "reference", "paper")  # "code" is "reference" by another name
_TYPES = {int: "integer", float: "number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Setting:
    """One line of a table of settings.

    Attributes:
        name: as a TOML file has it, such as ``disendiff.calibration.sigma``.
        kind: its type in words.
        default: as TOML writes it; ``"not set"`` for none.
        text: what it does.
    """

    name: str
    kind: str
    default: str
    text: str


def settings_of(kind: type, prefix: str = "") -> Iterator[Setting]:
    """Yield every setting of a dataclass; those of a group inside it by the group's name.

    Args:
        kind: the dataclass.
        prefix: the name of its own group and a dot.
    """
    hints = get_type_hints(kind)
    for field in fields(kind):
        if field.name == "method_options":  # the group of the method, which has a table of its own
            continue
        name, hint = prefix + field.name, hints[field.name]
        if isinstance(hint, type) and is_dataclass(hint):
            yield from settings_of(hint, f"{name}.")
            continue
        yield Setting(name, _words_for(hint), toml(_default_of(field)), field.metadata["help"])


def settings_tables() -> str:
    """Return the settings that all methods share, those of masks, and each method's own, a table each."""
    from sdk.masks import MaskOptions
    from sdk.methods import METHODS, method_class
    from sdk.settings import FitSettings

    shared = [s for s in settings_of(FitSettings) if not s.name.startswith("masks.")]
    parts = [
        "### Of every method",
        _settings_table(shared),
        "### Masks",
        _settings_table(settings_of(MaskOptions, "masks.")),
    ]
    for method in METHODS:
        own = list(settings_of(method_class(method).Options, f"{method}."))
        if own:
            parts += [f"### {_title(method)}", _settings_table(own)]
    without = [f"`{name}`" for name in METHODS if not list(settings_of(method_class(name).Options))]
    refused = [
        f"| `{name}` | {', '.join(f'`{setting}`' for setting in sorted(method_class(name).unused))} |"
        for name in METHODS
        if method_class(name).unused
    ]
    parts += [f"No settings of their own: {', '.join(without)}. Refused, because they would have no effect:"]
    parts += ["\n".join(["| method | settings that it does not have |", "|---|---|", *refused])]
    return "\n\n".join(parts)


def presets_tables() -> str:
    """Return, for each method, how its presets differ from the defaults."""
    from sdk.config import FitConfig
    from sdk.methods import METHODS, method_class
    from sdk.settings import FitSettings

    parts = []
    for method in METHODS:
        kinds = ((FitSettings, ""), (method_class(method).Options, f"{method}."))
        defaults = {s.name: s.default for kind, prefix in kinds for s in settings_of(kind, prefix)}
        presets = {name: dict(_flat(FitConfig.preset(name, method).to_dict())) for name in PRESETS}
        names = [n for n, default in defaults.items() if any(toml(p[n]) != default for p in presets.values())]
        parts.append(f"### {_title(method)} {{ #presets-{method} }}")
        if not names:
            parts.append("The defaults.")
            continue
        rows = [f"| setting | default | {' | '.join(f'`{p}`' for p in PRESETS)} |", "|---|---|---|---|---|"]
        for name in names:
            values = [toml(presets[preset][name]) for preset in PRESETS]
            shown = ["" if value == defaults[name] else code(value) for value in values]
            rows.append(f"| `{name}` | {code(defaults[name])} | {' | '.join(shown)} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def bundled_table() -> str:
    """Return the settings that the bundled model brings, with the reasons that stand beside them."""
    from sdk.model import BUNDLED_FOLDER

    file = json.loads((BUNDLED_FOLDER / "defaults.json").read_text(encoding="utf-8"))
    why, given = file["why"], []
    rows = ["| of | setting | value | why |", "|---|---|---|---|"]
    for group, settings in (("`generate`", file["generate"]), ("every method", file["fit"])):
        given += [(group, name, value) for name, value in settings.items()]
    for method, settings in file["methods"].items():
        given += [(f"`{method}`", name, value) for name, value in _flat(settings)]
    for group, name, value in given:
        reason = why.get(name, "") if group in ("`generate`", "every method") or name not in file["fit"] else ""
        rows.append(f"| {group} | `{name}` | {code(_short(toml(value)))} | {cell(reason)} |")
    rows.append(f"\nThe rates of the methods: {cell(why['methods'])}.")
    return "\n".join(rows)


def commands_text() -> str:
    """Return the reference of the command line."""
    from sdk.commands.main import build_parser

    parser = build_parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    purpose = {choice.dest: choice.help for choice in commands._choices_actions}
    rows = ["| command | what it does |", "|---|---|"]
    rows += [f"| [`{name}`](#personalizer-{name}) | {cell(purpose[name] or '')} |" for name in commands.choices]
    parts = ["\n".join(rows)]
    for name, sub in commands.choices.items():
        parts += [f"## personalizer {name}", cell(sub.description or ""), f"```\n{_usage(sub)}\n```"]
        general = [group for group in sub._action_groups if group.title in ("positional arguments", "options")]
        actions = [a for group in general for a in group._group_actions if not isinstance(a, argparse._HelpAction)]
        if actions:
            parts.append(_options_table(actions))
        for group in sub._action_groups:
            if group not in general and group._group_actions:
                parts += [f"With `--format {group.title}`:", _options_table(group._group_actions)]
        if sub.epilog:
            parts.append(f"Example:\n\n```\n{sub.epilog.partition(chr(10))[2].strip()}\n```")
    return "\n\n".join(parts)


def public_names(room: str) -> list[tuple[str, str]]:
    """Return a room's public names with the full path of what each stands for."""
    module = import_module(room)
    homes = getattr(module, "_HOMES", {})
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if inspect.isclass(value) and value.__module__ == room
    ]
    found = []
    for name in sorted(names, key=lambda name: name not in FIRST):
        if name in homes:
            found.append((name, f"{resolve_name(homes[name], room)}.{name}"))
        elif not name.startswith("__"):
            found.append((name, f"{getattr(getattr(module, name), '__module__', room)}.{name}"))
    return found


def api_pages() -> dict[str, str]:
    """Return the pages of the API reference by file name; what two rooms offer is described in the first."""
    pages, described = {}, {}
    for room in ROOMS:
        page = f"{room.removeprefix('sdk.')}.md"
        lines = [f"# {room}", (inspect.getdoc(import_module(room)) or "").split("\n\n")[0].split("\n\n>>>")[0]]
        elsewhere = []
        for name, path in public_names(room):
            if path in described:
                elsewhere.append(f"[`{name}`][{path}] ({described[path]})")
                continue
            described[path] = room
            lines.append(f"::: {path}")
        if room == "sdk.exports":  # a format is a module; what it is asked to do is its `export`
            for file in import_module(room).FORMATS.values():
                lines.append(f"::: {room}.{file}.export\n    options:\n      show_root_full_path: true")
        if elsewhere:
            lines.insert(2, f"Described elsewhere: {', '.join(elsewhere)}.")
        pages[page] = "\n\n".join(lines) + "\n"
    return pages


def toml(value: Any) -> str:
    """Return a value as TOML writes it; ``"not set"`` for none, which TOML cannot write."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value) if len(repr(value)) < 10 else f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(toml(each) for each in value)}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def cell(text: str) -> str:
    """Return text for a cell of a Markdown table: no pipes, no line breaks, no roles, no tags outside of code."""
    text = re.sub(r":\w+:(?=`)", "", text)
    pieces = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(p if p.startswith("`") else re.sub(r"<", "&lt;", p) for p in pieces).replace("|", "\\|")


def code(text: str) -> str:
    """Return a value as code; "not set" stays prose."""
    return text if text == "not set" else f"`{text}`".replace("|", "\\|")


def _settings_table(settings: Iterable[Setting]) -> str:
    rows = ["| setting | type | default | what it is |", "|---|---|---|---|"]
    rows += [f"| `{s.name}` | {s.kind} | {code(s.default)} | {cell(s.text)} |" for s in settings]
    return "\n".join(rows)


def _options_table(actions: Iterable[argparse.Action]) -> str:
    rows = ["| option | default | what it is |", "|---|---|---|"]
    for action in actions:
        name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        if action.option_strings and action.nargs != 0:
            name += f" {action.metavar or action.dest.upper()}" if not action.choices else ""
        notes = [cell(action.help)] if action.help else []
        if action.choices:
            notes.append(f"one of {', '.join(f'`{choice}`' for choice in action.choices)}")
        if not action.option_strings or action.required:
            default = "required"
        else:
            default = "" if action.default is None or action.nargs == 0 else code(str(action.default))
        rows.append(f"| `{name}` | {default} | {'; '.join(notes)} |")
    return "\n".join(rows)


def _usage(parser: argparse.ArgumentParser) -> str:
    """The usage line, the same whatever terminal the build runs in."""
    formatter = argparse.HelpFormatter(parser.prog, width=88)
    actions = [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]
    formatter.add_usage(parser.usage, actions, parser._mutually_exclusive_groups, prefix="")
    return formatter.format_help().strip()


def _default_of(field: dataclasses.Field) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _words_for(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return _words_for(next(kind for kind in get_args(hint) if kind is not NoneType))
    if get_origin(hint) is tuple:
        return "list of text" if get_args(hint)[0] is str else "list"
    return _TYPES.get(hint, getattr(hint, "__name__", str(hint)))


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _title(method: str) -> str:
    from sdk.methods import METHODS

    written = {"CustomDiffusion": "Custom Diffusion", "TextualInversion": "Textual Inversion"}
    written |= {"BreakAScene": "Break-A-Scene"}
    return written.get(METHODS[method], METHODS[method])


def _short(text: str) -> str:
    return text if len(text) < 60 else f"{text[:56]}...]"


GENERATED: dict[str, Callable[[], str]] = {
    "settings": settings_tables,
    "presets": presets_tables,
    "bundled": bundled_table,
    "commands": commands_text,
}

if __name__ == "__main__":
    import sdk

    sdk.quiet()
    for wanted in sys.argv[1:] or GENERATED:
        print(GENERATED[wanted]())
