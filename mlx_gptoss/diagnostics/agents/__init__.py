"""Coding agents: set them up for this server, and check that a server suits them.

    changes = prepare("codex", endpoint)     # compute the changes; write nothing
    for change in changes: print(change.diff())
    write(changes)                           # all files or none, with backups

known_agents.py  the supported agents: their files and keys
profiles.py      files of their own for the agents, and how to start with them
setup.py         from the name of an agent to the changes of its files
settings/        editing TOML, YAML and JSON in place, and replacing files
endpoint.py      a server's URL, model and key
received.py      models that validate replies as strict clients do
streams.py       assemble streamed events into whole replies
steps/           the conversation of `agents check`
injection.py     orders in text that is only read: how often they are followed
cases.py         tool cases through two protocols, with success rates

Knows a server only by its URL, so it can check any server.
"""
