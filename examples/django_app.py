"""Django, counted: `gunicorn --chdir examples django_app:app`, or `uvicorn --app-dir examples django_app:asgi_app`."""

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from hitledger import CountHits, CountHitsASGI, routes

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], MIDDLEWARE=["hitledger.routes.django"])


def hello(request: HttpRequest, name: str) -> HttpResponse:
    """Greet somebody."""
    del request
    return HttpResponse(f"hello {name}\n")


urlpatterns = [path("hello/<str:name>/", hello)]

app = CountHits(get_wsgi_application(), route=routes.noted)
asgi_app = CountHitsASGI(get_asgi_application(), route=routes.noted)
