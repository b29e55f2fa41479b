"""The application without a socket: requests go straight in."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from kamon.model import Model
from kamon.web.limits import Limits
from kamon.web.routes.app import make_app
from kamon.web.services.playground import Playground
from kamon.web.services.registry import Entry


class Asking:
    """asking.post("/trace", model="m", text="anna") -> (200, {…})"""

    def __init__(self, folder: Path, models: dict[str, Model]) -> None:
        self.playground = Playground(folder, Limits())
        for id, model in models.items():
            entry = Entry(id, "trained", lambda model=model: model, opened=model)
            self.playground.registry.add(entry)
        self.app = make_app(self.playground, frozenset({"here"}))

    def send(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async def sent() -> Any:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await client.request(method, f"/api/v1{path}", json=body)

        answer = asyncio.run(sent())
        return answer.status_code, answer.json() if answer.content else None

    def get(self, path: str) -> tuple[int, Any]:
        return self.send("GET", path)

    def post(self, path: str, **body: Any) -> tuple[int, Any]:
        return self.send("POST", path, body)

    def delete(self, path: str) -> tuple[int, Any]:
        return self.send("DELETE", path)
