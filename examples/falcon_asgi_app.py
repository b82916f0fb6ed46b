"""Falcon with ASGI, counted: `uvicorn --app-dir examples falcon_asgi_app:app`."""

import falcon.asgi

from hitledger import CountHitsASGI, routes


class Hello:
    """Greets."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str) -> None:
        """Greet somebody."""
        del req
        resp.text = f"hello {name}\n"


api = falcon.asgi.App(middleware=[routes.Falcon()])
api.add_route("/hello/{name}/", Hello())
app = CountHitsASGI(api, route=routes.noted)
