"""Settings files as people keep them, for each agent: shapes that were seen, own words.

A line that may change holds `old` in a value or names a key that `agents setup` owns;
every other line must stay as it is.
"""

CODEX = {
    "another model": 'model = "gpt-5-codex"\nmodel_reasoning_effort = "high"\n',
    "projects": (
        'model = "gpt-5-codex"\npersonality = "pragmatic"\n\n[projects."/home/a"]\n'
        'trust_level = "trusted"\n\n[projects."/home/a b/c.d"]\n'
        'trust_level = "untrusted"\n\n[notice.model_migrations]\n"a" = "gpt-5.4"\n'
    ),
    "tables only": "# mine\n\n# how it looks\n[tui]\nnotifications = true\n",
    "a schema line": "#:schema ./config.schema.json\n[tui]\nnotifications = true\n",
    "comments only": "# nothing yet\n#model = 1\n",
    "no last line end": 'model = "old"',
    "own spacing": (
        "model='old'   # mine\nmodel_provider  =  \"old\"\n"
        'model_context_window=272_000\n"notify" = ["a", # b\n  "c",\n]\n'
    ),
    "profiles": (
        'approval_policy = "never"\n[profiles.deep]\nmodel_reasoning_effort = "high"\n'
        '[profiles.deep.tui]\nx = 1 # "\n'
    ),
    "providers apart": (
        '[model_providers.azure]\nname = "A"\n[tui]\nx = 1\n'
        '[model_providers.azure2]\nname = "B"\nquery_params = { v = "2025" }\n'
    ),
    "providers in braces": (
        'model_providers = { azure = { name = "old" } } # one line\nhide = true\n'
    ),
    "providers by dots": (
        'model_providers.azure.name = "A"\nmodel_providers.azure.base_url = "https://a"'
        '\nmodel = "old"\n[tui]\na = 1\n'
    ),
    "providers by dots under a header": (
        '[model_providers]\nazure.name = "A"\nmlx-gptoss.name = "old"\n\n[tui]\na = 1\n'
    ),
    "ours in braces": 'model_providers.mlx-gptoss = { name="old", wire_api = "chat" }',
    "ours by its headers": '[model_providers.mlx-gptoss.http_headers]\nA = "b"\n',
    "ours amid others": (
        '[model_providers.mlx-gptoss]\nname = "old" # mine\n'
        'experimental_bearer_token = "old"\nrequest_max_retries = 4\n\n# behind\n'
        "[tui]\n"
    ),
    "lists of tables": (
        '[[skills.config]]\npath = "/x"\nenabled = true\n[[skills.config]]\n'
        'path = "/y"\nenabled = false\n'
        "[more.deep]\na = [ { b = 1 }, { b = 2 } ]\n"
    ),
    "text that looks like settings": (
        'developer_instructions = """\n[tui]\nhi = "x" # no\n"quoted"""""\n'
        "other = '''\na = 1''''\nwhen = 1979-05-27 07:32:00\n"
        "odd = [inf, -nan, 1e3, 0xFF]\n"
    ),
    "indented": "  # a\n  approval = 1\n\n  [tui]\n    a = 1\n",
    "windows": 'model = "old"\r\nnotify = ["x"]\r\n\r\n[tui]\r\na = 1\r\n',
    "a byte order mark": '\ufeffmodel = "old"\n',
    "empty": "",
}

CLINE = {
    "another provider": (
        '{\n  "version": 1,\n  "lastUsedProvider": "old",\n  "providers": {\n'
        '    "anthropic": {\n      "settings": {\n        "provider": "anthropic",\n'
        '        "apiKey": "sk-\\u00e9",\n        "timeout": 1.50e3\n      },\n'
        '      "updatedAt": "2026-01-01T00:00:00.000Z"\n'
        "    }\n  }\n}\n"
    ),
    "empty": "",
}

OPENCODE = {
    "a last comma": (
        '{\n  "$schema": "https://opencode.ai/config.json",\n  "permission": {\n'
        '    "bash": "ask",\n    "edit": "ask",\n  },\n}\n'
    ),
    "comments": (
        '// mine\n{\n\t/* how it\n\t   looks */\n\t"theme": "system", // dark\n'
        '\t// "autoshare": true,\n\t"instructions": ["a.md"] // one\n\t// end\n}\n'
        "// behind\n"
    ),
    "other providers": (
        '{\n    "theme": "x",\n    "provider": {\n        "ollama": {"npm": "y"}\n'
        '    },\n    "mcp": {"a": {"type": "local", "command": ["npx", "-y"]}}\n}\n'
    ),
    "one line": '{"theme": "x", "mcp": {}}',
    "no members": "{}\n",
    "a comment in braces": "{\n  // later\n}\n",
    "half on one line": '{ "theme": "x",\n  "mcp": {}, "instructions": ["old"] }\n',
    "numbers and escapes as they came": (
        '{\n  "a": 1.0e3,\n  "b": "\\u00e9\\/",\n  "c": [1,2,\n 3],\n  "d": -0.0,\n'
        '  "e": 123456789012345678901234567890,\n  "f": "\\ud800"\n}'
    ),
    "windows": '{\r\n  "theme": "x",\r\n  "mcp": {}\r\n}\r\n',
    "a byte order mark": '\ufeff{"theme": "x"}\n',
    "empty": "",
    "ours of another model": (
        '{\n  "provider": {\n    "mlx-gptoss": {\n      "npm": "old",\n'
        '      "models": {\n        "other": { "z": 1 },\n        "demo": {\n'
        '          "limit": {\n            "input": 5\n          }\n        }\n'
        "      }\n    }\n  }\n}\n"
    ),
}

CLAUDE = {
    "permissions and hooks": (
        '{\n  "permissions": {\n    "allow": ["Bash(git:*)"],\n    "deny": []\n  },\n'
        '  "hooks": {\n    "Stop": [\n      {"hooks": '
        '[{"type": "command", "command": "true"}]}\n    ]\n  }\n}\n'
    ),
    "an environment": '{\n  "env": {\n    "A": "b"\n  },\n  "model": "opus"\n}\n',
    "an empty environment": '{\n  "env": {},\n  "x": "opus"\n}\n',
    "one line": '{"env":{"A":"b"},"x":"opus"}',
    "empty": "\n",
}

AIDER = {
    "the sample": "#######\n# options:\n\n## Specify\n#model: xxx\n\n#read:\n#  - a\n",
    "in use": (
        "# mine\nmodel: old # fast\nweak-model: openrouter/b/c\ndark-mode:   true\n"
        'user-input-color: "" # none\nread:\n- A.md\n- B.md\nstream: True\n'
    ),
    "lists": "alias: [ 'fast:x', \"y:z\" ]\nlint-cmd:\n    - 'python: ruff'\n\n# end\n",
    "no value": "model:\nopenai-api-key: # later\nread: A.md\n",
    "text of lines": "commit-prompt: |\n  write\n    it\n\n  well\n\nstream: no\n",
    "text of lines at the end": "stream: no\ncommit-prompt: |+\n  write\n\n\n",
    "text of lines at the very end": "stream: no\ncommit-prompt: |\n  write",
    "our key as text of lines": "model: >-\n  old\nstream: no\n",
    "a start and an end": "---\nstream: no\n...\n",
    "braces": "{stream: no, read: [A.md]}\n",
    "braces on lines": '{\n  "stream": false,\n  "read": ["old.md"],\n}\n',
    "others refer to ours": "model: &m old\nweak-model: *m # old\neditor-model: *m\n",
    "ours refers to others": "weak-model: &m sonnet\nmodel: *m\n",
    "a version": "%YAML 1.1\n---\nstream: on\n",
    "only a start": "---\n",
    "no last line end": "stream: no",
    "windows": "# c\r\nmodel: old\r\nread:\r\n  - A.md\r\n",
    "a byte order mark": "\ufeffstream: no\n",
    "empty": "",
}

CONTINUE = {
    "other models": (
        "name: Mine\nversion: 1.0.0\nschema: v1\n# those I like\nmodels:\n"
        '  - name: GLM\n    provider: openrouter\n    model: "thudm/glm"\n    roles:\n'
        "      - chat\n  - uses: a/b\ncontext:\n  - provider: code\n"
    ),
    "a list at the margin": (
        "name: Mine\nversion: '1'\nschema: v1\nmodels:\n# first\n- name: A\n"
        "  provider: ollama\n  model: a\n\n- provider: ollama\n  model: b\n  name: B\n"
        "rules: [a, b]\n"
    ),
    "defaults by an anchor": (
        "%YAML 1.1\n---\nname: Mine\nversion: 0.0.1\nschema: v1\n\n"
        "defaults: &defaults\n  provider: openai\n  x: my\n\nmodels:\n"
        "  - name: mistral\n    <<: *defaults\n    model: mistral\n    roles: [chat]\n"
    ),
    "models in brackets": "models: [{name: A, provider: x, model: a}] # old\n",
    "models each in brackets": (
        "models:\n  - {name: A, provider: ollama, model: a}\n"
        "  - {name: B, provider: ollama, model: b}\n"
    ),
    "no models": "name: Mine\nmodels: # none\nrules:\n  - Be brief.\n",
    "an empty list": "name: Mine\nmodels: [] # old\n",
    "dashes far in": (
        "models:\n    -   name: A\n        provider: ollama\n        model: a\n"
    ),
    "ours already": (
        "models:\n  - name: first\n    provider: ollama\n    model: x\n"
        "  - name: demo (mlx_gptoss) # old\n    provider: old\n"
        "    model: old # mine\n    roles: # old\n      - old\n"
        "    defaultCompletionOptions: # old\n      temperature: 0.5 # old\n"
        "  # third\n  - name: third\n    provider: ollama\n    model: x\n"
    ),
    "ours before text of lines": (
        "models:\n- name: A\n- name: demo (mlx_gptoss)\nrules: x\nname: |+\n  z"
    ),
    "ours ends with text of lines": (
        "models:\n- name: A\n- name: demo (mlx_gptoss)\n  env: |2+ # old\n    z"
    ),
    "ours in brackets": (
        "models: [{name: A, model: a}, {name: demo (mlx_gptoss), model: old}]\n"
    ),
    "secrets": (
        "models:\n  - name: A\n    provider: openai\n    model: a\n"
        "    apiKey: ${{ secrets.KEY }}\n"
    ),
    "windows": (
        "name: Mine\r\nmodels:\r\n  - name: A\r\n    provider: ollama\r\n"
        "    model: a\r\n"
    ),
    "windows, ours last": "models:\r\n- name: A\r\n- name: demo (mlx_gptoss)",
    "empty": "",
}

SAMPLES = {
    "codex": CODEX,
    "opencode": OPENCODE,
    "aider": AIDER,
    "continue": CONTINUE,
    "cline": CLINE,
    "claude-code": CLAUDE,
}
