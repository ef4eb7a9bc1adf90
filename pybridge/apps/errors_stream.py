"""Every method of wsgi.errors, with text that no encoding has."""


def app(environ, start_response):
    errors = environ["wsgi.errors"]
    errors.write("errors: written\n")
    errors.writelines(["errors: ", "two \u20ac ", "parts \ud800\n"])
    errors.flush()
    print("errors: printed", file=errors)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"logged"]
