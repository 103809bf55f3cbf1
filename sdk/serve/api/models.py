"""Packs: what is there, what comes, what goes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from ...disk.files import reporting_full_disk
from ...errors import InputError
from ...library import KeptPack
from .images import service_of
from .schemas import BASE, Deleted, ServedConcept, ServedModel, ServedModels, refusals
from .uploads import keep

router = APIRouter(prefix="/v1/models")
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def _served(kept: KeptPack) -> ServedModel:
    concepts = [ServedConcept(**each) for each in kept.about.get("concepts", [])]
    owner = kept.about.get("licence") or "personalizer"
    return ServedModel(id=kept.name, created=int(kept.created), owned_by=owner, bytes=kept.bytes, concepts=concepts)


def _base(name: str) -> ServedModel:
    return ServedModel(id=BASE, created=0, owned_by=name, bytes=0, concepts=[])


@router.get("", responses=refusals())
async def models(request: Request) -> ServedModels:
    """List the base model and the packs."""
    service = service_of(request)
    packs = await run_in_threadpool(service.library.packs.all)
    return ServedModels(data=[_base(service.painter.base), *map(_served, packs)])


@router.get("/{name}", responses=refusals(404))
async def model(name: str, request: Request) -> ServedModel:
    """Tell of one."""
    service = service_of(request)
    if name == BASE:
        return _base(service.painter.base)
    return _served(await run_in_threadpool(service.library.packs.get, name))


@router.put("/{name}", responses=refusals(400), openapi_extra=_BODY)
async def put(name: str, request: Request) -> ServedModel:
    """Keep a pack: an `.onnx_adapter` file, or, where torch draws, a zip file of the pack's folder.

    A pack of the same name is replaced; drawings that wait are drawn with the one they were asked for.
    """
    service = service_of(request)
    if name == BASE:
        raise InputError(f"{BASE} is the base model; choose another name")
    uploads = service.library.uploads
    with reporting_full_disk(uploads), tempfile.TemporaryDirectory(dir=uploads) as folder:
        sent = Path(folder) / "sent"
        with sent.open("wb") as file:
            async for part in request.stream():
                await run_in_threadpool(file.write, part)
        painter, most = service.painter, 4 * service.limits.body

        def write(place: Path) -> dict:
            return keep(painter, sent, place, most)

        return _served(await run_in_threadpool(service.library.packs.put, name, write, painter.suffix))


@router.delete("/{name}", responses=refusals(400, 404))
async def delete(name: str, request: Request) -> Deleted:
    """Remove a pack."""
    service = service_of(request)
    if name == BASE:
        raise InputError(f"{BASE} is the base model and stays")
    kept = await run_in_threadpool(service.library.packs.remove, name)
    service.packs.forget(kept.id)
    return Deleted(id=name)
