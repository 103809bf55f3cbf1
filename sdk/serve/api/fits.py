"""Fits: a photo and nouns come in, a pack is there when they are done. Where torch draws."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, File, Form, Path, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from ...disk.file_names import check_name
from ...disk.reading import parse_json
from ...errors import InputError
from ...images.image_io import load_image, load_mask
from ...library import Job
from ...rights import stated_rights
from ...rules.drawing import check_seed
from ..drawing.batching import Busy
from .images import event, service_of
from .schemas import BASE, FitStatus, FitStatuses, in_events, refusals

if TYPE_CHECKING:  # it has torch
    from ..fitting import Fitter

router = APIRouter(prefix="/v1/fits")
Number = Annotated[int, Path(ge=1, lt=2**63)]
_FIT = 60.0  # seconds after which a full line of fits is worth another try
_LOOKS = 0.25  # seconds between two looks at how far a fit has come


def _fitter(request: Request) -> Fitter:
    fitter = service_of(request).fitter
    if fitter is None:
        raise InputError("this server draws with an exported folder and cannot fit; start one with a model for torch")
    return fitter


def _status(job: Job, fitter: Fitter) -> FitStatus:
    course = fitter.course(job.id)
    now = course.event
    return FitStatus(
        id=job.id,
        created=int(job.created),
        status=job.status,
        name=job.asked["name"],
        concepts=job.asked["concepts"],
        method=job.asked["method"],
        message=job.message,
        phase=now.phase if job.status == "running" else "",
        done=now.done,
        total=now.total,
        seconds_left=now.seconds_left,
        losses=course.losses[-1][1] if course.losses else {},
    )


@router.post("", status_code=202, responses=refusals(400, 429, 503))
async def fit(
    request: Request,
    image: Annotated[UploadFile, File(description="The picture; its centre square is used.")],
    concepts: Annotated[str, Form(max_length=1000, description="Nouns, by commas: `cat, dog`.")],
    name: Annotated[str, Form(max_length=64, description="Of the pack.")],
    masks: Annotated[
        list[UploadFile] | None, File(description="White where each concept is; else they are found.")
    ] = None,
    method: Annotated[str, Form(max_length=64)] = "disendiff",
    preset: Annotated[str, Form(max_length=64)] = "best",
    settings: Annotated[str, Form(max_length=20_000, description="Further settings as a JSON object.")] = "{}",
    seed: Annotated[int, Form()] = 0,
    licence: Annotated[str | None, Form(max_length=1000)] = None,
    consent: Annotated[str | None, Form(max_length=1000)] = None,
) -> FitStatus:
    """Ask for a fit. It is kept: it goes on after any end of the server."""
    fitter = _fitter(request)
    if name == BASE:
        raise InputError(f"{BASE} is the base model; choose another name")
    further: Any = parse_json(settings.encode(), "settings", advice="send a JSON object")
    if not isinstance(further, dict):
        raise InputError('settings must be a JSON object, such as {"steps": 100}')
    asked: dict[str, Any] = {
        "name": check_name(name),
        "concepts": [noun.strip() for noun in concepts.split(",") if noun.strip()],
        "method": method,
        "preset": preset,
        "settings": further,
        "seed": check_seed(seed),
        **stated_rights(licence, consent),
    }
    service = service_of(request)
    if await run_in_threadpool(fitter.library.jobs.waiting) >= service.limits.fits:
        raise Busy(_FIT)
    async with service.decoding:
        photo = await run_in_threadpool(load_image, await image.read())
        parts = [await run_in_threadpool(load_mask, await mask.read()) for mask in masks or []]
        job = await run_in_threadpool(fitter.add, asked, photo, parts or None)
    return _status(job, fitter)


@router.get("", responses=refusals(400))
async def fits(request: Request) -> FitStatuses:
    """List the fits, the last one first."""
    fitter = _fitter(request)
    jobs = await run_in_threadpool(fitter.library.jobs.all)
    return FitStatuses(data=[_status(job, fitter) for job in jobs])


@router.get("/{id}", responses=refusals(400, 404))
async def one(id: Number, request: Request) -> FitStatus:
    """Tell how far a fit has come."""
    fitter = _fitter(request)
    return _status(await run_in_threadpool(fitter.library.jobs.get, id), fitter)


@router.get("/{id}/events", response_class=StreamingResponse, responses=refusals(400, 404) | in_events())
async def events(id: Number, request: Request) -> StreamingResponse:
    """Tell of a fit's progress as it comes, by server-sent events, until it is over."""
    fitter = _fitter(request)
    await run_in_threadpool(fitter.library.jobs.get, id)

    async def told() -> AsyncIterator[str]:
        last = None
        while True:
            job = await run_in_threadpool(fitter.library.jobs.get, id)
            now = _status(job, fitter)
            if now != last:
                last = now
                yield event("progress" if not job.over else job.status, json.loads(now.model_dump_json()))
            if job.over or not service_of(request).ready:
                return
            await asyncio.sleep(_LOOKS)

    return StreamingResponse(told(), media_type="text/event-stream", headers={"cache-control": "no-store"})


@router.delete("/{id}", responses=refusals(400, 404))
async def cancel(id: Number, request: Request) -> FitStatus:
    """Cancel a fit; what it has learned so far is kept, and `again` goes on from there. Forget one that has ended."""
    fitter = _fitter(request)
    before = await run_in_threadpool(fitter.library.jobs.get, id)
    await run_in_threadpool(fitter.cancel, id)
    return _status(before if before.over else await run_in_threadpool(fitter.library.jobs.get, id), fitter)


@router.post("/{id}/again", responses=refusals(400, 404))
async def again(id: Number, request: Request) -> FitStatus:
    """Let a fit that failed or was cancelled go on from its last checkpoint."""
    fitter = _fitter(request)
    return _status(await run_in_threadpool(fitter.again, id), fitter)
