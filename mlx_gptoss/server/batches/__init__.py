"""Files and batches of a server: kept in its store, answered in the background.

records.py   JSON records in a private folder, by id
files.py     uploaded files and replies, within a quota, until they expire
worker.py    one batch after another, gone on with after a restart
"""
