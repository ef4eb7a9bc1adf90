"""The module has no callable."""

application = "not yet written"
