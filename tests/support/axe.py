"""axe-core on a page: faults for people who use a screen reader or a keyboard."""

import os
from pathlib import Path
from typing import Any

from tests.support.page_build import PACKAGES, VARIABLE


def serious_faults(page: Any) -> list[tuple[str, str]]:
    """Return the serious and critical faults: the rule, and an element that breaks it.

    Empty without axe-core, which is one of the packages of the page.
    """
    file = Path(os.environ.get(VARIABLE, "-")) / "page" / PACKAGES / "axe-core"
    script = file / "axe.min.js"
    if not script.exists():
        return []
    if not page.evaluate("'axe' in window"):
        page.evaluate(script.read_text())
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")
    return [
        (one["id"], one["nodes"][0]["html"])
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
