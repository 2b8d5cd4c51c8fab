"""The tools of a request, and how a recipient written by a model names one."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mlx_gptoss.harmony.messages import FUNCTION_PREFIX, wire_name

PLAIN_TEXT_TOOLS = frozenset({"python"})  # take code, not JSON
BUILT_IN = ("python", "browser.")
GLUED = ("json", "code", "commentary", "analysis", "final")  # header words run on


@dataclass(frozen=True)
class Target:
    """Whom a call addresses: the recipient to write, the tool's own name."""

    recipient: str
    name: str
    offered: bool

    @property
    def built_in(self) -> bool:
        return self.recipient.startswith(BUILT_IN)

    @property
    def takes_json(self) -> bool:
        return self.recipient not in PLAIN_TEXT_TOOLS


@dataclass(frozen=True)
class Offered:
    """The recipients on offer; `any_name` when the caller did not say which."""

    names: dict[str, str] = field(default_factory=dict)  # recipient -> tool name
    any_name: bool = False

    @classmethod
    def of(cls, tools: Iterable[str] | None, built_in: Iterable[str]) -> "Offered":
        names = {FUNCTION_PREFIX + wire_name(name): name for name in tools or ()}
        names |= {recipient: recipient for recipient in built_in}
        return cls(names, any_name=tools is None)

    def find(self, written: str) -> str | None:
        """Return the offered recipient that `written` means, if there is one."""
        for name in self._readings(written):
            if name in self.names:
                return name
        return None

    def target(self, written: str) -> Target:
        found = self.find(written)
        if found is not None:
            return Target(found, self.names[found], offered=True)
        name = written.removeprefix(FUNCTION_PREFIX)
        return Target(written, name, offered=self.any_name and bool(name))

    def missing(self, target: Target) -> str:
        """Say to the model that the tool is not there, and what is."""
        known = ", ".join(f"`{name}`" for name in self.names) or "none"
        return f"there is no tool `{target.recipient}`; the tools are: {known}"

    @staticmethod
    def _readings(written: str) -> list[str]:
        """The name as it stands, then with the slips that models make undone."""
        bare = written.split("<", 1)[0].rstrip(".,:;")
        readings = [written, bare]
        readings += [bare.removesuffix(word) for word in GLUED if bare.endswith(word)]
        readings += [wire_name(reading) for reading in list(readings)]
        return readings + [FUNCTION_PREFIX + reading for reading in readings]
