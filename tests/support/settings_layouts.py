"""Settings files of any shape, drawn by hypothesis: text as somebody may have laid it.

Each strategy gives texts that the reader of its format takes (settings_readers.py). A
value that `agents setup` is to change holds `old` on each of its lines.
"""

import tomllib
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

SPACES = st.sampled_from(["", " ", "  ", "\t"])
ASIDES = st.sampled_from(["", "", "\n", "# a = [1\n", "\n# [x]\n\n", "#: y\n"])


def _ends(draw: Draw, text: str) -> str:
    """The text with its line ends, its last one and its mark as they happen to be."""
    if draw(st.booleans()):
        text = text.rstrip("\n")
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    return draw(st.sampled_from(["", "", "\ufeff"])) + text


# TOML

TOML_VALUES = st.sampled_from(
    [
        *('"a # b"', "'c:\\d'", '"""\nm = "[t]"\n"x"""""', "'''\n# no\n'''", "1_000"),
        *("1979-05-27 07:32:00Z", "[ 1, # c\n  2,\n]", '{ a = { b = "}" } }', "[]"),
        *("[{a = 1}, {b = [2]}]", "true", "inf", "0xFF", '"\\u00e9\\""', "{ }"),
    ]
)
OLD_VALUES = st.sampled_from(['"old"', "'old'", '"""old"""', "'''\nold'''"])
TOML_NAMES = st.sampled_from(
    ["a", "b-1", '"q.r"', "'s t'", "x.y", 'x . "z"', "model_reasoning_effort"]
)
PROVIDERS = st.sampled_from(["azure", "'b c'", "mlx-gptoss", '"mlx-gptoss"'])


@st.composite
def _toml_pair(draw: Draw, name: str, values: st.SearchStrategy[str]) -> str:
    value, space = draw(values), draw(SPACES)
    note = draw(st.sampled_from(["", " # ]", "\t#"]))
    return f"{draw(SPACES)}{name}{space}={draw(SPACES)}{value}{note}\n{draw(ASIDES)}"


@st.composite
def _toml_section(draw: Draw) -> str:
    provider = draw(PROVIDERS)
    header = draw(
        st.sampled_from(
            [
                *("[tui]", "[ more . deep ]", '[projects."/a b/[c]"]', "[[list]]"),
                *("[[hooks.stop]]", "[hooks.start]", "[model_providers]"),
                f"[model_providers.{provider}]",
                f"[model_providers . {provider}.http_headers]",
            ]
        )
    )
    pairs = [draw(_toml_pair(name, TOML_VALUES)) for name in draw(_names())]
    if "mlx-gptoss]" in header.replace('"', ""):
        own = st.lists(st.sampled_from(["name", "wire_api"]), unique=True)
        pairs += [draw(_toml_pair(name, OLD_VALUES)) for name in draw(own)]
    elif header == "[model_providers]":
        braced = st.sampled_from(["{}", '{ name = "old" }', "{name='old',a.b=[1]}"])
        pairs += [draw(_toml_pair(f"{draw(PROVIDERS)}{draw(DOTTED)}", braced))]
    order = draw(st.permutations(pairs))
    return f"{draw(SPACES)}{header}{draw(SPACES)}\n{draw(ASIDES)}" + "".join(order)


DOTTED = st.sampled_from(["", "", ".http_headers"])


def _names() -> st.SearchStrategy[list[str]]:
    return st.lists(TOML_NAMES, max_size=3, unique=True)


@st.composite
def _toml(draw: Draw) -> str:
    pairs = [draw(_toml_pair(name, TOML_VALUES)) for name in draw(_names())]
    own = st.lists(st.sampled_from(["model", '"model_provider"']), unique=True)
    pairs += [draw(_toml_pair(name, OLD_VALUES)) for name in draw(own)]
    providers = st.sampled_from(
        [
            *(
                "",
                "",
                'model_providers = { azure = { name = "old" }, }\n'.replace(",", ""),
            ),
            'model_providers = { mlx-gptoss = { name = "old", a = 1 } } # }\n',
            'model_providers.azure.name = "A"\nmodel_providers.azure.q = { v = 1 }\n',
            'model_providers."mlx-gptoss".a = 1\nmodel_providers.mlx-gptoss.b = 2\n',
            'model_providers.mlx-gptoss = {name="old"}\nmodel_providers.c.d = 2\n',
        ]
    )
    root = "".join(draw(st.permutations([*pairs, draw(providers)])))
    sections = draw(st.lists(_toml_section(), max_size=5))
    return _ends(draw, draw(ASIDES) + root + "".join(sections))


def _is_toml(text: str) -> bool:
    try:
        data = tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError:
        return False
    return isinstance(data.get("model_providers", {}), dict)


TOML = _toml().filter(_is_toml)

# JSON

JSON_VALUES = st.sampled_from(
    [
        *('"// no"', '"\\u00e9\\/\\""', "-0.0", "1.50e+3", "true", "null", "[]", "{}"),
        *('["/*", 1 , 2]', "[\n1,\n // c\n2,\n]", '{"a":{"b":[{}]}}', '"\\ud800"'),
    ]
)
JSON_ASIDES = st.sampled_from(
    ["", "", " ", "\n", "\n  ", "\t", " // x, {\n", "/* } */", "\n  /* a\n  b */\n"]
)


@st.composite
def _json_table(draw: Draw, members: list[tuple[str, st.SearchStrategy[str]]]) -> str:
    chosen = draw(
        st.lists(st.sampled_from(members), max_size=4, unique_by=lambda m: m[0])
    )
    space, parts = JSON_ASIDES, []
    for name, values in chosen:
        parts.append(
            f'{draw(space)}"{name}"{draw(space)}:{draw(space)}{draw(values)}{draw(space)}'
        )
    last = draw(st.sampled_from(["", "", ","])) if parts else ""
    return "{" + ",".join(parts) + last + draw(space) + "}"


@st.composite
def _json(draw: Draw) -> str:
    old = st.just('"old"')
    options = _json_table([("apiKey", old), ("timeout", JSON_VALUES)])
    limit = _json_table([("context", st.just("1")), ("input", JSON_VALUES)])
    model = _json_table([("name", old), ("limit", limit), ("cost", JSON_VALUES)])
    models = _json_table([("demo", model), ("x", JSON_VALUES)])
    ours = _json_table([("npm", old), ("options", options), ("models", models)])
    provider = _json_table([("mlx-gptoss", ours), ("azure", JSON_VALUES)])
    root = _json_table(
        [
            *(("$schema", old), ("model", old), ("provider", provider)),
            *(("theme", JSON_VALUES), ("mcp", JSON_VALUES), ("é", JSON_VALUES)),
        ]
    )
    return _ends(draw, draw(JSON_ASIDES) + draw(root) + draw(JSON_ASIDES))


JSON = _json()

# YAML

YAML_VALUES = st.sampled_from(
    [
        *(
            "plain text",
            "'it''s # no'",
            '"a: b\\n"',
            "1.0",
            "on",
            "~",
            "2001-01-01",
            "",
        ),
        *(
            "[a, {b: c}, 'd,']",
            "{a: [b], c: }",
            "|\n      x\n       y\n\n",
            ">-\n      x",
        ),
        *(
            "- a\n- b: c\n  d: e",
            "|+\n      z\n\n\n",
            "a: b\nc:\n- d",
            "!!str 5",
            "# c\n a",
        ),
    ]
)


@st.composite
def _yaml_pair(
    draw: Draw, name: str, values: st.SearchStrategy[str], margin: str
) -> str:
    value, aside = draw(values), draw(YAML_ASIDES)
    if value.startswith("|"):
        aside = ""  # it would be more of the text
    if value.startswith(("- ", "a:")):
        steps = ["  ", "    ", ""] if value.startswith("-") else ["  ", "    "]
        deeper = "\n" + margin + draw(st.sampled_from(steps))
        lines = "".join(deeper + line for line in value.split("\n"))
        return f"{margin}{name}:{draw(YAML_NOTES)}{lines}\n{aside}"
    note = draw(YAML_NOTES) if "\n" not in value else ""
    space = draw(st.sampled_from(["", "  "]))
    return f"{margin}{name}: {space}{value}{note}\n{aside}"


YAML_NOTES = st.sampled_from(["", "", " # old, [x: y"])
YAML_ASIDES = st.sampled_from(["", "", "\n", "# a: b\n", "\n  # - x\n"])


@st.composite
def _aider(draw: Draw) -> str:
    own = st.lists(
        st.sampled_from(["model", '"openai-api-key"', "openai-api-base"]), unique=True
    )
    old = st.sampled_from(["old", "'old'", "", "[old]", "|\n  old", "- old", "&m old"])
    pairs = [draw(_yaml_pair(name, old, "")) for name in draw(own)]
    names = st.lists(st.sampled_from(["read", "'a b'", "c-d", "é"]), unique=True)
    pairs += [draw(_yaml_pair(name, YAML_VALUES, "")) for name in draw(names)]
    head = draw(st.sampled_from(["", "", "---\n", "%YAML 1.1\n---\n", "--- # a\n"]))
    tail = draw(st.sampled_from(["", "", "weak-model: *m # old\n", "# end\n"]))
    return _ends(draw, head + draw(YAML_ASIDES) + "".join(pairs) + tail)


@st.composite
def _continue(draw: Draw) -> str:
    margin = draw(st.sampled_from(["", "  ", "    "]))
    dash = draw(st.sampled_from(["- ", "-   "]))
    items = []
    for name in draw(
        st.lists(st.sampled_from(["A", "demo (mlx_gptoss)"]), unique=True)
    ):
        inner = margin + " " * len(dash)
        old = st.sampled_from(["old", "[old]", "\n" + inner + "- old", "&m old"])
        own = {"provider", "roles", "apiKey"} if name != "A" else set()
        more = draw(
            st.lists(st.sampled_from(["provider", "roles", "env"]), unique=True)
        )
        pairs = [
            draw(_yaml_pair(n, old if n in own else YAML_VALUES, inner)) for n in more
        ]
        items.append(f"{margin}{dash}name: {name}\n" + "".join(pairs))
    flow = st.sampled_from([" []", " [{name: A}, {uses: a/b}]", " # none", " null"])
    models = "models:" + draw(YAML_NOTES) + "\n" + draw(YAML_ASIDES) + "".join(items)
    models = models if items else f"models:{draw(flow)} # old\n"
    names = draw(st.lists(st.sampled_from(["rules", "name", "é"]), unique=True))
    plain = YAML_VALUES.filter(lambda value: value not in ("~", ""))
    rest = [draw(_yaml_pair(name, plain, "")) for name in names]
    return _ends(draw, "".join(draw(st.permutations([models, *rest]))))


def _is_yaml(text: str) -> bool:
    try:
        data = yaml.safe_load(text.removeprefix("\ufeff"))
    except yaml.YAMLError:
        return False
    return data is None or isinstance(data, dict)


LAYOUTS = {
    "codex": TOML,
    "opencode": JSON,
    "aider": _aider().filter(_is_yaml),
    "continue": _continue().filter(_is_yaml),
}
