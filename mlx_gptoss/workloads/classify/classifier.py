"""Judge texts by policies with a runtime.

    classifier = Classifier(runtime)
    verdict = await classifier.classify("Earn $$$ by recruiting members", policy)
    verdict.label, verdict.rule, verdict.confidence

The model reasons as it likes and then answers within a schema. How sure it is of the
label is read from its logits: behind the very tokens that its label follows, every
label is scored by the log-probabilities of its tokens, in the vocabulary's own
division, and the scores of all labels are normalized.
"""

import asyncio
import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mlx_gptoss.api.generation import PreparedPrompt, start_answers
from mlx_gptoss.api.prompt import ConversationRequest, prepare_prompts
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.outputs import LENGTH
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scoring import score_continuations
from mlx_gptoss.errors import AnswerFormatError, BusyError
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.events import Answer, Reasoning
from mlx_gptoss.harmony.messages import Effort
from mlx_gptoss.workloads.classify.calibration import Calibration
from mlx_gptoss.workloads.classify.policy import Policy
from mlx_gptoss.workloads.classify.question import (
    LABEL_OPENING,
    conversation,
    verdict_format,
)
from mlx_gptoss.workloads.classify.verdict import (
    Verdict,
    label_logprobs,
    probabilities,
    read_verdict,
)

BUSY_SECONDS = 5.0  # longest wait before a full queue is tried again
GREEDY = SamplingParams(temperature=0)


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions:
    """How texts are judged.

    effort: how much the model reasons: low, medium or high.
    rationale: ask for a sentence that says why.
    scores: compute the probability of each label.
    params: sampling; greedy by default, so that equal texts get equal verdicts.
    max_reasoning: most tokens of reasoning; None leaves a quarter of the room for the
        verdict.
    date: the date in the prompt, None for today.
    adapter: the name of the adapter that judges, None for none.
    calibrations: by the name of a policy; see calibration.py.
    """

    effort: Effort = "medium"
    rationale: bool = False
    scores: bool = True
    params: SamplingParams = GREEDY
    max_reasoning: int | None = None
    date: str | None = None
    adapter: str | None = None
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)


@dataclass
class ClassifyUsage:
    """Tokens of all prompts, of those that were cached, and of answers."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


class Classifier:
    """Judges texts by policies; any number at a time, in one event loop."""

    def __init__(
        self, runtime: Runtime, options: ClassifyOptions | None = None
    ) -> None:
        self.runtime = runtime
        self.options = options or ClassifyOptions()
        self.usage = ClassifyUsage()

    async def classify(self, text: str, policy: Policy) -> Verdict:
        """Return how a policy judges a text. Waits while the queue is full.

        Raises AnswerFormatError for a verdict that was cut off, PromptError for a text
        that fills the context, and what generation raises.
        """
        prompt = await asyncio.to_thread(self._prompt, text, policy)
        answer = await self._patiently(self._answer, prompt)
        if answer.cut:
            raise AnswerFormatError(
                "the verdict was cut off: allow more tokens, or less effort"
            )
        found = read_verdict(answer.text, policy)
        logprobs = dict[str, float]()
        if self.options.scores:
            logprobs = await self._patiently(self._scores, answer, policy)
        calibration = self.options.calibrations.get(policy.name)
        temperature = 1.0 if calibration is None else calibration.temperature
        return Verdict(
            policy.name,
            **found,
            scores=probabilities(logprobs, temperature),
            reasoning=answer.reasoning,
            logprobs=logprobs,
        )

    async def _patiently(self, work, *arguments):
        """Await work; try again while others fill the queue."""
        while True:
            try:
                return await work(*arguments)
            except BusyError as error:
                await asyncio.sleep(min(error.retry_after, BUSY_SECONDS))

    def _prompt(self, text: str, policy: Policy) -> PreparedPrompt:
        options = self.options
        request = ConversationRequest(
            conversation=conversation(
                policy,
                text,
                effort=options.effort,
                rationale=options.rationale,
                date=options.date or datetime.date.today().isoformat(),
            ),
            params=options.params,
            constraints=Constraints(
                response_format=verdict_format(policy, rationale=options.rationale),
                max_reasoning_tokens=options.max_reasoning,
            ),
            auto_reasoning_limit=True,
        )
        [prompt] = prepare_prompts(request, self.runtime)
        return replace(prompt, adapter=options.adapter, conversation=())

    async def _answer(self, prompt: PreparedPrompt) -> "JudgedText":
        [answer] = await start_answers(self.runtime, [prompt])
        found = JudgedText(prompt.ids)
        texts, thoughts = list[str](), list[str]()
        try:
            async for token in answer:
                if token.step is not None:
                    found.add(token.step.token, is_text=token.visible)
                for event in token.events:
                    if isinstance(event, Answer):
                        texts.append(event.text)
                    elif isinstance(event, Reasoning):
                        thoughts.append(event.text)
        finally:
            answer.abandon()
        usage = answer.usage
        self.usage.prompt_tokens += usage.prompt_tokens
        self.usage.cached_tokens += usage.cached_tokens
        self.usage.completion_tokens += usage.completion_tokens
        found.text, found.reasoning = "".join(texts), "".join(thoughts)
        found.cut = answer.finish_reason == LENGTH
        return found

    async def _scores(self, answer: "JudgedText", policy: Policy) -> dict[str, float]:
        """Return the log-probability of each label after the reasoning."""
        tokenizer = self.runtime.tokenizer
        before, quoted = answer.before_label(tokenizer)
        sequences = [tokenizer.encode(quoted + label) for label in policy.labels]
        found = await score_continuations(
            self.runtime, before, sequences, adapter=self.options.adapter
        )
        scores = label_logprobs(sequences, found)
        return dict(zip(policy.labels, scores, strict=True))


class JudgedText:
    """The answer about one text: its tokens, and where the verdict begins."""

    def __init__(self, prompt: list[int]) -> None:
        self._ids = list(prompt)
        self._begins = len(prompt)
        self._begun = False
        self.text = self.reasoning = ""
        self.cut = False

    def add(self, token: int, *, is_text: bool) -> None:
        """Take a token; the first that is text of the answer begins the verdict."""
        if is_text and not self._begun:
            self._begins, self._begun = len(self._ids), True
        self._ids.append(token)

    def before_label(self, tokenizer: Tokenizer) -> tuple[list[int], str]:
        """Return the tokens before those of the label, and text that precedes it.

        The text is empty unless a token has the end of what precedes the label and the
        beginning of the label.
        """
        opening = LABEL_OPENING.match(self.text)
        assert opening is not None  # the schema wants it
        end = self._begins
        while end < len(self._ids):
            text = tokenizer.decode(self._ids[self._begins : end + 1])
            if len(text) > opening.end():
                break
            end += 1
        before = tokenizer.decode(self._ids[self._begins : end])
        return self._ids[:end], self.text[len(before) : opening.end()]
