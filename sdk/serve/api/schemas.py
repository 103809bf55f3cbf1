"""What requests and answers hold; as OpenAI's images API names it, and what it does not have beside that."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...library.jobs import STATUSES
from ...rules.drawing import SCHEDULERS
from ...rules.speed import SPEEDS

BASE = "base"
"""The model that is no pack: the plain base model."""

Text = Annotated[str, Field(max_length=20_000)]
Seed = Annotated[int, Field(ge=0, lt=2**63 - 10_000)]


class Asked(BaseModel):
    """What every drawing may be asked for."""

    model_config = ConfigDict(extra="ignore", strict=True)  # other clients send what other servers have

    prompt: Text = Field(description="What to draw; a pack's concepts by token and noun: `a <new1> cat`.")
    model: str = Field(BASE, max_length=64, description="The name of a pack, or `base`.")
    n: int = Field(1, ge=1, le=1000, description="Pictures.")
    seed: Seed | None = Field(None, description="Picture i has the noise of seed + i; at random where it is missing.")
    negative_prompt: Text = Field("", description="What to steer away from.")
    steps: int | None = Field(None, ge=1, le=998, description="Of the sampler.")
    guidance_scale: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    scheduler: Literal[SCHEDULERS] | None = None  # type: ignore[valid-type]
    speed: Literal[SPEEDS] = "exact"  # type: ignore[valid-type]
    response_format: Literal["b64_json", "url"] = "b64_json"
    stream: bool = Field(False, description="Answer with server-sent events: progress, then the pictures.")


class AskedGeneration(Asked):
    """A picture from words alone."""

    size: Annotated[str, Field(pattern=r"^([1-9][0-9]{0,4}x[1-9][0-9]{0,4}|auto)$")] = Field(
        "auto", description="Width and height in pixels, such as `512x512`; `auto`: the model's own."
    )


class Picture(BaseModel):
    """One picture."""

    b64_json: str | None = None
    url: str | None = None
    seed: int


class Pictures(BaseModel):
    """The answer to a drawing."""

    created: int
    data: list[Picture]
    notes: list[str] = Field(description="What is worth knowing about the prompt, often nothing.")


class ServedConcept(BaseModel):
    token: str
    noun: str


class ServedModel(BaseModel):
    """A pack, or the base model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    bytes: int
    concepts: list[ServedConcept]


class ServedModels(BaseModel):
    object: Literal["list"] = "list"
    data: list[ServedModel]


class Deleted(BaseModel):
    id: str
    object: Literal["model"] = "model"
    deleted: bool = True


class FitStatus(BaseModel):
    """A fit, and how far it has come."""

    id: int
    object: Literal["fit"] = "fit"
    created: int
    status: Literal[STATUSES]  # type: ignore[valid-type]
    name: str = Field(description="Of the pack that comes of it.")
    concepts: list[str]
    method: str
    message: str = Field(description="Why it failed.")
    phase: str = Field(description="What is being done while it runs.")
    done: int
    total: int
    seconds_left: float | None
    losses: dict[str, float] = Field(description="Of the last step.")


class FitStatuses(BaseModel):
    object: Literal["list"] = "list"
    data: list[FitStatus]


class Trouble(BaseModel):
    """What is wrong, in one sentence."""

    message: str
    type: str
    code: str | None = None


class Refusal(BaseModel):
    error: Trouble


_REFUSALS = {
    400: "What is asked cannot be drawn.",
    401: "No token, or another one.",
    403: "From elsewhere than this machine, without a token.",
    404: "Not there.",
    408: "It took longer than a request may.",
    413: "More than a request may hold.",
    422: "What is computed holds no numbers.",
    429: "The line is full; try again after Retry-After.",
    503: "The server is about to end.",
}


def refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of answers with these status codes."""
    return {code: {"model": Refusal, "description": _REFUSALS[code]} for code in (401, 403, 413, *codes)}


def in_events() -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of an answer that comes as server-sent events."""
    about = "The answer; or as it comes, as server-sent events whose data are objects."
    return {200: {"description": about, "content": {"text/event-stream": {}}}}
