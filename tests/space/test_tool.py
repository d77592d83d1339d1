"""The page as a tool for language models: a real MCP client calls it, and without `--mcp` there is nothing to call."""

import asyncio
import base64
import json

import pytest
from space_helpers import EXAMPLES, serving

pytest.importorskip("gradio", reason="the page is optional: install rmn-hub[demo]")
pytest.importorskip("mcp", reason="the tool is optional: install rmn-hub[mcp]")

from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from rmn_space import safety

ASTRONAUT = base64.b64encode((EXAMPLES / "astronaut.jpg").read_bytes()).decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("tool") / "temporary", options=["--mcp"]) as server:
        yield server


def with_session(server, work):
    """What `work` makes of a client that has begun a session."""

    async def run():
        async with (
            streamablehttp_client(f"{server.url}/gradio_api/mcp", timeout=120) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await work(session)

    return asyncio.run(run())


def test_the_tool_is_listed_with_its_description(server):
    tools = with_session(server, lambda session: session.list_tools()).tools
    assert [tool.name for tool in tools] == ["predict"]
    assert "reading order" in tools[0].description
    assert list(tools[0].inputSchema["properties"]) == ["photo"]
    assert "base64" in tools[0].inputSchema["properties"]["photo"]["description"]


@pytest.mark.parametrize("head", ["", "data:image/jpeg;base64,"])
def test_it_returns_the_result_of_the_page(server, head):
    answer = with_session(server, lambda session: session.call_tool("predict", {"photo": head + ASTRONAUT}))
    assert not answer.isError
    result = json.loads(answer.content[0].text)
    (expected,) = server.predict({"url": "data:image/jpeg;base64," + ASTRONAUT})["faces"]
    (face,) = result["faces"]
    assert face["expression"] == expected["expression"] == "happy"
    assert face["box"] == pytest.approx(expected["box"], abs=0.01)
    # What was sent lies on no disk.
    assert server.files() == []


@pytest.mark.parametrize(
    ("photo", "sentence"),
    [
        ("https://example.com/a.jpg", safety.NOT_AN_IMAGE),
        ("/etc/passwd", safety.NOT_AN_IMAGE),
        ("data:text/plain,hello", safety.NOT_AN_IMAGE),
        (base64.b64encode(b"hello").decode(), "photo "),
    ],
)
def test_what_is_no_photo_gets_its_sentence(server, photo, sentence):
    answer = with_session(server, lambda session: session.call_tool("predict", {"photo": photo}))
    assert answer.isError
    assert sentence in answer.content[0].text
    assert server.files() == []


def test_other_hosts_are_refused(server):
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert server.post("/gradio_api/mcp", body, {"Host": "attacker.example"})[0] == 403


def test_the_about_tab_names_its_address(server):
    assert "/gradio_api/mcp" in server.get("/")[1]


def test_without_the_option_there_is_no_tool(tmp_path):
    with serving(tmp_path / "temporary") as server:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        assert server.post("/gradio_api/mcp", body)[0] == 404
        assert server.get("/gradio_api/mcp/")[0] == 404
        status, page = server.get("/")
        assert status == 200
        assert "/gradio_api/mcp" not in page
        assert "/tool" not in json.loads(server.get("/gradio_api/info")[1])["named_endpoints"]
