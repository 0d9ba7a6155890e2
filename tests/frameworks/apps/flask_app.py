from __future__ import annotations

from flask import Flask, Response, jsonify, request

from tests.frameworks.apps.tapping import ACTOR, PARTS, tapped_wsgi, widget

api = Flask("widgets")


@api.route("/widgets", methods=["GET", "POST", "DELETE"])
def widgets() -> Response:
    if request.method == "DELETE":
        return Response(status=204, headers=ACTOR)
    answer = jsonify(widget(len(request.get_data())))
    answer.status_code = 201 if request.method == "POST" else 200
    answer.headers.update(ACTOR)
    return answer


@api.post("/stream")
def stream() -> Response:
    request.get_data()
    return Response(iter(PARTS), content_type="application/json")


@api.post("/fail")
def fail() -> Response:
    raise RuntimeError("on purpose")


app = tapped_wsgi(api)
