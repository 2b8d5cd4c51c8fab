"""The requests and replies of `/v1/redact`."""
