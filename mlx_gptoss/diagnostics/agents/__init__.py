"""Coding agents and editors beside this model: their settings, and a proof.

    changes = prepare("codex", endpoint)     # what would be written, nothing is yet
    for change in changes: print(change.diff())
    write(changes)                           # all files or none; the old ones are kept

tools.py       which tools there are: their files and keys
documents.py   settings edited in place: read, changed, put into the text, read again
*_text.py      TOML, YAML and JSON as text: where a value stands, and how to put one
setup.py       from a tool to the change of its files
writing.py     files replaced whole, all of them or none
client.py      HTTP as those tools speak it, by the standard library
shapes.py      what a reply must look like for them
steps/         the conversation of `agents check`
cases.py       tool cases through both protocols, and how often they succeed

Knows the server by its URL only: it may as well be another one.
"""
