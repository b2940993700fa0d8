"""Finding videos: every odd path ends as a video or as one sentence, in any order of the paths."""

import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.media.find import Found, find_videos
from engine.media.names import output_names, shown
from engine.store.files import write_atomic
from engine.store.keys import fingerprint


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    return folder


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content of " + os.fsencode(name))


def names(found: Found) -> list[str]:
    return [video.name for video in found.videos]


def only_problem(found: Found) -> tuple[str, str]:
    [problem] = found.problems
    return problem.code, problem.message


def test_folder_is_searched_and_its_tree_is_mirrored(films: Path, out: Path) -> None:
    put(films, "b.mp4", "a.MKV", "season 1/x.webm", "season 1/deep/y.wav", "notes.txt", "a.srt")
    found = find_videos([films], out)
    assert names(found) == ["a", "b", "season 1/deep/y", "season 1/x"]
    assert found.problems == ()
    video = found.videos[1]
    facts = (films / "b.mp4").stat()
    assert (video.path, video.size) == (str(films / "b.mp4"), facts.st_size)
    assert video.mtime_ns == facts.st_mtime_ns
    assert video.fingerprint == fingerprint(video.path, video.size)


def test_named_file_is_taken_whatever_its_suffix(films: Path, out: Path) -> None:
    put(films, "recording.dat", "talk")
    found = find_videos([films / "recording.dat", films / "talk"], out)
    assert names(found) == ["recording", "talk"]


def test_relative_paths_become_absolute(
    films: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(films, "a.mp4", "-b.mp4", "concat:a.mp4|b.mp4")
    monkeypatch.chdir(films)
    found = find_videos(["."], out)
    assert [video.path for video in found.videos] == [
        str(films / name) for name in ("-b.mp4", "a.mp4", "concat:a.mp4|b.mp4")
    ]
    assert find_videos(["-b.mp4", "a.mp4", "concat:a.mp4|b.mp4"], out) == found


def test_path_given_as_path_or_text_is_the_same(films: Path, out: Path) -> None:
    put(films, "a.mp4")
    file = films / "a.mp4"
    assert find_videos([str(file), file], out) == find_videos([file], out)


def test_missing_path_is_one_sentence_and_the_others_go_on(films: Path, out: Path) -> None:
    put(films, "a.mp4")
    found = find_videos([films / "nope.mp4", films / "a.mp4", films / "a.mp4" / "b"], out)
    assert names(found) == ["a"]
    assert [(p.code, p.message) for p in found.problems] == [
        ("E_IO", f"{films}/a.mp4/b does not exist; check the spelling."),
        ("E_IO", f"{films}/nope.mp4 does not exist; check the spelling."),
    ]


def test_message_names_a_file_below_the_working_folder_as_the_user_would(
    films: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(films)
    assert only_problem(find_videos(["sub/nope.mp4"], out))[1].startswith("sub/nope.mp4 does not")


def test_folder_without_videos_is_one_problem(films: Path, out: Path) -> None:
    put(films, "deep/notes.txt")
    code, message = only_problem(find_videos([films], out))
    assert code == "E_NO_VIDEOS"
    assert message.startswith(f"{films} has no videos in it; ")


def test_empty_file_is_one_problem_wherever_it_lies(films: Path, out: Path) -> None:
    (films / "a.mp4").write_bytes(b"")
    for path in (films, films / "a.mp4"):
        code, message = only_problem(find_videos([path], out))
        assert code == "E_MEDIA_INVALID"
        assert message == f"{films}/a.mp4 is empty (0 bytes); copy or download it again."


@pytest.mark.timeout(20)
def test_pipe_socket_and_device_are_named_and_never_opened(films: Path, out: Path) -> None:
    os.mkfifo(films / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(films / "socket.mp4"))
        found = find_videos([films, "/dev/null"], out)
    assert found.videos == ()
    assert {problem.code for problem in found.problems} == {"E_NOT_REGULAR"}
    kinds = [problem.message.split(", not")[0] for problem in found.problems]
    assert kinds == [
        "/dev/null is a device",
        f"{films}/pipe.mp4 is a named pipe",
        f"{films}/socket.mp4 is a socket",
    ]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything; an ordinary user has none to give up."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in folder.iterdir():
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_unreadable_file_and_folder_are_problems_and_the_rest_goes_on(
    open_folder: Path, out: Path
) -> None:
    put(open_folder, "a.mp4", "secret.mp4", "locked/b.mp4")
    (open_folder / "secret.mp4").chmod(0)
    (open_folder / "locked").chmod(0)
    with as_nobody():
        found = find_videos([open_folder, open_folder / "locked" / "b.mp4"], Path("/nowhere"))
    assert names(found) == ["a"]
    assert [p.code for p in found.problems] == ["E_IO", "E_IO", "E_IO"]
    blamed = [p.message.split(" cannot be read (Permission denied)")[0] for p in found.problems]
    assert blamed == [str(open_folder / name) for name in ("locked", "locked/b.mp4", "secret.mp4")]


def test_loop_of_links_ends_and_links_are_followed_only_to_files(films: Path, out: Path) -> None:
    put(films, "real/a.mp4", "elsewhere.data")
    (films / "real" / "up").symlink_to(films)
    (films / "real" / "self.mp4").symlink_to("self.mp4")
    (films / "dangling.mp4").symlink_to("nowhere.mp4")
    (films / "folder.mp4").symlink_to("real")
    (films / "linked.mp4").symlink_to("elsewhere.data")
    found = find_videos([films], out)
    assert names(found) == ["linked", "real/a"]
    assert found.problems == ()
    assert found.videos[0].path == str(films / "linked.mp4")


def test_link_to_a_folder_is_followed_where_it_is_given(tmp_path: Path, films: Path) -> None:
    put(films, "a.mp4")
    (tmp_path / "link").symlink_to(films)
    found = find_videos([tmp_path / "link"], tmp_path / "out")
    assert [(video.path, video.name) for video in found.videos] == [
        (str(tmp_path / "link" / "a.mp4"), "a")
    ]


def test_dangling_link_that_is_named_does_not_exist(films: Path, out: Path) -> None:
    (films / "a.mp4").symlink_to("nowhere.mp4")
    assert "does not exist" in only_problem(find_videos([films / "a.mp4"], out))[1]


def test_each_file_counts_once_however_often_it_is_given(tmp_path: Path, films: Path) -> None:
    put(films, "sub/a.mp4", "b.mp4")
    (tmp_path / "link").symlink_to(films)
    given_paths = [films / "sub" / "a.mp4", films / "sub", films, tmp_path / "link", films]
    for _ in range(4):
        random.Random(7).shuffle(given_paths)
        found = find_videos(given_paths, tmp_path / "out")
        assert names(found) == ["b", "sub/a"]
        assert found.problems == ()


def test_output_folder_is_left_out_where_it_is_met(films: Path) -> None:
    put(films, "a.mp4", "out/old.mp4", ".reelmine/x.mp4")
    assert names(find_videos([films], films / "out")) == ["a"]
    assert names(find_videos([films], films)) == ["a", "out/old"]  # where it is given it is meant


def test_what_macos_leaves_beside_each_file_is_no_video(films: Path, out: Path) -> None:
    put(films, "a.mp4", "._a.mp4")
    assert names(find_videos([films], out)) == ["a"]


def test_equal_stems_keep_their_suffix(films: Path, out: Path) -> None:
    put(films, "talk.mp4", "talk.mkv", "other.mp4")
    assert names(find_videos([films], out)) == ["other", "talk.mkv", "talk.mp4"]


def test_equal_names_from_two_folders_get_a_digest_of_their_path(
    tmp_path: Path, films: Path, out: Path
) -> None:
    put(tmp_path, "one/talk.mp4", "two/talk.mp4", "two/talk.mkv")
    found = names(find_videos([tmp_path / "one", tmp_path / "two"], out))
    assert [name[:9] for name in found] == ["talk.mp4-", "talk.mkv", "talk.mp4-"]
    assert len(set(found)) == 3
    assert {len(name) for name in found} == {8, 17}


def test_names_equal_for_a_disk_that_ignores_case_or_composition_are_told_apart(
    films: Path, out: Path
) -> None:
    put(films, "Talk.mp4", "TALK.mp4", "caf\u00e9.mp4", "cafe\u0301.mp4", "stra\u00dfe.mp4")
    put(films, "STRASSE.mp4", "A/x.mp4", "a/x.mp4", "single.mp4")
    found = names(find_videos([films], out))
    assert len(found) == 9
    assert "single" in found
    assert len({name.casefold() for name in found}) == 9
    assert sum("-" in name for name in found) == 8


def test_name_never_takes_the_place_of_a_folder(films: Path, out: Path) -> None:
    put(films, "talk.mp4", "talk.json/inner.mp4")
    for video in find_videos([films], out).videos:
        write_atomic(out / f"{video.name}.json", b"")
    assert (out / "talk.json" / "inner.json").is_file()


def test_file_that_cannot_be_used_today_holds_its_name(films: Path, out: Path) -> None:
    put(films, "talk.mp4")
    (films / "talk.mkv").write_bytes(b"")
    assert names(find_videos([films], out)) == ["talk.mp4"]
    put(films, "talk.mkv")
    assert names(find_videos([films], out)) == ["talk.mkv", "talk.mp4"]


ODD = [
    b"line\nbreak.mp4",
    b"quote'\"`$x.mp4",
    b"-o.mp4",
    b"--help.mkv",
    b" blank .mp4",
    b"caf\xe9.mp4",
    b"caf\xe8.mp4",
    b"\xff\xfe.mp4",
    b"tab\there\x1b[31m.mp4",
    "👩\u200d👩\u200d👧 é.mp4".encode(),
    b"n" * 251 + b".mp4",
    b"n" * 251 + b".mkv",
    "日".encode() * 83 + b".mp4",
    b"..hidden.mp4",
    b"...mp4",
    b"a.b.c.mp4",
    b"100%d.mp4",
    b"http:x.mp4",
]


def test_files_of_any_name_get_outputs_that_can_be_written(films: Path, out: Path) -> None:
    for name in ODD:
        (films / os.fsdecode(name)).write_bytes(b"content of " + name)
    named = find_videos([films / os.fsdecode(name) for name in ODD], out)
    found = find_videos([films], out)
    assert not named.problems
    assert not found.problems
    by_path = {os.fsencode(video.path): video for video in named.videos}
    assert set(by_path) == {os.fsencode(films) + b"/" + name for name in ODD}
    assert {v.path for v in found.videos} == {v.path for v in named.videos} - {
        str(films / "...mp4")  # a hidden file without a suffix
    }
    for video in named.videos:
        for suffix in (".json", ".srt", ".vtt", ".txt", ".tsv"):
            write_atomic(out / (video.name + suffix), b"")
        assert video.name.isprintable() or "\u200d" in video.name
        assert fingerprint(video.path, video.size) == video.fingerprint
    assert len(os.listdir(out)) == 5 * len(ODD)


def test_problem_with_an_odd_name_is_one_printable_line(films: Path, out: Path) -> None:
    (films / os.fsdecode(b"a\n\xff\x1b.mp4")).write_bytes(b"")
    message = only_problem(find_videos([films], out))[1]
    assert message.startswith(f"{films}/a\\n\\udcff\\x1b.mp4 is empty")
    assert message.isprintable()


def test_plain_name_is_shown_as_it_is() -> None:
    assert shown("/films/naïve café, 日本.mp4") == "/films/naïve café, 日本.mp4"


PARTS = st.sampled_from(["a", "A", "é", "e\u0301", "a.json", "\udcff", "\n", "x" * 240])
WANTED = st.builds(
    lambda folders, stem, suffix: "/".join([*folders, stem + suffix]),
    st.lists(PARTS, max_size=2),
    PARTS,
    st.sampled_from([".mp4", ".mkv", ""]),
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("12"), WANTED), max_size=8, unique=True), st.randoms())
def test_names_are_distinct_and_do_not_depend_on_the_order(
    files: list[tuple[str, str]], order: random.Random
) -> None:
    entries = [(f"/root{root}/{wanted}", wanted) for root, wanted in files]
    given_names = output_names(entries)
    order.shuffle(entries)
    assert output_names(entries) == given_names
    assert len({name.casefold() for name in given_names.values()}) == len(files)
    for name in given_names.values():
        name.encode()
        assert all(0 < len(part.encode()) <= 250 for part in name.split("/"))


def test_thousand_files_keep_their_order_and_names(films: Path, out: Path) -> None:
    put(films, *(f"s{n % 7}/v{n}.mp4" for n in range(1000)))
    found = find_videos([films], out)
    assert len(found.videos) == 1000
    paths = [os.fsencode(video.path) for video in found.videos]
    assert paths == sorted(paths)
    assert {f"{video.name}.mp4" for video in found.videos} == {
        os.path.relpath(video.path, films) for video in found.videos
    }
