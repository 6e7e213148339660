"""A small corpus of plain facts, and a teacher behind real HTTP that can read them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.http_serving import serving

PLACES = ("Norhaven", "Eastmere", "Quillford", "Tarnwick", "Oldbury", "Sablecliff", "Wexmoor")
THINGS = {
    "lighthouse": "painted in red and white bands by a guild of {n} sailors",
    "bridge": "made of {n} granite arches that were cut by hand",
    "market": "held on the {n}th day of every month behind the town hall",
}
FACT = re.compile(r"The (?P<thing>\w+) of (?P<place>\w+) is (?P<answer>[^.]+)\.")


@pytest.fixture
def corpus_folder(tmp_path: Path) -> Path:
    """Seven documents of three facts each, and one file that cannot be read as text."""
    folder = tmp_path / "towns"
    folder.mkdir()
    for number, place in enumerate(PLACES):
        facts = [
            f"The {thing} of {place} is {how.format(n=10 * number + offset + 4)}. "
            f"Visitors who come to see the {thing} usually arrive in the early morning."
            for offset, (thing, how) in enumerate(THINGS.items())
        ]
        (folder / f"{place.lower()}.md").write_text(f"# {place}\n\n" + "\n\n".join(facts))
    (folder / "photo.txt").write_bytes(b"\x00\x01\x02" * 100)
    return folder


class ScriptedTeacher(ThreadingHTTPServer):
    """An OpenAI-compatible chat endpoint that answers from the facts it is shown."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.num_requests = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def reply(self, messages: list[dict[str, str]]) -> str:
        text = "\n".join(message["content"] for message in messages)
        user = messages[-1]["content"]
        facts = list(FACT.finditer(user))
        if "Question: " not in user:
            return "\n".join(f"What is the {f['thing']} of {f['place']}?" for f in facts)
        question = user.rpartition("Question: ")[2]
        fact = next(f for f in facts if f["thing"] in question and f["place"] in question)
        assert "<answer>" in text
        return (
            f"The question is about the {fact['thing']} of {fact['place']}. "
            f'<quote doc="1">{fact[0]}</quote>\n<answer>{fact["answer"]}</answer>'
        )


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedTeacher

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.num_requests += 1
        content = self.server.reply(body["messages"])
        answer = {
            "id": "1",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": content},
                }
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        }
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedTeacher]:
    """The teacher, and the setting that names it."""
    server = ScriptedTeacher()
    with serving(server):
        monkeypatch.setenv("RAFTLINE_TEACHER_BASE_URL", server.base_url)
        yield server
