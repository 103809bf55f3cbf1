"""Drawing: pictures from words, and from pictures."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response, StreamingResponse
from PIL import Image
from pydantic import ValidationError

from ...errors import InputError
from ...images.image_io import load_image, square
from ...images.record import png_bytes, record_of
from ...rules.drawing import picture_and_hole
from ..drawing.batching import Order
from ..drawing.painter import Edit
from ..service import Service, sentence
from .schemas import BASE, Asked, AskedGeneration, Picture, Pictures, in_events, refusals

router = APIRouter()
_DRAWING = refusals(400, 404, 408, 422, 429, 503) | in_events()


def service_of(request: Request) -> Service:
    """The server's parts."""
    return request.app.state.service


@router.post("/v1/images/generations", response_model=Pictures, response_model_exclude_none=True, responses=_DRAWING)
async def generations(asked: AskedGeneration, request: Request) -> Response | Pictures:
    """Draw pictures with a pack, or with none."""
    return await _answer(asked, None, request)


@router.post("/v1/images/edits", response_model=Pictures, response_model_exclude_none=True, responses=_DRAWING)
async def edits(
    request: Request,
    image: Annotated[UploadFile, File(description="The picture; its centre square is used.")],
    prompt: Annotated[str, Form()],
    mask: Annotated[
        UploadFile | None,
        File(description="What is redrawn: transparent, or white in a picture without transparency; else all is."),
    ] = None,
    strength: Annotated[float, Form(gt=0, le=1, description="Without a mask: the share that is drawn anew.")] = 0.6,
    model: Annotated[str, Form()] = BASE,
    n: Annotated[int, Form()] = 1,
    seed: Annotated[int | None, Form()] = None,
    negative_prompt: Annotated[str, Form()] = "",
    steps: Annotated[int | None, Form()] = None,
    guidance_scale: Annotated[float | None, Form()] = None,
    scheduler: Annotated[str | None, Form()] = None,
    speed: Annotated[str, Form()] = "exact",
    response_format: Annotated[str, Form()] = "b64_json",
    stream: Annotated[bool, Form()] = False,
) -> Response | Pictures:
    """Redraw the part of a picture that a mask names, or all of it anew."""
    given = {
        "prompt": prompt,
        "model": model,
        "n": n,
        "seed": seed,
        "negative_prompt": negative_prompt,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "scheduler": scheduler,
        "speed": speed,
        "response_format": response_format,
        "stream": stream,
    }
    try:
        asked = Asked.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
    service = service_of(request)
    service.batcher.check_room(asked.n)  # before anything large is decoded
    parts = await image.read(), None if mask is None else await mask.read()
    async with service.decoding:
        picture, hole = await run_in_threadpool(_read, *parts, service.painter.resolution)
    return await _answer(asked, Edit(picture, hole, strength), request)


def _read(image: bytes, mask: bytes | None, side: int) -> tuple[Image.Image, Image.Image | None]:
    """The centre square of a picture, and what of it is redrawn in white: all that is kept while a request waits."""
    picture = load_image(image)
    if mask is None:
        return square(picture, side), None
    alpha: list[Image.Image] = []
    hole = load_image(mask, alpha)
    if alpha:
        hole = alpha[0].point(lambda level: 255 - level)
    picture, hole = picture_and_hole(picture, hole.convert("L"), side)
    return picture, hole


async def _answer(asked: Asked, edit: Edit | None, request: Request) -> Response | Pictures:
    service = service_of(request)
    if not asked.stream:
        order, notes = await service.order(asked, edit)
        return await _pictures(service, asked, order, notes, request)
    shares: asyncio.Queue[float] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def told(share: float) -> None:
        loop.call_soon_threadsafe(shares.put_nowait, share)

    order, notes = await service.order(asked, edit, told)
    events = _events(service, asked, order, notes, request, shares)
    return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})


async def _events(
    service: Service, asked: Asked, order: Order, notes: list[str], request: Request, shares: asyncio.Queue[float]
) -> AsyncIterator[str]:
    """Progress as it is told, then the pictures or why there are none."""
    drawn = asyncio.ensure_future(_pictures(service, asked, order, notes, request))
    try:
        while not drawn.done():
            share = asyncio.ensure_future(shares.get())
            await asyncio.wait([drawn, share], return_when=asyncio.FIRST_COMPLETED)
            if share.done():
                yield event("progress", {"share": round(share.result(), 4)})
            share.cancel()
        error = drawn.exception()
        if error is None:
            yield event("completed", drawn.result().model_dump(exclude_none=True))
        else:  # an answer that has begun has no status any more
            yield event("error", {"message": sentence(error)})
    finally:
        order.cancel.set()
        drawn.cancel()


def event(name: str, data: Any) -> str:
    """Return a server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


async def _pictures(service: Service, asked: Asked, order: Order, notes: list[str], request: Request) -> Pictures:
    images = await service.wait(order, request)
    files = [await run_in_threadpool(png_bytes, image) for image in images]
    data: list[Picture] = []
    for row, image, file in zip(order.rows, images, files, strict=True):
        if asked.response_format == "b64_json":
            data.append(Picture(b64_json=base64.b64encode(file).decode(), seed=row.seed))
            continue
        record = record_of(image)
        about = {"model": asked.model, "seed": row.seed, "concepts": [] if record is None else list(record.concepts)}
        kept = await run_in_threadpool(service.library.pictures.put, file, about)
        data.append(Picture(url=str(request.url_for("picture", id=kept.id)), seed=row.seed))
    return Pictures(created=int(time.time()), data=data, notes=notes)


@router.get("/v1/pictures/{id}.png", name="picture", response_class=FileResponse, responses=refusals(404))
async def picture(id: str, request: Request) -> Response:
    """Return a picture that was asked for by address, while it is kept."""
    kept = await run_in_threadpool(service_of(request).library.pictures.get, id)
    return FileResponse(kept.path, media_type="image/png", headers={"cache-control": "private, max-age=3600"})
