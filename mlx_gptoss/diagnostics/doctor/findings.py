"""Derive problems and advice from the facts about a machine."""

import re
from dataclasses import dataclass

from mlx_gptoss.chat.sessions.checkup import ChatsFileReport
from mlx_gptoss.chat.sessions.index import MAX_LEVELS
from mlx_gptoss.checkpoint.hub.cached_models import format_missing
from mlx_gptoss.diagnostics.doctor.facts import OFFLINE, Facts
from mlx_gptoss.memory import format_bytes

OLDEST_MACOS = 14
NEWEST_WHEEL = 26  # MLX has wheels for macOS 14, 15 and 26
PUBLISHED_20B = 13_800_000_000  # bytes of gpt-oss-20b's weights
SMALLEST_20B = 11_200_000_000  # converted with `--recipe q4`
DISK_RESERVE = 1_000_000_000

ERROR, WARNING, NOTE = "error", "warning", "note"


@dataclass(frozen=True)
class Finding:
    """An `error` prevents work, a `warning` costs something, a `note` informs."""

    level: str
    what: str
    advice: str


def diagnose(facts: Facts) -> list[Finding]:
    """Return all findings, the most severe first."""
    findings = [
        *_diagnose_mlx(facts),
        *_diagnose_macos(facts),
        *_diagnose_memory(facts),
        *_diagnose_storage(facts),
        *_diagnose_blas(facts),
        *_diagnose_chats(facts.chats),
    ]
    order = (ERROR, WARNING, NOTE)
    return sorted(findings, key=lambda finding: order.index(finding.level))


def _diagnose_mlx(facts: Facts) -> list[Finding]:
    findings = []
    if facts.mlx_failure is not None:
        reinstall = "reinstall it: `pip install --force-reinstall mlx`"
        findings.append(
            Finding(ERROR, f"MLX does not start: {facts.mlx_failure}", reinstall)
        )
    findings += [
        Finding(ERROR, f"`{name}` is not installed", f"`pip install {name}`")
        for name, version in facts.packages.items()
        if version is None
    ]
    return findings


def _diagnose_macos(facts: Facts) -> list[Finding]:
    if facts.macos is None:
        if facts.mlx_failure is None and not facts.metal:
            return [
                Finding(
                    NOTE,
                    "there is no Apple GPU here: everything runs on the CPU",
                    "good for tests and small models; use a Mac for gpt-oss",
                )
            ]
        return []
    if facts.architecture != "arm64":
        return [
            Finding(
                ERROR,
                f"this Python is built for {facts.architecture}, and MLX needs arm64",
                "on Apple silicon install an arm64 Python (python.org, Homebrew, uv); "
                "Macs with Intel processors cannot run MLX",
            )
        ]
    return [*_diagnose_macos_version(facts.macos), *_diagnose_metal(facts)]


def _diagnose_macos_version(macos: str) -> list[Finding]:
    if int(macos.split(".")[0]) >= OLDEST_MACOS:
        return []
    return [
        Finding(
            ERROR,
            f"macOS {macos} is too old for MLX",
            f"update to macOS {OLDEST_MACOS} or newer",
        )
    ]


def _diagnose_metal(facts: Facts) -> list[Finding]:
    findings = []
    if facts.mlx_failure is None and not facts.metal:
        findings.append(
            Finding(
                ERROR,
                "MLX sees no Metal GPU",
                "virtual machines need one passed through; else reinstall: "
                "`pip install --force-reinstall mlx mlx-metal`",
            )
        )
    built_for = re.match(r"macosx_(\d+)", facts.wheel or "")
    if facts.macos is not None and built_for is not None:
        running = min(int(facts.macos.split(".")[0]), NEWEST_WHEEL)
        if int(built_for[1]) < running:
            findings.append(
                Finding(
                    WARNING,
                    f"MLX here was built for macOS {built_for[1]}, and this is "
                    f"{facts.macos}: newer kernels are not used",
                    "`pip install --force-reinstall --no-cache-dir mlx mlx-metal`",
                )
            )
    return findings


def _diagnose_memory(facts: Facts) -> list[Finding]:
    if facts.mlx_failure is not None or facts.usable_memory > PUBLISHED_20B:
        return []
    usable = f"{format_bytes(facts.usable_memory)} ({facts.usable_because})"
    if facts.usable_memory > SMALLEST_20B:
        advice = (
            "`mlx-gptoss convert openai/gpt-oss-20b gpt-oss-20b-q4 --recipe q4` makes "
            f"one of {format_bytes(SMALLEST_20B)}"
        )
    else:
        advice = "close other programs, or use a machine with 16 GB or more"
    return [
        Finding(
            WARNING if facts.metal else NOTE,
            f"a model may use {usable}, and gpt-oss-20b as published takes "
            f"{format_bytes(PUBLISHED_20B)}",
            advice,
        )
    ]


def _diagnose_storage(facts: Facts) -> list[Finding]:
    findings = [
        Finding(
            WARNING,
            f"`{model.name}` was not downloaded completely{format_missing(model)}",
            f"`mlx-gptoss pull {model.name}` resumes it, and `mlx-gptoss models "
            f"--delete {model.name}` frees its space",
        )
        for model in facts.models
        if not model.complete
    ]
    if facts.free_disk < PUBLISHED_20B + DISK_RESERVE:
        findings.append(
            Finding(
                WARNING,
                f"`{facts.cache}` has {format_bytes(facts.free_disk)} free, and "
                f"gpt-oss-20b takes {format_bytes(PUBLISHED_20B)}",
                "free space (`mlx-gptoss models --delete MODEL`), or set `HF_HOME` to "
                "a larger disk",
            )
        )
    if facts.offline:
        advice = "unset it to download models"
        findings.append(Finding(NOTE, f"`{OFFLINE}` forbids the network", advice))
    return findings


def _diagnose_blas(facts: Facts) -> list[Finding]:
    if facts.blas.optimized or facts.mlx_failure is not None:
        return []
    what, _, advice = facts.blas.explanation.partition(": ")
    level = NOTE if facts.blas.state == "off" else WARNING
    return [Finding(level, what, advice or "unset it for fast float32")]


def _diagnose_chats(chats: ChatsFileReport | None) -> list[Finding]:
    if chats is None:
        return []
    repair = "`mlx-gptoss sessions repair` rebuilds it from the conversations"
    if chats.damage:
        what, _, advice = chats.damage.partition(": ")
        what = f"conversations are saved in `{chats.path}`, but {what}"
        return [Finding(WARNING, what, advice or "check the path and its permissions")]
    if chats.broken_index:
        what = f"the search index of `{chats.path}` is broken: {chats.broken_index}"
        return [Finding(WARNING, what, f"{repair}; none are lost")]
    if chats.levels is not None and chats.levels > MAX_LEVELS:
        what = f"the search index of `{chats.path}` has {chats.levels:,} levels"
        return [Finding(WARNING, f"{what}, and SQLite opens it up to 2,000", repair)]
    return []
