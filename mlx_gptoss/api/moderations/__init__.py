"""OpenAI's `/v1/moderations`; the categories are the policies of a server."""
