"""Falcon, counted: `gunicorn --chdir examples falcon_app:app`."""

import falcon

from hitledger import CountHits, routes


class Hello:
    """Greets."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        """Greet somebody."""
        del req
        resp.text = f"hello {name}\n"


api = falcon.App(middleware=[routes.Falcon()])
api.add_route("/hello/{name}/", Hello())
app = CountHits(api, route=routes.noted)
