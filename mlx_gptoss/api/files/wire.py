"""Wire types of `/v1/files`."""

from typing import Literal

from mlx_gptoss.api.wire import ReplyModel


class FileObject(ReplyModel):
    """A stored file; times are in seconds since 1970."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FileList(ReplyModel):
    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(ReplyModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
