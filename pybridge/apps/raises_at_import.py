"""The module raises while it is imported, one call deep."""


def connect():
    raise RuntimeError("no database at import")


connect()
