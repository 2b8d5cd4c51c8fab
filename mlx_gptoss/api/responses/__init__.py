"""OpenAI's Responses over turns.

asking.py     a request to what the model is asked
items.py      items, of an input or of earlier responses, to a conversation
tools.py      functions, tools that take plain text, and what is passed over
output.py     what is heard to items and to the events of a stream
reasoning.py  the items and events of reasoning, and its summary
store.py      responses on disk, bounded
kept.py       earlier responses by id: those that run, and those in the store
"""
