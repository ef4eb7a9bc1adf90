"""The module raises an exception with a message of a million bytes."""

raise RuntimeError("huge " * 200000)
