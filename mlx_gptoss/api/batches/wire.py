"""Wire types of `/v1/batches`."""

from typing import Literal

from pydantic import Field

from mlx_gptoss.api.wire import ReplyModel, RequestModel

BatchStatus = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
ENDED = ("failed", "completed", "expired", "cancelled")


class ExpiresAfter(RequestModel):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2592000)


class BatchCreation(RequestModel):
    """A request for a batch; there is one `completion_window`, and no hurry."""

    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"] = "24h"
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchErrorEntry(ReplyModel):
    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchErrors(ReplyModel):
    object: Literal["list"] = "list"
    data: list[BatchErrorEntry]


class RequestCounts(ReplyModel):
    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchObject(ReplyModel):
    """A batch; times are in seconds since 1970, None for what has not happened."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None = None
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: str = "24h"
    status: BatchStatus = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: None = None  # it takes as long as it takes
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = Field(default_factory=RequestCounts)
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = Field(default=None, exclude=False)

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def ended_at(self) -> int:
        """When it ended; when it was created where that is not known."""
        times = (self.completed_at, self.failed_at, self.cancelled_at)
        return next((one for one in times if one is not None), self.created_at)


class BatchList(ReplyModel):
    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
