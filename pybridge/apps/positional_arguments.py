"""PEP 3333: the app is called with two positional arguments, start_response too."""


def app(*args, **kwargs):
    environ, start_response = args
    write = start_response("200 OK", [("Content-Type", "text/plain")], None)
    said = f"{len(args)} {len(kwargs)} {type(environ) is dict} {callable(write)}"
    return [said.encode()]
