"""Answers as the request's body asks, in JSON: status, headers, blocks, how, where to raise."""

import json


def blocks(asked):
    for number, block in enumerate(asked["blocks"]):
        if number == asked["raises"]:
            raise ValueError("as asked")
        yield block.encode("latin-1")
    if len(asked["blocks"]) == asked["raises"]:
        raise ValueError("as asked")


def app(environ, start_response):
    asked = json.loads(environ["wsgi.input"].read())
    write = start_response(asked["status"], [tuple(pair) for pair in asked["headers"]])
    if asked["how"] == "list":
        return list(blocks(asked))
    if asked["how"] == "iterator":
        return blocks(asked)
    for block in blocks(asked):
        write(block)
    return []
