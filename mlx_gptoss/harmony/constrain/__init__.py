"""Constrain sampling: legal headers, tool calls, answer formats, loop guards."""
