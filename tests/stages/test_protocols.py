"""The paper's datasets in the original's layout and in that of the official releases."""

import csv
import json
import os
import pickle
from pathlib import Path

import pytest

from clip2video_pipe.stages.datasets import DatasetError
from clip2video_pipe.stages.datasets.files import VideoFiles, walk
from clip2video_pipe.stages.datasets.protocols import protocol
from clip2video_pipe.stages.datasets.vatex import shipped

CLIP = "G9zN5TTuGO4_000179_000189"


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content)
    elif name.endswith(".csv"):
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(content)
    else:
        path.write_text(json.dumps(content))
    return path


def videos(folder, *names):
    for name in names:
        put(folder, f"videos/{name}", b"a video")
    return [folder / "videos"]


def captions_of(dataset):
    found = {}
    for caption in dataset.captions:
        found.setdefault(caption.video_id, []).append(caption.text)
    return found


def gaps_of(dataset):
    return {(gap.kind, gap.id) for gap in dataset.gaps}


JSFUSION = [
    ["key", "vid_key", "video_id", "sentence"],
    ["ret0", "msr7010", "video7010", "a cat sits"],
    ["ret1", "msr7020", "video7020", "a dog, it runs"],
]


def test_1ka_has_the_caption_of_its_table(tmp_path):
    put(tmp_path, "data/MSRVTT_JSFUSION_test.csv", JSFUSION)
    roots = videos(tmp_path, "video7010.mp4", "deep/er/video7020.webm", "video3.mp4")
    found = protocol("msrvtt-1ka").read(tmp_path / "data", roots, "test")
    assert captions_of(found) == {"video7010": ["a cat sits"], "video7020": ["a dog, it runs"]}
    assert [video.path.name for video in found.videos] == ["video7010.mp4", "video7020.webm"]
    assert gaps_of(found) == set()


def test_1ka_trains_on_all_but_its_test_videos_where_the_list_is_not_there(tmp_path):
    put(tmp_path, "MSRVTT_JSFUSION_test.csv", JSFUSION)
    sentences = [{"video_id": f"video{n}", "caption": f"words {n}"} for n in range(3)]
    put(tmp_path, "MSRVTT_data.json", {"videos": [], "sentences": sentences})
    assert len(protocol("msrvtt-1ka").training_lists(tmp_path)["msrvtt-9k"]) == 9998
    assert [caption.text for caption in protocol("msrvtt-1ka").captions(tmp_path, "train")] == [
        "words 0",
        "words 1",
        "words 2",
    ]
    put(tmp_path, "MSRVTT_train.9k.csv", [["video_id"], ["video2"]])
    assert protocol("msrvtt-1ka").training_lists(tmp_path)["msrvtt-9k"] == ("video2",)


FULL = [("video0", "train"), ("video6513", "validate"), ("video7010", "test"), ("video9999", "test")]


@pytest.mark.parametrize("layout", ["original", "release"])
@pytest.mark.parametrize(
    ("split", "ids"), [("train", ["video0"]), ("val", ["video6513"]), ("test", ["video7010", "video9999"])]
)
def test_the_full_protocol_in_both_layouts(tmp_path, layout, split, ids):
    sentences = [{"video_id": video_id, "caption": f"{n} {video_id}"} for video_id, _ in FULL for n in range(2)]
    rows = [{"video_id": video_id, "split": its} for video_id, its in FULL]
    if layout == "original":
        put(tmp_path, "MSRVTT_data.json", {"videos": rows, "sentences": sentences})
        for its in ("train", "val", "test"):
            listed = [[video_id] for video_id, word in FULL if word.startswith(its)]
            put(tmp_path, f"MSRVTT_{its}.full.csv", [["video_id"], *listed])
    else:
        tested = [r["video_id"] for r in rows if r["split"] == "test"]
        for name, inside in (("train_val", False), ("test", True)):
            its = [s for s in sentences if (s["video_id"] in tested) == inside]
            listed = [r for r in rows if (r["video_id"] in tested) == inside]
            put(tmp_path, f"{name}_videodatainfo.json", {"videos": listed, "sentences": its})
    found = protocol("msrvtt-full").read(tmp_path, videos(tmp_path, *(f"{i}.mp4" for i in ids)), split)
    assert captions_of(found) == {video_id: [f"{n} {video_id}" for n in range(2)] for video_id in ids}
    assert gaps_of(found) == set()


def test_without_a_list_the_full_split_is_the_protocols_range(tmp_path):
    put(tmp_path, "MSRVTT_data.json", {"sentences": [{"video_id": "video7010", "caption": "words"}]})
    found = protocol("msrvtt-full").read(tmp_path, videos(tmp_path, "video7010.mp4"), "test")
    assert len(found.videos) == 2990
    assert len([gap for gap in found.gaps if gap.kind == "video-without-captions"]) == 2989


def msvd(folder, layout, lists=("train", "val", "test")):
    said = {"-4wsuPCjDBc_5_15": ["a squirrel eats", "it eats nuts"], "other_1_2": ["a cat"], "third_0_9": ["rain"]}
    for split, video_id in zip(lists, ["other_1_2", "third_0_9", "-4wsuPCjDBc_5_15"], strict=False):
        put(folder, f"{split}_list.txt", video_id + "\n")
    if layout == "raw-captions.pkl":
        put(folder, layout, pickle.dumps({i: [text.split() for text in texts] for i, texts in said.items()}))
    elif layout == "video_corpus.csv":
        head = ["VideoID", "Start", "End", "WorkerID", "Source", "AnnotationTime", "Language", "Description"]
        rows = [[*i.rsplit("_", 2), "1", "clean", "9", "English", text] for i, texts in said.items() for text in texts]
        put(folder, layout, [head, *rows, ["other", "1", "2", "1", "clean", "9", "German", "eine Katze"]])
    else:
        lines = [f"{i} {text}" for i, texts in said.items() for text in texts]
        put(folder, layout, "\n".join(["# a comment", "", *lines]))


@pytest.mark.parametrize("layout", ["raw-captions.pkl", "video_corpus.csv", "AllVideoDescriptions.txt"])
def test_msvd_in_each_layout(tmp_path, layout):
    msvd(tmp_path, layout)
    found = protocol("msvd").read(tmp_path, videos(tmp_path, "-4wsuPCjDBc_5_15.avi"), "test")
    assert captions_of(found) == {"-4wsuPCjDBc_5_15": ["a squirrel eats", "it eats nuts"]}
    assert gaps_of(found) == set()
    assert protocol("msvd").training_lists(tmp_path) == {"msvd": ("other_1_2",)}


@pytest.mark.parametrize("layout", ["original", "release"])
def test_vatex_in_both_layouts(tmp_path, layout):
    said = {CLIP: ["one", "two"], "Zzz_000000_000010": ["three"], "val_000001_000011": ["four"]}
    put(tmp_path, "test_list.txt", CLIP)
    put(tmp_path, "val_list.txt", "val_000001_000011")
    put(tmp_path, "test1k5_sec_list.txt", CLIP)
    if layout == "original":
        put(tmp_path, "train_list.txt", "Zzz_000000_000010")
        put(tmp_path, "vatex_data.json", {i: {"enCap": texts} for i, texts in said.items()})
    else:
        rows = [{"videoID": i, "enCap": texts, "chCap": ["猫"]} for i, texts in said.items()]
        put(tmp_path, "vatex_training_v1.0.json", rows[1:2])
        put(tmp_path, "vatex_validation_v1.0.json", [rows[0], rows[2]])
    roots = videos(tmp_path, f"{CLIP}.mp4")
    for split in ("test", "test-1k5"):
        found = protocol("vatex").read(tmp_path, roots, split)
        assert captions_of(found) == {CLIP: ["one", "two"]}
        assert gaps_of(found) == set()
    assert protocol("vatex").training_lists(tmp_path) == {"vatex": ("Zzz_000000_000010",)}
    assert [c.text for c in protocol("vatex").captions(tmp_path, "train")] == ["three"]


def test_the_shipped_lists_are_the_papers():
    test, val, random = (shipped(split) for split in ("test", "val", "test-1k5"))
    assert [len(set(ids)) for ids in (test, val, random)] == [1500, 1500, 1500]
    assert (len(set(random) & set(test)), len(set(random) & set(val))) == (724, 776)


def test_the_shipped_lists_are_those_of_the_project():
    folder = Path(__file__).parents[3] / "shared" / "splits"
    if not folder.is_dir():
        pytest.skip(f"the lists are not here: {folder}")
    for split, name in (("test", "test_list"), ("val", "val_list"), ("test-1k5", "test1k5_sec_list")):
        assert (folder / f"{name}.txt").read_text().split() == shipped(split)


def test_a_clip_is_cut_out_of_the_full_video(tmp_path):
    files = VideoFiles(videos(tmp_path, "G9zN5TTuGO4.mkv", "exact_1_2.mp4", "exact.mp4"))
    video = files.video(CLIP, cut=True)
    assert (video.path.name, video.start, video.end) == ("G9zN5TTuGO4.mkv", 179, 189)
    video = files.video("exact_1_2", cut=True)
    assert (video.path.name, video.start, video.end) == ("exact_1_2.mp4", None, None)
    assert not files.video("G9zN5TTuGO4_1_2", cut=False).path.exists()
    assert files.not_asked([CLIP, "exact_1_2", "exact_3_4"], cut=True) == []


def test_what_does_not_fit_together_is_said(tmp_path):
    msvd(tmp_path, "AllVideoDescriptions.txt")
    with (tmp_path / "AllVideoDescriptions.txt").open("a") as file:
        file.write("\nnobody_1_2 a ghost")
    put(tmp_path, "test_list.txt", "-4wsuPCjDBc_5_15\nsilent_0_1\n-4wsuPCjDBc_5_15")
    roots = videos(tmp_path, "a/-4wsuPCjDBc_5_15.avi", "b/-4wsuPCjDBc_5_15.mp4", "holiday.mp4", ".hidden.mp4", "x.txt")
    found = protocol("msvd").read(tmp_path, roots, "test")
    assert [video.video_id for video in found.videos] == ["-4wsuPCjDBc_5_15", "silent_0_1"]
    assert found.videos[0].path.parent.name == "a"
    assert not found.videos[1].path.exists(), "it stays, to be counted as missing"
    twice = [gap for gap in found.gaps if gap.kind == "id-twice"]
    assert len(twice) == 2, "in the list, and among the files"
    assert {gap.id for gap in twice} == {"-4wsuPCjDBc_5_15"}
    assert {(kind, Path(name).name) for kind, name in gaps_of(found) if kind != "id-twice"} == {
        ("caption-without-video", "nobody_1_2"),
        ("video-without-captions", "silent_0_1"),
        ("file-not-asked", "holiday.mp4"),
    }


def test_without_all_lists_nobody_can_tell_a_stray_caption(tmp_path):
    msvd(tmp_path, "AllVideoDescriptions.txt", lists=())
    put(tmp_path, "test_list.txt", "-4wsuPCjDBc_5_15")
    found = protocol("msvd").read(tmp_path, videos(tmp_path, "-4wsuPCjDBc_5_15.avi"), "test")
    assert gaps_of(found) == set()


@pytest.mark.parametrize(
    ("kind", "split", "files", "said"),
    [
        ("msrvtt-1ka", "val", {}, r"dataset\.split: is 'val'; this dataset has train, test"),
        ("msrvtt-1ka", "test", {}, "has no MSRVTT_JSFUSION_test.csv, for the test list"),
        ("msrvtt-1ka", "test", {"MSRVTT_JSFUSION_test.csv": "a,b\n1,2\n"}, "has no column 'video_id'"),
        ("msrvtt-1ka", "test", {"MSRVTT_JSFUSION_test.csv": "video_id,sentence\nv\n"}, "csv:2: has fewer fields"),
        ("msrvtt-full", "test", {}, "has no MSRVTT_data.json or train_val_videodatainfo.json"),
        ("msrvtt-full", "test", {"MSRVTT_data.json": "{"}, "not JSON"),
        ("msrvtt-full", "test", {"MSRVTT_data.json": "[1]"}, "it has to be an object with 'videos'"),
        (
            "msrvtt-full",
            "test",
            {"MSRVTT_data.json": {"sentences": [{"video_id": 7, "caption": "x"}]}},
            "'video_id' of an",
        ),
        ("msvd", "test", {}, "has no test_list.txt"),
        ("msvd", "test", {"test_list.txt": "\n"}, "names no video"),
        ("msvd", "test", {"test_list.txt": "a_1_2"}, "has no raw-captions.pkl or video_corpus.csv"),
        (
            "msvd",
            "test",
            {"test_list.txt": "a_1_2", "raw-captions.pkl": pickle.dumps({"a_1_2": "x"})},
            "list of captions",
        ),
        (
            "vatex",
            "test",
            {"vatex_data.json": {"a": {"enCap": [3]}}},
            "'enCap' of 'a' is '3'; it has to be a list of texts",
        ),
        ("vatex", "test", {"vatex_validation_v1.0.json": [{"enCap": []}]}, "'videoID' of an entry is 'None'"),
        ("vatex", "train", {"vatex_data.json": {}}, "has no train_list.txt or vatex_training_v1.0.json"),
    ],
)
def test_annotations_that_cannot_be_used_are_named(tmp_path, kind, split, files, said):
    for name, content in files.items():
        put(tmp_path, name, content)
    with pytest.raises(DatasetError, match=said) as raised:
        protocol(kind).read(tmp_path, videos(tmp_path, "a.mp4"), split)
    assert "\n" not in str(raised.value)


def test_folders_that_are_not_there_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"dataset\.annotations: '.*nowhere' is not a folder"):
        protocol("msvd").read(tmp_path / "nowhere", [tmp_path], "test")
    with pytest.raises(DatasetError, match=r"dataset\.videos: '.*nowhere' is not a folder"):
        VideoFiles([tmp_path / "nowhere"])


def test_an_id_twice_in_an_annotation_file_is_said(tmp_path):
    rows = [{"video_id": i, "split": "test"} for i in ("video7010", "video7011", "video7010")]
    sentences = [{"video_id": i, "caption": "words"} for i in ("video7010", "video7011")]
    put(tmp_path, "test_videodatainfo.json", {"videos": rows, "sentences": sentences})
    found = protocol("msrvtt-full").read(tmp_path, videos(tmp_path, "video7010.mp4", "video7011.mp4"), "test")
    assert gaps_of(found) == {("id-twice", "video7010")}
    assert len(found.videos) == len(found.captions) == 2


def test_files_of_a_release_that_overlap_count_once(tmp_path):
    both = {"videos": [], "sentences": [{"video_id": "video7010", "caption": "a cat sits"}]}
    put(tmp_path, "test_videodatainfo.json", both)
    put(tmp_path, "videodatainfo.json", both)
    found = protocol("msrvtt-full").read(tmp_path, videos(tmp_path, "video7010.mp4"), "test")
    assert captions_of(found) == {"video7010": ["a cat sits"]}


def test_linked_folders_are_looked_into_and_loops_are_not(tmp_path):
    put(tmp_path, "elsewhere/a.mp4", b"a video")
    put(tmp_path, "videos/deep/b.mp4", b"a video")
    (tmp_path / "videos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "videos" / "deep" / "back").symlink_to(tmp_path / "videos")
    assert [path.name for path in walk(tmp_path / "videos")] == ["b.mp4", "a.mp4"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    put(tmp_path, "locked/a.mp4", b"a video")
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DatasetError, match=r"locked': cannot be looked into: Permission denied"):
        list(walk(tmp_path))


@pytest.mark.parametrize(
    ("kind", "files", "said"),
    [
        ("msrvtt-1ka", {"MSRVTT_JSFUSION_test.csv": JSFUSION[:1]}, "names no video of the split 'test'"),
        (
            "msrvtt-full",
            {"train_val_videodatainfo.json": {"videos": [{"video_id": "video0", "split": "train"}], "sentences": []}},
            "names no video of the split 'test'",
        ),
        (
            "msrvtt-1ka",
            {"MSRVTT_JSFUSION_test.csv": "key,vid_key,video_id,sentence\nr,m,video7010,a man, running\n"},
            r"test\.csv:2: has more fields than the first line",
        ),
        (
            "msrvtt-full",
            {"MSRVTT_data.json": '{"sentences": [{"video_id": "\\ud800", "caption": "a"}]}'},
            "half of a character",
        ),
    ],
)
def test_lists_that_would_pass_for_others_are_refused(tmp_path, kind, files, said):
    for name, content in files.items():
        put(tmp_path, name, content)
    with pytest.raises(DatasetError, match=said):
        protocol(kind).read(tmp_path, videos(tmp_path, "video7010.mp4"), "test")
