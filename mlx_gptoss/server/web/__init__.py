"""The chat page: conversations of this machine's user, in a browser.

    page = WebPage.open(models, PageOptions(...))
    app = create_app(models, settings, page)

page.py           WebPage: everything that the routes share
keys.py           the key of a link, and the signed cookie it is exchanged for
access.py         which requests belong to the page: session, origin
conversations.py  conversations that are open: found, begun, changed, deleted
conversation.py   one conversation: what is saved, and the answer in progress
saved_chats.py    the saved ones: listed, read with their versions, written
answers.py        answers begin, and end with what was saved; figures.py: their figures
answering.py      an answer in a thread of its own: the model, the tools
turn_items.py     the parts of a turn, built from its events
view.py           a conversation as the page shows it
versions.py       versions of a turn: conversations with a common beginning
event_log.py      numbered events, for tabs that come back
approvals.py      calls that wait for a decision
tools.py          the tools that a conversation may use
memory_store.py   conversations of `--private`: in memory only
chat_settings.py  the settings of a conversation, and other bodies of requests
downloads.py      models that fit this machine, and their download
status.py         memory, queue, speed
routes/           one file per kind of request, all under `/web`
assets/           what the browser loads, built from page/ (not in the wheel)

The page stands on `Chat` and the saved conversations of the terminal, not on the APIs:
an API key does not open it, and its cookie opens no API.
"""
