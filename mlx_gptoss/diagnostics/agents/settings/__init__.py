"""Settings files of coding agents, edited in place.

edit.py         apply an edit to TOML, YAML or JSON text; everything else stays as is
changes.py      the difference between two trees of settings, as a list of changes
*_format.py     one file per format: locate values in the text, and replace them
splicing.py     positions, lines and indentation within a text
replacement.py  replace several files atomically, keeping backups

Knows files and formats; nothing of agents or servers.
"""
