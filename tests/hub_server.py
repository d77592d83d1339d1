"""A small Hub in memory for the real huggingface_hub client, over HTTP, with the standard library and PyYAML.

Models, and Spaces as far as uploads go: files, revisions, tags, LFS, commits and error codes. The client has to have
xet off.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml


class Hub:
    def __init__(self):
        self.repos = {}  # id -> {"commits": {sha: {path: bytes}}, "refs": {name: sha}}
        self.spaces = {}  # id -> SDK, of those repositories that are Spaces
        self.lfs = {}  # sha256 -> bytes
        self.log = []
        self.broken = set()  # repositories whose safetensors break off half-way
        self.gated = set()  # repositories that one has to ask for
        self.marks = {}  # name -> what to do when the client asks for /-/name
        self.lock = threading.Lock()

    def create(self, rid):
        if rid in self.repos:
            return False
        self.repos[rid] = {"commits": {}, "refs": {}}
        self.commit(rid, "main", {})
        return True

    def commit(self, rid, rev, files, delete=()):
        r = self.repos[rid]
        base = dict(r["commits"].get(r["refs"].get(rev, r["refs"].get("main")), {}))
        base.update(files)
        for d in delete:
            base.pop(d, None)
        content = sorted((k, hashlib.sha1(v).hexdigest()) for k, v in base.items())
        h = hashlib.sha1(repr((rid, rev, len(r["commits"]), content)).encode()).hexdigest()
        r["commits"][h] = base
        r["refs"][rev] = h
        return h

    def resolve(self, rid, rev):
        r = self.repos.get(rid)
        if r is None:
            return None
        rev = rev or "main"
        return rev if rev in r["commits"] else r["refs"].get(rev)


def git_oid(b):
    return hashlib.sha1(b"blob %d\0" % len(b) + b).hexdigest()


def is_lfs(path, size):
    return path.endswith((".safetensors", ".bin", ".onnx", ".png", ".jpg")) or size > 10 * 2**20


# What the Hub's documentation allows, as far as the cards of the tests go.
LICENCES = ("mit", "apache-2.0", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "openrail", "other")
SDKS = ("gradio", "docker", "static")
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
TASKS = ("image-classification", "image-feature-extraction")


def card_errors(kind, content):
    """What the Hub finds wrong with a card's front matter."""
    try:
        _, front, _ = content.split("---\n", 2)
        values = yaml.safe_load(front)
    except (ValueError, yaml.YAMLError) as error:
        return [f"the front matter is no YAML: {error}"]
    found = []

    def check(name, right):
        if name in values and not right(values[name]):
            found.append(f'"{name}" is not valid: {values[name]!r}')

    check("license", lambda value: value in LICENCES)
    check("tags", lambda value: isinstance(value, list) and all(isinstance(tag, str) for tag in value))
    for name in ("datasets", "base_model", "models"):
        check(name, lambda value: all(map(_is_id, value if isinstance(value, list) else [value])))
    if kind == "space":
        check("sdk", lambda value: value in SDKS)
        for name in ("colorFrom", "colorTo"):
            check(name, lambda value: value in COLOURS)
        check("short_description", lambda value: len(value) <= 60)
        return found + [f'"{name}" is required' for name in ("title", "sdk") if name not in values]
    check("pipeline_tag", lambda value: value in TASKS)
    check("model-index", lambda value: all(map(_is_result, value)))
    return found


def _is_id(text):
    return isinstance(text, str) and re.fullmatch(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*", text)


def _is_result(model):
    results = model["results"]
    return isinstance(model["name"], str) and all(
        {"type", "name"} <= set(result["dataset"])
        and "type" in result["task"]
        and all(isinstance(metric["value"], (int, float)) and "type" in metric for metric in result["metrics"])
        for result in results
    )


def make_handler(hub):
    class H(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *a):
            pass

        def out(self, code, body=b"", headers=None, ctype="application/json"):
            if not isinstance(body, bytes):
                body = json.dumps(body).encode()
            with hub.lock:
                hub.log.append(f"{self.command} {self.path} -> {code}")
            self.send_response(code)
            h = {"Content-Type": ctype, "Content-Length": str(len(body)), **(headers or {})}
            for k, v in h.items():
                self.send_header(k, v)
            self.end_headers()
            if self.command != "HEAD":
                if self.path.endswith(".safetensors") and "/".join(self.path.split("/")[1:3]) in hub.broken:
                    body = body[: len(body) // 2]
                    self.close_connection = True
                self.wfile.write(body)

        def err(self, code, kind, extra=None):
            self.out(code, {"error": kind}, {"X-Error-Code": kind, "X-Error-Message": kind, **(extra or {})})

        def body(self):
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                data = b""
                while True:
                    n = int(self.rfile.readline().split(b";")[0], 16)
                    chunk = self.rfile.read(n)
                    self.rfile.readline()
                    if n == 0:
                        return data
                    data += chunk
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def do_GET(self):
            raw = urlsplit(self.path).path
            if raw.startswith("/-/"):
                hub.marks.get(unquote(raw.removeprefix("/-/")), lambda: None)()
                return self.out(200, {})
            # model info, at a revision or at the default branch
            if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", raw):
                rid, rev = m[1], unquote(m[2]) if m[2] else None
                if rid not in hub.repos:
                    return self.err(401, "RepoNotFound")
                sha = hub.resolve(rid, rev)
                if sha is None:
                    return self.err(404, "RevisionNotFound")
                return self.out(
                    200,
                    {
                        "id": rid,
                        "modelId": rid,
                        "sha": sha,
                        "private": False,
                        "tags": [],
                        "pipeline_tag": "image-classification",
                        "library_name": "transformers",
                        "siblings": [{"rfilename": f} for f in sorted(hub.repos[rid]["commits"][sha])],
                    },
                )
            # tree (snapshot_download, list_repo_tree)
            if m := re.fullmatch(r"/api/(?:models|spaces)/([^/]+/[^/]+)/tree/([^/]+)", raw):
                sha = hub.resolve(m[1], unquote(m[2]))
                if sha is None:
                    return self.err(404, "RevisionNotFound")
                ents = []
                for f, b in sorted(hub.repos[m[1]]["commits"][sha].items()):
                    e = {"type": "file", "oid": git_oid(b), "size": len(b), "path": f}
                    if is_lfs(f, len(b)):
                        e["lfs"] = {"oid": hashlib.sha256(b).hexdigest(), "size": len(b), "pointerSize": 134}
                    ents.append(e)
                return self.out(200, ents)
            if raw == "/api/whoami-v2":
                return self.out(
                    200, {"name": "org", "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}}
                )
            # files
            if m := re.fullmatch(r"/(?:spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", raw):
                if m[1] in hub.gated:
                    return self.err(403, "GatedRepo")
                rid, rev, f = m[1], unquote(m[2]), unquote(m[3])
                if rid not in hub.repos:
                    return self.err(401, "RepoNotFound")
                sha = hub.resolve(rid, rev)
                if sha is None:
                    return self.err(404, "RevisionNotFound")
                b = hub.repos[rid]["commits"][sha].get(f)
                if b is None:
                    return self.err(404, "EntryNotFound", {"X-Repo-Commit": sha})
                etag = hashlib.sha256(b).hexdigest() if is_lfs(f, len(b)) else git_oid(b)
                return self.out(
                    200,
                    b,
                    {"X-Repo-Commit": sha, "ETag": f'"{etag}"', "Accept-Ranges": "none"},
                    "application/octet-stream",
                )
            return self.err(404, "NotFound")

        do_HEAD = do_GET

        @staticmethod
        def oid_of(path, b):
            if b is None:
                return None
            return hashlib.sha256(b).hexdigest() if is_lfs(path, len(b)) else git_oid(b)

        def do_PUT(self):
            data = self.body()
            if m := re.fullmatch(r"/_lfs/([0-9a-f]{64})", self.path):
                if hashlib.sha256(data).hexdigest() != m[1]:
                    return self.err(400, "BadSha")
                hub.lfs[m[1]] = data
                return self.out(200, b"")
            return self.err(404, "NotFound")

        def do_POST(self):
            data = self.body()
            raw = urlsplit(self.path).path
            host = f"http://{self.headers['Host']}"

            def place(rid):
                return f"spaces/{rid}" if rid in hub.spaces else rid

            if not self.headers.get("Authorization") and raw != "/api/validate-yaml":
                return self.err(401, "Unauthorized")
            if raw == "/api/repos/create":
                d = json.loads(data)
                rid = f"{d['organization'] or 'org'}/{d['name']}"
                ok = hub.create(rid)
                if d.get("type") == "space":
                    hub.spaces[rid] = d["sdk"]
                return self.out(200 if ok else 409, {"url": f"{host}/{place(rid)}", "name": rid})
            if raw == "/api/validate-yaml":
                card = json.loads(data)
                errors = [{"message": text} for text in card_errors(card["repoType"], card["content"])]
                return self.out(400 if errors else 200, {"errors": errors, "warnings": []})
            if m := re.fullmatch(r"/api/(?:models|spaces)/([^/]+/[^/]+)/preupload/(.+)", raw):
                if m[1] not in hub.repos:
                    return self.err(404, "RepoNotFound")
                cur = hub.repos[m[1]]["commits"].get(hub.resolve(m[1], unquote(m[2])), {})
                return self.out(
                    200,
                    {
                        "files": [
                            {
                                "path": f["path"],
                                "uploadMode": "lfs" if is_lfs(f["path"], f["size"]) else "regular",
                                "shouldIgnore": False,
                                "oid": self.oid_of(f["path"], cur.get(f["path"])),
                            }
                            for f in json.loads(data)["files"]
                        ]
                    },
                )
            if m := re.fullmatch(r"/(?:spaces/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", raw):
                objs = []
                for o in json.loads(data)["objects"]:
                    e = {"oid": o["oid"], "size": o["size"]}
                    if o["oid"] not in hub.lfs:
                        e["actions"] = {"upload": {"href": f"{host}/_lfs/{o['oid']}", "header": {}}}
                    objs.append(e)
                return self.out(200, {"transfer": "basic", "objects": objs}, ctype="application/vnd.git-lfs+json")
            if m := re.fullmatch(r"/api/(?:models|spaces)/([^/]+/[^/]+)/commit/(.+)", raw):
                files, dele = {}, []
                for line in data.splitlines():
                    it = json.loads(line)
                    v = it["value"]
                    if it["key"] == "file":
                        files[v["path"]] = base64.b64decode(v["content"])
                    elif it["key"] == "lfsFile":
                        files[v["path"]] = hub.lfs[v["oid"]]
                    elif it["key"] == "deletedFile":
                        dele.append(v["path"])
                sha = hub.commit(m[1], unquote(m[2]), files, dele)
                return self.out(
                    200,
                    {
                        "success": True,
                        "commitUrl": f"{host}/{place(m[1])}/commit/{sha}",
                        "commitOid": sha,
                        "pullRequestUrl": None,
                        "hookOutput": "",
                    },
                )
            if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(branch|tag)/(.+)", raw):
                r = hub.repos[m[1]]
                d = json.loads(data or b"{}")
                name = d.get("tag") if m[2] == "tag" else unquote(m[3])
                if name in r["refs"]:
                    return self.err(409, "Conflict")
                start = unquote(m[3]) if m[2] == "tag" else d.get("startingPoint", "main")
                r["refs"][name] = hub.resolve(m[1], start)
                return self.out(200, {})
            return self.err(404, "NotFound")

    return H


@contextlib.contextmanager
def serving(hub):
    """Serve a Hub on this machine, and yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), make_handler(hub)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
