"""The policies of a server: judge texts by them, and refuse what a guard flags.

    policies = ServedPolicies({"spam": policy}, guards=("spam",))
    verdicts = await policies.judge(models, text)        # by all, in their order
    refusal = await policies.refusal(models, texts)      # None if no guard flags one

Knows models by name; nothing of HTTP.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.scheduler.options import DEFAULT_RUNNING
from mlx_gptoss.server.models import Models
from mlx_gptoss.workloads.classify.calibration import load_calibration
from mlx_gptoss.workloads.classify.classifier import Classifier, ClassifyOptions
from mlx_gptoss.workloads.classify.policy import Policy
from mlx_gptoss.workloads.classify.verdict import Verdict

log = logging.getLogger(__name__)

PLACES = DEFAULT_RUNNING // 2  # verdicts at a time, so that other requests find some
MOST_PASSED = 4096  # digests of texts that guards let through


@dataclass(frozen=True)
class GuardRefusal:
    """A guard's verdict about a text that came in."""

    guard: str
    verdict: Verdict

    @property
    def message(self) -> str:
        """What the client is told."""
        rule = f", rule {self.verdict.rule}" if self.verdict.rule else ""
        return (
            f"This request was refused by this server's policy `{self.guard}` "
            f"(label {self.verdict.label}{rule})."
        )


@dataclass
class ServedPolicies:
    """The policies of one server, by name. For one event loop.

    `guards` are the names of those that judge what comes in. `model` is the one that
    judges, None for the default one. Texts that passed a guard are remembered by their
    digests, so that a conversation is judged once, and then only what is new in it.
    """

    policies: Mapping[str, Policy]
    guards: tuple[str, ...] = ()
    model: str | None = None
    calibration_files: Mapping[str, Path] = field(default_factory=dict)
    options: ClassifyOptions = field(default_factory=ClassifyOptions)
    _calibrated: str | None = None  # digest of the model that they were read for
    _passed: "OrderedDict[bytes, None]" = field(default_factory=OrderedDict)
    _places: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(PLACES)
    )

    def choose(self, names: Sequence[str] | None) -> list[Policy]:
        """Return the policies of these names, or all. Raises ApiError (400)."""
        for name in names or ():
            if name not in self.policies:
                known = ", ".join(f"`{one}`" for one in self.policies)
                raise bad_request(
                    f"there is no policy `{name}`: this server has {known}",
                    param="policies",
                )
        chosen = self.policies if names is None else dict.fromkeys(names)
        return [self.policies[name] for name in chosen]

    def load_calibrations(self, runtime: Runtime) -> None:
        """Read the calibrations for the model that judges. Raises PolicyError."""
        digest = runtime.digest
        if self._calibrated != digest:
            found = {
                name: load_calibration(path, self.policies[name], digest)
                for name, path in self.calibration_files.items()
            }
            self.options = replace(self.options, calibrations=found)
            self._calibrated = digest

    async def judge(
        self,
        models: Models,
        texts: Sequence[str],
        policies: Sequence[Policy],
        *,
        rationale: bool = False,
        model: str | None = None,
    ) -> list[dict[str, Verdict]]:
        """Return the verdicts about each text, by the name of the policy."""
        async with models.lease(model or self.model) as runtime:
            if self.calibration_files:
                await asyncio.to_thread(self.load_calibrations, runtime)
            options = replace(self.options, rationale=rationale)
            classifier = Classifier(runtime, options)

            async def judge(text: str, policy: Policy) -> Verdict:
                async with self._places:
                    return await classifier.classify(text, policy)

            async with asyncio.TaskGroup() as group:
                tasks = [
                    [group.create_task(judge(text, policy)) for policy in policies]
                    for text in texts
                ]
            return [
                {task.result().policy: task.result() for task in row} for row in tasks
            ]

    async def refusal(
        self, models: Models, texts: Iterable[str]
    ) -> GuardRefusal | None:
        """Return the first verdict by which a guard refuses one of some texts."""
        for text in texts:
            for name in self.guards:
                policy = self.policies[name]
                mark = hashlib.sha256(f"{name}\0{text}".encode()).digest()
                if mark in self._passed:
                    self._passed.move_to_end(mark)
                    continue
                [verdicts] = await self.judge(models, [text], [policy])
                verdict = verdicts[name]
                if verdict.flagged:
                    log.info("the guard `%s` refused a request", name)
                    return GuardRefusal(name, verdict)
                self._passed[mark] = None
                while len(self._passed) > MOST_PASSED:
                    self._passed.popitem(last=False)
        return None
