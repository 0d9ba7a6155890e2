"""One Django project, as an ASGI and as a WSGI application."""

from __future__ import annotations

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import path

from tests.frameworks.apps.tapping import ACTOR, PARTS, tapped_asgi, tapped_wsgi, widget


def widgets(request: HttpRequest) -> HttpResponseBase:
    if request.method == "DELETE":
        return HttpResponse(status=204, headers=ACTOR)
    status = 201 if request.method == "POST" else 200
    return JsonResponse(widget(len(request.body)), status=status, headers=ACTOR)


def stream(request: HttpRequest) -> HttpResponseBase:
    _ = request.body
    return StreamingHttpResponse(iter(PARTS), content_type="application/json")


def fail(request: HttpRequest) -> HttpResponseBase:
    raise RuntimeError("on purpose")


urlpatterns = [path("widgets", widgets), path("stream", stream), path("fail", fail)]

settings.configure(
    ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="of a test", MIDDLEWARE=[], USE_TZ=True
)
django.setup()

asgi_app = tapped_asgi(get_asgi_application())
wsgi_app = tapped_wsgi(get_wsgi_application())
