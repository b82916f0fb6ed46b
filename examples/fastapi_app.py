"""FastAPI, counted: `uvicorn --app-dir examples fastapi_app:app`."""

from fastapi import APIRouter, FastAPI
from fastapi.responses import PlainTextResponse

from hitledger import CountHitsASGI, routes

router = APIRouter(prefix="/hello")


@router.get("/{name}/", response_class=PlainTextResponse)
def hello(name: str) -> str:
    """Greet somebody."""
    return f"hello {name}\n"


api = FastAPI()
api.include_router(router)
app = CountHitsASGI(api, route=routes.starlette)
