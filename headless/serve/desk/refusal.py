"""A request that is refused, in the form of OpenAI's errors."""

from __future__ import annotations

from ....errors import CallError
from ...node_types import Json


class Refusal(CallError):
    """A request that gets no picture. param: the name in the request that is wrong."""

    def __init__(
        self, message: str, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers: dict[str, str] = {}

    def document(self) -> dict[str, Json]:
        """The body of the answer."""
        return error_document(str(self), self.status, self.param, self.code)


def error_document(
    message: str, status: int, param: str | None = None, code: str | None = None
) -> dict[str, Json]:
    """OpenAI's error object."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def stopping() -> Refusal:
    """For what a server that ends does not do any more."""
    return Refusal("The server is stopping. Try again in a moment.", 503)


class Full(Refusal):
    """The queue takes no more now."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message, 429, code="queue_full")
        self.headers["Retry-After"] = str(max(1, round(seconds)))
