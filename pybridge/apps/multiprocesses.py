"""The app uses multiprocessing from a request."""

import multiprocessing


def app(environ, start_response):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        total = pool.apply(sum, ([1, 2, 3],))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % total]
