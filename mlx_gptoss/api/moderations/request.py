"""Read `/v1/moderations`: the texts to judge."""

from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.limits import check_count
from mlx_gptoss.api.moderations.wire import ModerationPart, ModerationRequest
from mlx_gptoss.api.settings import RequestLimits

TEXT = "text"


def texts_of(request: ModerationRequest, limits: RequestLimits) -> list[str]:
    """Return the inputs as texts; parts are one input. Raises ApiError (400)."""
    given = request.input
    if isinstance(given, str):
        return [given]
    check_count("input", len(given), limits.prompts)
    if not given:
        raise bad_request("`input` is empty: give a text", param="input")
    texts = [one for one in given if isinstance(one, str)]
    if texts:
        return texts
    return ["\n\n".join(_text_of(at, part) for at, part in enumerate(given))]


def _text_of(at: int, part: "str | ModerationPart") -> str:
    if isinstance(part, str):
        return part
    if part.type != TEXT or part.text is None:
        raise bad_request(
            f"`input[{at}]` is a part of type `{part.type}`: only text can be judged",
            param="input",
        )
    return part.text
