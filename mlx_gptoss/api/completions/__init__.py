"""Raw completions: a prompt continued without a template; knows no Harmony."""
