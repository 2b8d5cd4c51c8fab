"""`/v1/moderations`: judge texts by the policies of this server."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.ids import new_id
from mlx_gptoss.api.moderations.request import texts_of
from mlx_gptoss.api.moderations.wire import (
    ModerationReply,
    ModerationRequest,
    ModerationResult,
)
from mlx_gptoss.server.bodies import JsonBodyRoute
from mlx_gptoss.server.routes import ERRORS
from mlx_gptoss.server.service import Service, json_reply
from mlx_gptoss.server.stream import while_connected
from mlx_gptoss.workloads.classify.policy import Policy
from mlx_gptoss.workloads.classify.verdict import Verdict

OPENAI_MODELS = ("omni-moderation-", "text-moderation-")  # what clients ask for
router = APIRouter(tags=["moderations"], responses=ERRORS, route_class=JsonBodyRoute)


@router.post("/v1/moderations", response_model=ModerationReply)
async def moderate(body: ModerationRequest, request: Request) -> Response:
    """Judge one or several texts by each policy of this server."""
    service = Service.of(request)
    served = service.require_policies()
    policies = served.choose(body.policies)
    texts = texts_of(body, service.settings.limits)
    named = None
    if body.model is not None and not body.model.startswith(OPENAI_MODELS):
        named = body.model
    model = service.models.resolve(named or served.model).model
    judged = await while_connected(
        request,
        served.judge(
            service.models,
            texts,
            policies,
            rationale=bool(body.rationale),
            model=model,
        ),
    )
    reasoning = bool(body.include_reasoning)
    results = [result_of(one, policies, reasoning=reasoning) for one in judged]
    return json_reply(
        ModerationReply(id=new_id("modr-", 12), model=model, results=results)
    )


def result_of(
    verdicts: Mapping[str, Verdict], policies: Sequence[Policy], *, reasoning: bool
) -> ModerationResult:
    """Return verdicts in OpenAI's form."""
    categories: dict[str, bool] = {}
    scores: dict[str, float] = {}
    for policy in policies:
        verdict = verdicts[policy.name]
        flagged = [one for one in policy.labels if one in policy.flagged]
        categories[policy.name] = verdict.flagged
        scores[policy.name] = sum(verdict.scores.get(one, 0.0) for one in flagged)
        if len(flagged) > 1:
            for label in flagged:
                name = f"{policy.name}/{label}"
                categories[name] = verdict.label == label
                scores[name] = verdict.scores.get(label, 0.0)
    more: dict[str, Any] = {
        name: verdict.as_json(reasoning=reasoning) for name, verdict in verdicts.items()
    }
    return ModerationResult(
        flagged=any(verdict.flagged for verdict in verdicts.values()),
        categories=categories,
        category_scores=scores,
        category_applied_input_types={name: ["text"] for name in categories},
        verdicts=more,
    )
