"""Expand `${NAME}` in a configuration file from the environment.

    ${NAME}   ${env:NAME}   ${NAME:-default}

Other programs with an `mcpServers` file read the same forms.
"""

import os
import re
from typing import Any

from mlx_gptoss.errors import ToolError

VARIABLE = re.compile(r"\$\{(?:env:)?(\w+)(?::-([^}]*))?\}")


def expand_variables(value: Any, where: str) -> Any:
    """Expand the variables in all strings of a JSON value.

    Raises ToolError, which names `where`, for a variable that is not set.
    """
    if isinstance(value, str):
        return VARIABLE.sub(lambda found: _value(found, where), value)
    if isinstance(value, list):
        return [expand_variables(one, where) for one in value]
    if isinstance(value, dict):
        return {key: expand_variables(one, where) for key, one in value.items()}
    return value


def _value(found: re.Match[str], where: str) -> str:
    name, default = found.groups()
    value = os.environ.get(name, default)
    if value is None:
        raise ToolError(f"{where}: the variable `{name}` is not set: export it")
    return value
