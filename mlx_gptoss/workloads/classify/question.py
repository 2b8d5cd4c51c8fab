"""The prompt of a verdict: the policy as instructions, the text as the user's message.

OpenAI's guide (cookbook.openai.com/articles/gpt-oss-safeguard-guide) puts the policy
into the system message of a chat and the content to judge into the user message. The
chat template of gpt-oss renders the former as the `# Instructions` of Harmony's
developer message, and the effort into its system message; so does this. The guide wants
the form of the output stated literally at the end of the policy: that is added here,
and a JSON schema enforces it. Label and rule come first and the rationale last, as
there: decide, then justify.
"""

import json
import re
from typing import Any

from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.constrain.answer_format import AnswerFormat
from mlx_gptoss.workloads.classify.policy import Policy

LABEL, RULE, RATIONALE = "label", "rule", "rationale"
LONGEST_RATIONALE = 600  # characters
LABEL_OPENING = re.compile(rf'\s*\{{\s*"{LABEL}"\s*:\s*"')  # what verdicts begin with


def instructions(policy: Policy, *, rationale: bool) -> str:
    """Return a policy with the form of its verdicts."""
    labels = ", ".join(json.dumps(one, ensure_ascii=False) for one in policy.labels)
    flagged = [one for one in policy.labels if one in policy.flagged]
    example: dict[str, Any] = {LABEL: (flagged or policy.labels)[0]}
    lines = [f'"{LABEL}" is one of: {labels}.']
    if policy.rules:
        example[RULE] = policy.rules[-1]
        lines.append(
            f'"{RULE}" is the rule of this policy that decides, or null if none '
            "applies."
        )
    if rationale:
        example[RATIONALE] = "..."
        lines.append(f'"{RATIONALE}" says why, in one or two sentences.')
    form = json.dumps(example, ensure_ascii=False)
    return "\n".join(
        [
            policy.text,
            "",
            "## OUTPUT",
            "",
            "Return exactly one JSON object, and nothing else, in this form:",
            form,
            *lines,
        ]
    )


def verdict_format(policy: Policy, *, rationale: bool) -> AnswerFormat:
    """Return the schema that verdicts follow; the prompt does not repeat it."""
    properties: dict[str, Any] = {LABEL: {"enum": list(policy.labels)}}
    if policy.rules:
        properties[RULE] = {"enum": [*policy.rules, None]}
    if rationale:
        properties[RATIONALE] = {"type": "string", "maxLength": LONGEST_RATIONALE}
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return AnswerFormat("json_schema", schema, "verdict", strict=True)


def conversation(
    policy: Policy,
    text: str,
    *,
    effort: m.Effort,
    rationale: bool,
    date: str | None = None,
) -> list[m.Message]:
    """Return the whole conversation; the text is content, whatever is in it."""
    return [
        m.system(effort, conversation_date=date),
        m.developer(instructions(policy, rationale=rationale)),
        m.user(text),
    ]
