"""Random calls on wsgi.input answer what io.BytesIO answers. Path: /SEED/LINES of body."""

import io
import random


def app(environ, start_response):
    seed, lines = map(int, environ["PATH_INFO"][1:].split("/"))
    ours, said = environ["wsgi.input"], "same"
    twin = io.BytesIO(b"".join(b"x" * (i * 37 % 200) + b"\n" for i in range(lines)) + b"tail")
    rng = random.Random(seed)
    for call in range(60):
        name = rng.choice(["read", "readline", "readlines", "__next__"])
        args = rng.choice([(0,), (1,), (7,), (150,), (5000,), (-1,), (None,), ()])
        if name == "__next__":
            got, want = next(iter(ours), b"end"), next(iter(twin), b"end")
        else:
            got, want = getattr(ours, name)(*args), getattr(twin, name)(*args)
        if got != want or type(got) is not type(want):
            said = f"call {call}, {name}{args}: got {got!r:.200}, want {want!r:.200}"
            break
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [said.encode()]
