# pyright: reportAttributeAccessIssue=false, reportMissingImports=false, reportMissingModuleSource=false
"""Search for ids that break the parser, guided by code coverage.

    pip install atheris                    # Linux
    python -m tests.support.fuzz_parse             # 60 seconds
    python -m tests.support.fuzz_parse -runs=100000    # any option of libFuzzer

By hand, not part of the tests: those try random ids with hypothesis and need no
atheris. Ends with an error and the ids when something does not hold.
"""

import sys

try:
    import atheris
except ModuleNotFoundError:
    sys.exit("atheris is not installed: pip install atheris")

with atheris.instrument_imports(include=["mlx_gptoss.harmony"]):
    from tests.support.parser_account import WORDS, account

SECONDS = 60
ANY_ID = 300_000
WILD = 255  # a byte that announces an id of any size


def fuzz(data: bytes) -> None:
    """Convert `data` to ids: mostly words of headers, sometimes arbitrary ids."""
    source = atheris.FuzzedDataProvider(data)
    ids = []
    while source.remaining_bytes():
        byte = source.ConsumeUInt(1)
        wild = byte == WILD
        ids.append(
            source.ConsumeIntInRange(-5, ANY_ID) if wild else WORDS[byte % len(WORDS)]
        )
    try:
        account(ids)
    except Exception as error:
        raise AssertionError(f"these ids are not accounted for: {ids}") from error


if __name__ == "__main__":
    options = sys.argv[1:] or [f"-max_total_time={SECONDS}"]
    atheris.Setup([sys.argv[0], *options], fuzz)
    atheris.Fuzz()
