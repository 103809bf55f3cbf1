"""A client of ``personalizer serve``: the same keywords as a model on this machine, neither torch nor ONNX Runtime.

>>> from sdk.client import Client
>>> client = Client("http://127.0.0.1:8000")
>>> client.add_pack("pets", "deployed/pets.onnx_adapter")
>>> client.generate("a <new1> cat on the beach", concepts="pets", seed=0).save("out")
"""

from __future__ import annotations

import base64
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from .disk.reading import as_path
from .errors import InputError, MissingFileError, SdkError
from .images.image_io import load_image, load_mask, png
from .images.record import read_png
from .rules.arguments import text
from .rules.drawing import Generation
from .runtime import Event

__all__ = ["Client", "ServerError"]

_DRAW, _EDIT, _MODELS = "/v1/images/generations", "/v1/images/edits", "/v1/models"
_PARTS = 1000  # of a request's progress


class ServerError(SdkError):
    """The server cannot be reached, or refuses whoever asks."""


class Client:
    """Asks a server. One client may be used by several threads; it is a context manager, or :meth:`close` it.

    Args:
        url: where the server is.
        token: one of its tokens, if it has some.
        timeout: seconds that a request may take; a server that is busy is asked again until then.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", token: str | None = None, timeout: float = 600.0) -> None:
        if not _is_address(url):
            raise InputError(f"{url!r} is no address of a server; give one such as http://127.0.0.1:8000")
        if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
            raise InputError("a token has letters and digits alone; give one of the server's")
        headers = {} if token is None else {"authorization": f"Bearer {token.strip()}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        self._timeout = timeout

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *of: Any) -> None:
        self.close()

    def packs(self) -> dict[str, list[str]]:
        """Return the names of the server's packs, and how prompts call what each has learned."""
        listed = self._asked("GET", _MODELS).json()["data"]
        packs = [each for each in listed if each["id"] != "base"]
        return {each["id"]: [f"{c['token']} {c['noun']}" for c in each["concepts"]] for each in packs}

    def add_pack(self, name: str, path: str | Path) -> None:
        """Send a pack, instead of the server's one of this name.

        Args:
            name: 1 to 64 letters, digits, ``-`` and ``_``.
            path: an ``.onnx_adapter`` file, or, for a server with torch, a pack's folder.

        Raises:
            MissingFileError: there is nothing.
            InputError: a pack that the server refuses.
        """
        source = as_path(path, "pack")
        if not source.exists():
            raise MissingFileError(f"there is no pack at {source}; check the path")
        content = _zipped(source) if source.is_dir() else source.read_bytes()
        self._asked("PUT", f"{_MODELS}/{quote(str(name), safe='')}", content=content)

    def remove_pack(self, name: str) -> None:
        """Have a pack removed.

        Raises:
            MissingFileError: none of this name.
        """
        self._asked("DELETE", f"{_MODELS}/{quote(str(name), safe='')}")

    def generate(
        self,
        prompt: str,
        *,
        concepts: str | None = None,
        num_images: int = 1,
        seed: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        scheduler: str | None = None,
        speed: str = "exact",
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        progress: Callable[[Event], Any] | None = None,
    ) -> Generation:
        """Draw pictures; arguments as in :meth:`sdk.Personalizer.generate`, the pack by its name.

        Raises:
            InputError: what the server cannot draw.
            MissingFileError: it has no such pack.
            ServerError: it cannot be reached, refuses this client, or had no time.
        """
        if (height is None) != (width is None):
            raise InputError("give both height and width, or neither")
        asked = {
            "prompt": text(prompt, "prompt"),
            "model": concepts,
            "n": num_images,
            "seed": seed,
            "steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "scheduler": scheduler,
            "speed": speed,
            "negative_prompt": negative_prompt,
            "size": None if height is None else f"{width}x{height}",
        }
        asked = {name: value for name, value in asked.items() if value is not None}
        if progress is None:
            return _generation(self._asked("POST", _DRAW, **_json(asked)).json())
        return self._followed(_json(asked | {"stream": True}), progress)

    def img2img(self, image: Any, prompt: str, *, strength: float = 0.6, **options: Any) -> Generation:
        """Draw a picture anew; ``options`` as in :meth:`generate`, without sizes and progress."""
        return self._edited({"image": png(load_image(image))}, prompt, {"strength": strength}, options)

    def inpaint(self, image: Any, mask: Any, prompt: str, **options: Any) -> Generation:
        """Redraw the white part of a mask; ``options`` as in :meth:`generate`, without sizes and progress."""
        files = {"image": png(load_image(image)), "mask": png(load_mask(mask).convert("L"))}
        return self._edited(files, prompt, {}, options)

    def _edited(
        self, files: dict[str, bytes], prompt: str, more: dict[str, Any], options: dict[str, Any]
    ) -> Generation:
        names = {"concepts": "model", "num_images": "n", "num_inference_steps": "steps"}
        known = {*names, "seed", "guidance_scale", "scheduler", "speed", "negative_prompt"}
        unknown = sorted(options.keys() - known)
        if unknown:
            raise InputError(f"there is no argument {unknown[0]!r}; there are {', '.join(sorted(known))}")
        given = {names.get(name, name): str(value) for name, value in options.items() if value is not None}
        data = {"prompt": text(prompt, "prompt"), **{name: str(value) for name, value in more.items()}, **given}
        return _generation(self._asked("POST", _EDIT, data=data, files=files).json())

    def _asked(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Ask until the server has room, at most for the client's time."""
        until = time.monotonic() + self._timeout
        while True:
            try:
                answer = self._http.request(method, path, **content)
            except httpx.HTTPError as error:
                raise _unreachable(self._http.base_url, error) from error
            wait = _seconds(answer)
            if answer.status_code != 429 or time.monotonic() + wait > until:
                return _checked(answer)
            time.sleep(wait)

    def _followed(self, content: dict[str, Any], progress: Callable[[Event], Any]) -> Generation:
        """Ask for events, and tell of progress."""
        until = time.monotonic() + self._timeout
        while True:
            try:
                with self._http.stream("POST", _DRAW, **content) as answer:
                    if answer.status_code == 200:
                        return _generation(_last(_events(answer), progress))
                    answer.read()
            except httpx.HTTPError as error:
                raise _unreachable(self._http.base_url, error) from error
            wait = _seconds(answer)
            if answer.status_code != 429 or time.monotonic() + wait > until:
                _checked(answer)
            time.sleep(wait)


def _json(asked: dict[str, Any]) -> dict[str, Any]:
    """What httpx is given for a request in JSON; numbers of numpy are numbers."""
    try:
        content = json.dumps(asked, default=lambda value: value.item(), allow_nan=False).encode()
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"what is asked cannot be sent ({error}); give texts and numbers") from error
    return {"content": content, "headers": {"content-type": "application/json"}}


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _unreachable(url: object, error: httpx.HTTPError) -> ServerError:
    if isinstance(error, httpx.TimeoutException):
        return ServerError(f"the server at {url} took too long; ask for less, or give a larger timeout")
    return ServerError(f"the server at {url} cannot be reached ({error or type(error).__name__}); is it running?")


def _seconds(answer: httpx.Response) -> float:
    try:
        return min(max(float(answer.headers.get("retry-after", 1)), 0.1), 60.0)
    except ValueError:
        return 1.0


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.status_code == 200:
        return answer
    try:
        said = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = f"the server answers with status {answer.status_code}; is it personalizer's?"
    kinds = {400: InputError, 404: MissingFileError, 413: InputError, 422: InputError}
    raise kinds.get(answer.status_code, ServerError)(said)


def _events(answer: httpx.Response) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


def _last(events: Iterator[tuple[str, Any]], progress: Callable[[Event], Any]) -> Any:
    for name, data in events:
        if name == "progress":
            progress(Event("draw", round(data["share"] * _PARTS), _PARTS))
        elif name == "completed":
            return data
        else:
            raise ServerError(data.get("message", "the server gave up"))
    raise ServerError("the server ended before the pictures were drawn; ask again")


def _generation(said: Any) -> Generation:
    try:
        images = [read_png(base64.b64decode(each["b64_json"])) for each in said["data"]]
        return Generation(images, [str(note) for note in said["notes"]])
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError("the server answers in another way; update the client or the server") from error


def _zipped(folder: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(folder.iterdir()):
            if file.is_file():
                archive.write(file, file.name)
    return packed.getvalue()
