"""What the page forgets, stops and bounds: parts of it, without the page."""

import asyncio
import io
import logging
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from PIL import Image
from space_helpers import EXAMPLES, jpeg_url

from rmn_hub import InputError

pytest.importorskip("gradio", reason="the page is optional: install rmn-hub[demo]")

import gradio as gr
import uvicorn
from gradio.data_classes import ImageData, PredictBodyInternal
from gradio.server_messages import HeartbeatMessage
from rmn_space import decoding, page, requests, safety, turns, video
from rmn_space.decoding import Decoder
from rmn_space.guard import Guard
from rmn_space.inputs import CameraInput, Photo
from rmn_space.service import Service, smallest_face, usual_face
from rmn_space.sweeping import Sweeper


def until(state):
    """Wait for a state, which comes at once or never."""
    end = time.monotonic() + 60
    while not state():
        assert time.monotonic() < end
        time.sleep(0.01)


ASTRONAUT = (EXAMPLES / "astronaut.jpg").read_bytes()


# Decoding


@pytest.fixture(scope="module")
def slow():
    """A WebP of 4 million pixels of noise."""
    buffer = io.BytesIO()
    Image.effect_noise((2000, 2000), 90).convert("RGB").save(buffer, "WEBP", quality=60, method=0)
    return buffer.getvalue()


def test_a_decoder_returns_what_the_recognizer_sees():
    from rmn_hub.images import load_image

    decoder = Decoder(processes=1)
    for _ in range(2):
        loaded, expected = decoder.load(ASTRONAUT, "a.jpg", 10**6), load_image(ASTRONAUT, "a.jpg")
        assert loaded.image.tobytes() == expected.image.tobytes()
        assert (loaded.source, loaded.width, loaded.height) == ("a.jpg", 512, 512)
    with pytest.raises(InputError, match=r"^a\.jpg is not an image"):
        decoder.load(b"hello", "a.jpg", 10**6)
    with pytest.raises(InputError, match=r"smaller first$"):
        decoder.load(ASTRONAUT, "a.jpg", 1000)
    decoder.close()


def test_nothing_of_a_photo_stays_until_the_next_one():
    """Neither in the process that has decoded it, nor in the thread that has read its pixels."""
    import psutil

    buffer = io.BytesIO()
    Image.new("RGB", (6000, 4000)).save(buffer, "PNG")
    decoder = Decoder(processes=1)
    decoder.load(ASTRONAUT, "a.jpg", 10**6)
    worker = decoder._idle.get()
    process = psutil.Process(worker.process.pid)
    before = process.memory_info().rss
    decoder._idle.put(worker)
    pixels = len(decoder.load(buffer.getvalue(), "b.png", 10**8).image.tobytes())

    def thread_holds():
        frames = [frame for top in sys._current_frames().values() for frame, _ in traceback.walk_stack(top)]
        values = [
            value
            for frame in frames
            if frame.f_code.co_filename == decoding.__file__
            for value in frame.f_locals.values()
        ]
        return any(isinstance(value, tuple) and len(value[1]) >= pixels for value in values if value)

    until(lambda: process.memory_info().rss < before + pixels / 2)
    until(lambda: not thread_holds())
    decoder.close()


@pytest.mark.skipif(not hasattr(__import__("signal"), "setitimer"), reason="this system has no timer of CPU")
def test_an_image_that_takes_too_much_cpu_is_stopped(slow):
    decoder = Decoder(processes=1, cpu_seconds=0.002)
    with pytest.raises(InputError) as stopped:
        decoder.load(slow, "a.webp", 10**8)
    assert str(stopped.value) == decoding.TOO_LONG


def test_an_image_that_takes_too_long_or_is_not_wanted_is_stopped_and_the_next_one_decoded(slow):
    decoder = Decoder(processes=1)
    decoder.seconds = 0
    with pytest.raises(InputError) as stopped:
        decoder.load(slow, "a.webp", 10**8)
    assert str(stopped.value) == decoding.TOO_LONG
    decoder.seconds = 60
    with pytest.raises(InputError) as stopped:
        decoder.load(slow, "a.webp", 10**8, wanted=lambda: False)
    assert str(stopped.value) == decoding.VISITOR_LEFT
    assert decoder.load(ASTRONAUT, "a.jpg", 10**6).image.size == (512, 512)
    decoder.close()


@pytest.mark.skipif(not __import__("sys").platform.startswith("linux"), reason="only Linux limits a process's memory")
def test_an_image_that_takes_too_much_memory_is_refused():
    buffer = io.BytesIO()
    Image.new("LA", (6000, 4000)).save(buffer, "PNG")
    decoder = Decoder(processes=1, memory=200_000_000)
    with pytest.raises(InputError) as stopped:
        decoder.load(buffer.getvalue(), "a.png", 10**8)
    assert str(stopped.value) == decoding.TOO_MUCH
    decoder.close()


def test_progressive_frames_of_a_camera_are_nothing():
    buffer = io.BytesIO()
    Image.open(EXAMPLES / "astronaut.jpg").save(buffer, "JPEG", progressive=True)
    camera = CameraInput(streaming=True, sources=["webcam"], render=False)
    assert camera.preprocess(ImageData(url=jpeg_url(buffer.getvalue()))) is None


# What is recognized


@pytest.fixture(scope="module")
def service():
    service = Service()
    yield service
    service.close()


def test_few_detectors_are_kept_whatever_sizes_are_asked_for(service):
    image = Image.new("RGB", (100, 100))
    for size in range(20, 30):
        service._recognize_here(image, size, 0.0, False)
    assert service._recognizer.cache_info().currsize <= 4


@pytest.mark.parametrize(
    ("size", "asked", "searched"),
    [
        ((1280, 960), 20, 20),
        ((1280, 960), 40, None),
        ((1280, 960), 50, 50),
        ((4000, 3000), 20, 30),
        ((4000, 3000), 60, None),
        ((4000, 3000), 70, 70),
        ((5800, 4200), 20, 40),
        ((5800, 4200), 100, 100),
    ],
)
def test_the_smallest_face_grows_with_the_photo(size, asked, searched):
    assert smallest_face(asked, Image.new("1", size), size[0]) == searched


@pytest.mark.parametrize(("size", "width"), [((640, 480), 640), ((4000, 3000), 4000), ((3000, 3000), 6000)])
def test_a_larger_smallest_face_never_finds_smaller_ones(size, width):
    image = Image.new("1", size)
    searched = [smallest_face(asked, image, width) or usual_face(image) for asked in range(20, 201, 10)]
    assert searched == sorted(searched)
    assert searched[-1] * width / size[0] == 200


def test_a_phones_photo_fits_and_a_larger_jpeg_is_read_at_half_its_size(service):
    buffer = io.BytesIO()
    photo = Image.open(EXAMPLES / "astronaut.jpg").resize((6000, 6000))
    photo.save(buffer, "JPEG", quality=50)
    assert safety.MAX_PIXELS >= 5712 * 4284
    result, image = service.recognize(Photo("large.jpg", buffer.getvalue()))
    assert (result.width, result.height, image.size) == (6000, 6000, (3000, 3000))
    assert "half its size" in result.message
    x0, y0, x1, y1 = result[0].box
    assert x0 < 223 / 512 * 6000 < x1
    assert y0 < 116 / 512 * 6000 < y1


def test_a_photo_on_its_side_is_turned_at_every_smallest_face(service):
    buffer = io.BytesIO()
    Image.open(EXAMPLES / "astronaut.jpg").rotate(90).save(buffer, "JPEG", quality=95)
    for smallest in (None, 60):
        result, _ = service.recognize(Photo("a.jpg", buffer.getvalue()), min_face=smallest)
        assert (len(result), result.turned) == (1, 90)
        assert "turned" in result.message


# What is forgotten


@pytest.fixture
def blocks(service):
    blocks = page.build(service, safety.RateLimit())
    blocks.queue()
    return blocks


def test_sessions_are_forgotten(blocks):
    holder = blocks.state_holder
    holder.set_blocks(blocks)
    _ = holder["old"], holder["new"]
    holder.time_last_used["old"] = holder.time_last_used["old"].replace(year=2000)
    Sweeper(blocks, 360).sweep()
    assert list(holder.session_data) == ["new"]


def test_results_that_are_not_fetched_are_forgotten(blocks):
    queue = blocks._queue
    for session in ("unread", "read", "working"):
        queue.pending_messages_per_session[session] = asyncio.Queue()
        queue.pending_messages_per_session[session].put_nowait(HeartbeatMessage())
        queue.pending_event_ids_session[session] = {"a"}
    queue.active_jobs = [None, [SimpleNamespace(session_hash="working")]]
    sweeper = Sweeper(blocks, 330)
    sweeper.sweep(1000)
    queue.pending_messages_per_session["read"].get_nowait()
    sweeper.sweep(1015)
    queue.pending_messages_per_session["read"].put_nowait(HeartbeatMessage())
    sweeper.sweep(1329)
    assert set(queue.pending_messages_per_session) == {"unread", "read", "working"}
    sweeper.sweep(1345)
    assert set(queue.pending_messages_per_session) == {"read", "working"} == set(queue.pending_event_ids_session)


def test_nothing_is_kept_longer_than_promised(monkeypatch, tmp_path):
    """Six minutes: the page is served without a network, for two looks at what is to be forgotten."""
    waits, ages, looks = [], {}, []

    def stopped(seconds):
        waits.append(seconds)
        return len(waits) > 2

    def sweeper(blocks, age):
        ages["sessions"] = age
        return SimpleNamespace(sweep=lambda: looks.append("sessions"))

    def sweep_files(age):
        ages["files"] = age
        looks.append("files")
        raise FileNotFoundError("a folder that was removed meanwhile")  # the page stays

    def nothing(*_, **__):
        pass

    blocks = SimpleNamespace(queue=nothing, launch=lambda **_: (None, "here", None), mcp_error=None, close=nothing)
    event = SimpleNamespace(wait=stopped, set=nothing)
    threads = {"Event": lambda: event, "current_thread": lambda: "another", "main_thread": lambda: "the main one"}
    monkeypatch.setattr(page, "build", lambda *_: blocks)
    monkeypatch.setattr(page, "Sweeper", sweeper)
    monkeypatch.setattr(page, "share_turns", nothing)
    monkeypatch.setattr(page, "threading", SimpleNamespace(**threads))
    monkeypatch.setattr(logging.getLogger("asyncio"), "setLevel", nothing)
    folder = SimpleNamespace(uploads=tmp_path, sweep=sweep_files, remove=nothing)
    page.serve(SimpleNamespace(close=nothing), folder, "127.0.0.1", None, share=False, open_browser=False)
    assert sorted(looks) == ["files", "files", "sessions", "sessions"]
    # A result that is not fetched is noticed at a look, and forgotten at the first one that finds it too old.
    assert ages["sessions"] + 2 * max(waits) <= 360
    assert ages["files"] + max(waits) <= 360


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no hang-up")
def test_a_page_that_is_to_outlive_its_terminal_ignores_the_hang_up():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    stop = threading.Event()
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        page._stop_at_signals(stop)
        signal.raise_signal(signal.SIGHUP)
        assert not stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)


def test_the_chosen_example_outlives_the_session(blocks):
    fns = [fn for fn in blocks.fns.values() if fn.name == "show"]
    assert len(fns) == 4
    assert all(each.get_block_name() != "state" for fn in fns for each in fn.inputs)
    anna = SimpleNamespace(client=SimpleNamespace(host="10.0.0.1"), headers={})
    for chosen, faces in (("collage.jpg", 8), (None, 1), ("", 1), ("../safety.py", 1)):
        html = fns[0].fn(None, chosen, 40, 0, anna)
        assert html.count('class="rmn-face') == faces


@contextmanager
def running_event():
    """An event of the page that is running now, and its queue."""
    event = Mock(alive=True)
    queue = SimpleNamespace(event_ids_to_events={"e": event})
    context = requests.LocalContext
    tokens = context.blocks.set(SimpleNamespace(_queue=queue)), context.event_id.set("e")
    try:
        yield event, queue
    finally:
        context.blocks.reset(tokens[0])
        context.event_id.reset(tokens[1])
        turns.left.clear()


def test_who_has_left_stops_the_work():
    with running_event() as (event, queue):
        stays = requests.visitor_stays()
        assert stays()
        turns.left.add(event)
        assert not stays()
        turns.left.clear()
        event.alive = False
        assert not stays()
        queue.event_ids_to_events.clear()
        assert stays()


@pytest.mark.parametrize("photo", [None, Photo("a.jpg", ASTRONAUT)])
def test_a_photo_that_is_not_asked_for_any_more_changes_nothing(blocks, monkeypatch, photo):
    show = next(fn.fn for fn in blocks.fns.values() if fn.name == "show")
    anna = SimpleNamespace(client=SimpleNamespace(host="10.0.0.1"), headers={})
    recognize = Service.recognize
    with running_event() as (event, _):

        def replaced_meanwhile(*given, **named):
            result = recognize(*given, **named)
            turns.left.add(event)
            return result

        assert 'class="rmn-face' in show(photo, None, 40, 0, anna)
        monkeypatch.setattr(Service, "recognize", replaced_meanwhile)
        assert show(photo, None, 40, 0, anna) == gr.skip()
        # And nobody decodes it where it was replaced before.
        assert show(photo, None, 40, 0, anna) == gr.skip()


# Turns


def test_the_turn_of_a_film_comes_before_its_file_is_deleted():
    """Even that of the last one that may wait: one runs, and the others before it take all the time that they may."""
    assert turns.FILMS_WAITING * video.FILM_SECONDS < safety.FILE_AGE
    assert video.FILM_SECONDS > 2 * video.MAX_SECONDS


def waiting(blocks, name, host, session=None):
    """Whether an event of the page may wait for its turn, and the sentence where it may not."""
    number = next(number for number, function in blocks.fns.items() if function.name == name)
    body = PredictBodyInternal(fn_index=number, data=[None], session_hash=session)
    request = SimpleNamespace(client=SimpleNamespace(host=host), headers={})
    accepted, sentence, state = asyncio.run(blocks._queue.push(body, request, None))
    assert state in (("success",) if accepted else ("error", "queue_full"))
    assert accepted or sentence == safety.TOO_MANY_WAITING
    return accepted


def test_films_and_one_visitor_leave_places_for_the_others(blocks):
    blocks.queue(max_size=turns.WAITING)
    turns.share_turns(blocks)
    assert [waiting(blocks, "video", "10.0.0.1") for _ in range(4)] == [True, True, False, False]
    films = [waiting(blocks, "video", f"10.0.0.{number}") for number in range(2, 5)]
    assert films == [True, False, False]
    assert not waiting(blocks, "show_example_film", "10.0.0.20", "visit")
    photos = [waiting(blocks, "predict_photo", "10.0.0.1") for _ in range(17)]
    assert photos.index(False) == turns.OF_ONE_VISITOR - turns.FILMS_OF_ONE_VISITOR
    assert waiting(blocks, "predict_photo", "10.0.0.9")


@pytest.mark.parametrize(
    ("group", "seen", "program", "other"),
    [("film", "show_film", "video", "show_example_film"), ("photo", "show", "predict_photo", "show")],
)
def test_what_a_visitor_asks_for_takes_the_place_of_what_was_asked_before(blocks, group, seen, program, other):
    blocks.queue(max_size=turns.WAITING)
    turns.share_turns(blocks)
    queue = blocks._queue
    assert waiting(blocks, seen, "10.0.0.1", "one")
    assert waiting(blocks, seen, "10.0.0.1", "another")
    events = queue.event_queue_per_concurrency_id[group].queue
    running = events.pop(0)  # its turn has come
    assert waiting(blocks, program, "10.0.0.1", "one")
    assert waiting(blocks, seen, "10.0.0.2", "one")
    replaced = events[-1]
    assert waiting(blocks, other, "10.0.0.2", "one")
    assert [(event.session_hash, event.fn.name) for event in events] == [
        ("another", seen),
        ("one", program),
        ("one", other),
    ]
    assert running in turns.left
    assert not set(events) & set(turns.left)
    # The browser is told that the one that waited is over.
    messages = queue.pending_messages_per_session["one"]
    sent = [messages.get_nowait() for _ in range(messages.qsize())]
    assert [each.event_id for each in sent if each.msg == "process_completed"] == [replaced._id]


# The door


async def hello(scope, receive, send):
    message = await receive()
    while message["type"] == "http.request" and message.get("more_body"):
        message = await receive()
    if message["type"] == "http.disconnect":
        raise RuntimeError("the body has not come")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
    await send({"type": "http.response.body", "body": b"hello\n"})


def ask(guard, path="/", method="GET", headers=(), parts=(b"",), client="10.0.0.1", forwarded=None):
    """Status of a request; after its parts nothing comes any more."""
    headers = [(b"host", b"localhost:7860"), *headers]
    if forwarded:
        headers.append((b"x-forwarded-for", forwarded.encode()))
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}
    waiting = iter([*parts[:-1], *([parts[-1]] if parts else [])])
    sent = []

    async def receive():
        part = next(waiting, None)
        if part is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": part, "more_body": part != parts[-1] or part == b"half"}

    async def send(message):
        sent.append(message)

    asyncio.run(guard(scope | {"client": (client, 1)}, receive, send))
    return sent[0]["status"]


def test_a_body_that_stops_arriving_is_given_up():
    guard = Guard(hello, safety.RateLimit(), part_seconds=0.01)
    multipart = (b"content-type", b"multipart/form-data; boundary=a")
    assert ask(guard, "/gradio_api/upload", "POST", [multipart], (b"half",)) == 408
    assert ask(guard, "/gradio_api/queue/join", "POST", [], (b"half",)) == 408
    assert ask(guard, "/gradio_api/upload", "POST", [multipart], (b"a", b"b")) == 200


def test_calls_uploads_and_frames_have_a_rate_of_their_own(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    rate, frames = (safety.RateLimit(burst=2, per_second=0) for _ in range(2))
    guard = Guard(hello, rate, frames)
    for path in ("/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/stream/abc"):
        assert [ask(guard, path, "POST", parts=(b"{}",), forwarded=f"1.1.1.{i}") for i in range(3)] == [200, 200, 429]
    assert ask(guard, "/gradio_api/call/predict", "POST", parts=(b"{}",)) == 429
    assert ask(guard, "/gradio_api/call/predict", "POST", parts=(b"{}",), client="10.0.0.2") == 200
    # On a Space everybody comes through the proxy, which adds the last entry.
    monkeypatch.setenv("SPACE_ID", "somebody/rmn")
    calls = [ask(guard, "/call/predict", "POST", parts=(b"{}",), forwarded=f"9.9.9.{i}, 2.2.2.2") for i in range(3)]
    assert calls == [200, 200, 429]


def test_a_visitors_uploads_are_bounded_in_bytes(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    guard = Guard(hello, safety.RateLimit())
    guard.megabytes = safety.RateLimit(burst=25, per_second=0)
    multipart = (b"content-type", b"multipart/form-data; boundary=a")
    large = [multipart, (b"content-length", b"10000000")]
    assert [ask(guard, "/gradio_api/upload", "POST", large) for _ in range(3)] == [200, 200, 429]
    # One that does not state its length counts as the largest.
    assert ask(guard, "/gradio_api/upload", "POST", [multipart]) == 429
    assert ask(guard, "/gradio_api/upload", "POST", [multipart, (b"content-length", b"5000000")]) == 200
    assert ask(guard, "/gradio_api/upload", "POST", large, client="10.0.0.2") == 200


@pytest.mark.parametrize(
    ("host", "share", "asked", "status"),
    [
        ("127.0.0.1", False, b"localhost:7860", 200),
        ("127.0.0.1", False, b"[::1]:7860", 200),
        ("127.0.0.1", False, b"evil.example", 403),
        ("127.0.0.1", False, b"localhost.evil.example", 403),
        ("127.0.0.1", True, b"abc.gradio.live", 200),
        ("0.0.0.0", False, b"my-computer", 200),
        ("192.168.1.2", False, b"my-computer", 200),
    ],
)
def test_a_page_for_this_computer_has_its_names_only(monkeypatch, host, share, asked, status):
    monkeypatch.delenv("SPACE_ID", raising=False)
    guard = Guard(hello, safety.RateLimit(), hosts=page.names_of(host, share))
    scope_headers = [(b"host", asked)]
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": scope_headers}
    asyncio.run(guard(scope, receive, send))
    assert sent[0]["status"] == status


def test_half_a_head_is_closed_and_whole_requests_are_not():
    server = uvicorn.Server(uvicorn.Config(Guard(hello, safety.RateLimit()), port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        address = server.servers[0].sockets[0].getsockname()
        half = socket.create_connection(address, 60)
        half.sendall(b"GET / HTTP/1.1\r\nHost: localh")
        whole = socket.create_connection(address, 60)
        whole.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        response = whole.makefile("rb")
        assert response.readline().startswith(b"HTTP/1.1 200")
        assert any(b"hello" in line for line in response)
        while len(server.server_state.connections) < 2:
            time.sleep(0.01)
        sweeper = Sweeper(SimpleNamespace(server=server), 360)
        sweeper.close_half_requests(0)
        sweeper.close_half_requests(29)
        whole.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert response.readline().startswith(b"HTTP/1.1 200")
        sweeper.close_half_requests(31)
        assert half.recv(100) == b""
        half.close()
        whole.close()
    finally:
        server.should_exit = True
        thread.join(60)
