"""The shipped configs of the paper's protocols, on generated datasets in each layout."""

import csv
import json
import pickle
import shutil
from importlib.resources import files

import pyarrow.parquet as pq
import pytest
import yaml

from clip2video_pipe.pipeline.cli import main

SMALL = ["--set", "model={preset: tiny, seed: 0}", "--set", "run.engine=inline", "--set", "sampling.keep_every=1"]
TEST = {"msrvtt": ["video7010", "video7011", "video9999"], "clips": ["abc_1_2", "-d_e_000003_000013", "xyz_0_9"]}
FIGURES = {"R@1", "R@5", "R@10", "MedianR", "MeanR"}


def texts(video_id):
    return [f"a clip of {video_id}", f"{video_id} again"]


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif name.endswith(".csv"):
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def msrvtt_original(folder):
    write(
        folder,
        "csv/MSRVTT_JSFUSION_test.csv",
        [["key", "vid_key", "video_id", "sentence"], *(["k", "v", i, texts(i)[0]] for i in TEST["msrvtt"])],
    )
    write(folder, "csv/MSRVTT_train.9k.csv", [["video_id"], ["video0"], ["video7010"]])
    write(folder, "csv/MSRVTT_test.full.csv", [["video_id"], *([i] for i in TEST["msrvtt"])])
    sentences = [{"video_id": i, "caption": text} for i in ["video0", *TEST["msrvtt"]] for text in texts(i)]
    write(folder, "MSRVTT_data.json", {"videos": [], "sentences": sentences})


def msrvtt_release(folder):
    write(
        folder,
        "MSRVTT_JSFUSION_test.csv",
        [["key", "vid_key", "video_id", "sentence"], *(["k", "v", i, texts(i)[0]] for i in TEST["msrvtt"])],
    )
    for name, split, ids in (("train_val", "train", ["video0"]), ("test", "test", TEST["msrvtt"])):
        sentences = [{"video_id": i, "caption": text, "sen_id": 0} for i in ids for text in texts(i)]
        rows = [{"video_id": i, "split": split, "start time": 0, "end time": 9} for i in ids]
        write(folder, f"{name}_videodatainfo.json", {"info": {}, "videos": rows, "sentences": sentences})


def clip_lists(folder):
    for name, ids in (
        ("train", ["t_0_1"]),
        ("val", ["v_0_1"]),
        ("test", TEST["clips"]),
        ("test1k5_sec", TEST["clips"]),
    ):
        write(folder, f"{name}_list.txt", "\n".join(ids))


CLIPS = ["t_0_1", "v_0_1", *TEST["clips"]]


def msvd_original(folder):
    clip_lists(folder)
    write(folder, "raw-captions.pkl", pickle.dumps({i: [text.split() for text in texts(i)] for i in CLIPS}))


def msvd_release(folder):
    clip_lists(folder)
    head = ["VideoID", "Start", "End", "WorkerID", "Source", "AnnotationTime", "Language", "Description"]
    rows = [[*i.rsplit("_", 2), "1", "clean", "9", "English", text] for i in CLIPS for text in texts(i)]
    write(folder, "video_corpus.csv", [head, *rows])


def vatex_original(folder):
    clip_lists(folder)
    write(folder, "vatex_data.json", {i: {"enCap": texts(i)} for i in CLIPS})


def vatex_release(folder):
    clip_lists(folder)
    rows = [{"videoID": i, "enCap": texts(i), "chCap": ["猫"]} for i in CLIPS]
    write(folder, "vatex_training_v1.0.json", rows[:1])
    write(folder, "vatex_validation_v1.0.json", rows[1:])


class Benchmark:
    """A generated dataset, and a shipped config run on it."""

    def __init__(self, folder, name, make, clips, capsys):
        self.folder = folder
        self.config = str(files("clip2video_pipe.conf").joinpath(f"{name}.yaml"))
        self.ids = TEST["msrvtt" if name.startswith("msrvtt") else "clips"]
        self._capsys = capsys
        make(folder / "annotations")
        (folder / "videos" / "deep").mkdir(parents=True)
        for video_id, clip in zip(self.ids, sorted(clips.glob("*.mp4")), strict=False):
            shutil.copy(clip, folder / "videos" / "deep" / f"{video_id}.mkv")

    def run(self, *words):
        """Exit code, the JSON printed (None without), and messages."""
        paths = {"dataset.annotations": "annotations", "dataset.videos": "videos", "store": "artifacts"}
        given = [word for key, name in paths.items() for word in ("--set", f"{key}='{self.folder / name}'")]
        self._capsys.readouterr()
        code = main(["run", self.config, *given, *SMALL, *words])
        out, err = self._capsys.readouterr()
        return code, json.loads(out) if "--json" in words and out else out, err


@pytest.fixture
def benchmark_of(tmp_path, clips, capsys):
    return lambda name, make: Benchmark(tmp_path / "a data set", name, make, clips, capsys)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("msrvtt-1ka", msrvtt_original),
        ("msrvtt-1ka", msrvtt_release),
        ("msrvtt-full", msrvtt_original),
        ("msrvtt-full", msrvtt_release),
        ("msvd", msvd_original),
        ("msvd", msvd_release),
        ("vatex", vatex_original),
        ("vatex", vatex_release),
        ("vatex-1k5", vatex_original),
        ("vatex-1k5", vatex_release),
    ],
)
def test_a_shipped_config_runs_in_each_layout(benchmark_of, name, make):
    code, said, err = benchmark_of(name, make).run("--json")
    assert code == 0, err
    captions = 3 if name == "msrvtt-1ka" else 6
    assert said["metrics"]["text_to_video"]["queries"] == captions
    assert said["metrics"]["video_to_text"]["queries"] == 3
    assert said["metrics"]["coverage"]["gaps"] == {}


@pytest.mark.parametrize("name", ["msrvtt-1ka", "msrvtt-full", "msvd", "vatex", "vatex-1k5"])
def test_a_shipped_config_has_the_published_figures(name):
    said = yaml.safe_load(files("clip2video_pipe.conf").joinpath(f"{name}.yaml").read_text())
    assert set(said["expected"]["text_to_video"]) == set(said["expected"]["video_to_text"]) == FIGURES
    assert said["strict"] is True


def test_published_figures_are_printed_beside_the_runs_own(benchmark_of):
    code, out, _ = benchmark_of("vatex", vatex_original).run()
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["published", "61.2", "90.9", "95.6", "1.0", "3.4"] in lines
    assert ["published", "77.9", "98.1", "99.1", "1.0", "1.6"] in lines


def test_a_gap_is_loud_and_has_to_be_allowed(benchmark_of):
    benchmark = benchmark_of("msvd", msvd_original)
    (benchmark.folder / "videos" / "deep" / "xyz_0_9.mkv").rename(benchmark.folder / "videos" / "xyz 0 9.mkv")
    tolerant = ["--set", "run.max_failure_rate=1"]
    code, out, err = benchmark.run(*tolerant)
    assert code == 3
    gaps = "1 file-not-asked, 1 video-without-file"
    assert f"WARNING: the dataset has gaps: 2 caption-without-video, {gaps}" in out
    assert "--allow-gaps accepts them" in err
    code, said, err = benchmark.run("--json", "--allow-gaps")
    assert code == 0, "a file that is not there is a gap, and not a failure beyond run.max_failure_rate"
    coverage = said["metrics"]["coverage"]
    assert coverage["gaps"] == {"caption-without-video": 2, "file-not-asked": 1, "video-without-file": 1}
    assert coverage["videos"] == {"asked": 3, "ok": 2, "failed": 1, "errors": {"missing": 1}}
    missing = pq.read_table(f"{said['run_dir']}/missing.parquet").to_pylist()
    assert [row["id"] for row in missing if row["what"] == "video"] == ["xyz_0_9"]
    code, _, _ = benchmark.run("--set", "strict=false", *tolerant)
    assert code == 0


def test_a_full_video_stands_for_its_clips(benchmark_of):
    benchmark = benchmark_of("vatex", vatex_original)
    folder = benchmark.folder / "videos" / "deep"
    (folder / "abc_1_2.mkv").rename(folder / "abc.mkv")
    code, said, err = benchmark.run("--json", "--allow-gaps", "--set", "run.max_failure_rate=1")
    assert code == 0, err
    # The generated clips last a second: of its second from 1 to 2 there is nothing, and that is said.
    assert said["metrics"]["coverage"]["videos"]["errors"] == {"no-frames": 1}


def test_a_model_of_the_9k_list_is_no_test_of_the_full_protocol(benchmark_of, tmp_path):
    benchmark = benchmark_of("msrvtt-full", msrvtt_original)
    checkpoint = ["--set", f"model={{preset: tiny, checkpoint: {tiny_checkpoint(tmp_path)}, trained_on: msrvtt-9k}}"]
    code, said, err = benchmark.run("--json", *checkpoint)
    assert code == 0, err
    expected = (
        "WARNING: this is no test of the checkpoint: "
        "1 of its 3 videos are in msrvtt-9k, the list that it was trained on"
    )
    assert said["warnings"] == [expected]
    _, out, _ = benchmark.run(*checkpoint)
    assert expected in out
    (benchmark.folder / "annotations" / "csv" / "MSRVTT_train.9k.csv").unlink()
    (benchmark.folder / "annotations" / "csv" / "MSRVTT_JSFUSION_test.csv").unlink()
    _, said, _ = benchmark.run("--json", *checkpoint)
    assert "1,990 of the 2,990" in said["warnings"][0]


def test_a_checkpoint_says_itself_what_it_was_trained_on(benchmark_of, tmp_path):
    from clip2video_pipe.manifests import keys

    benchmark = benchmark_of("msvd", msvd_original)
    its_own = tiny_checkpoint(tmp_path, {"training_list": keys.digest(["t_0_1"])})
    code, said, err = benchmark.run(
        "--json", "--set", f"model={{preset: tiny, checkpoint: {its_own}, trained_on: vatex}}"
    )
    assert (code, said["warnings"]) == (0, []), err
    (benchmark.folder / "annotations" / "train_list.txt").write_text("t_0_1\nabc_1_2")
    its_own = tiny_checkpoint(tmp_path, {"training_list": keys.digest(["abc_1_2", "t_0_1"])})
    _, said, _ = benchmark.run("--json", "--set", f"model={{preset: tiny, checkpoint: {its_own}}}")
    assert "1 of its 3 videos are in msvd" in said["warnings"][0]


def tiny_checkpoint(folder, metadata=None):
    from safetensors.torch import save_file

    from clip2video_pipe.models.presets import PRESETS, Variant
    from clip2video_pipe.models.weights import load_model

    model = load_model(PRESETS["tiny"], Variant(), clip=None, checkpoint=None, seed=1)
    path = folder / "tiny.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path, metadata)
    return path


@pytest.mark.parametrize("make", [msvd_original, vatex_release])
def test_scores_that_use_all_queries_are_rows_of_their_own(benchmark_of, make):
    benchmark = benchmark_of("msvd" if make is msvd_original else "vatex", make)
    plain = benchmark.run("--json")[1]
    code, said, err = benchmark.run("--json", "--set", "score.post=[dual-softmax, qb-norm, sinkhorn]")
    assert code == 0, err
    for direction in ("text_to_video", "video_to_text", "video_to_text_pool"):
        assert said["metrics"][direction] == plain["metrics"][direction]
    labels = [name for name, found in said["metrics"].items() if found.get("whole_query_set")]
    assert labels == [
        "text_to_video+dual-softmax",
        "video_to_text+dual-softmax",
        "text_to_video+qb-norm",
        "text_to_video+sinkhorn",
        "video_to_text+sinkhorn",
    ]
    computed = {stage["stage"]: stage["computed"] for stage in said["stages"]}
    assert computed["similarity"] == computed["frames"] == 0
    assert computed["query_bank"] == 2
    assert computed["qb_norm"] == 6, "its captions: it has no video-to-text queries"
    assert {stage["failed"] for stage in said["stages"]} == {0}
    out = benchmark.run("--set", "score.post=[dual-softmax, qb-norm, sinkhorn]")[1]
    assert "* uses the whole query set" in out


def test_a_query_bank_has_to_come_from_somewhere(project, tmp_path):
    post = ["--set", "score.post=[qb-norm]"]
    code, _, err = project.command("run", *post)
    assert code == 2
    assert "give score.query_bank, a file with a caption a line" in err
    bank = tmp_path / "bank.txt"
    bank.write_text("a red square\n\na blue circle moves\n")
    result = project.run(*post, "--set", f"score.query_bank={bank}")
    assert result["stages"]["query_bank"]["items"] == 2
    assert result["metrics"]["text_to_video+qb-norm"]["queries"] == 12
    code, _, err = project.command("run", *post, "--set", "score.query_bank=/nowhere.txt")
    assert (code, "score.query_bank: '/nowhere.txt': No such file" in err) == (2, True)
    code, _, err = project.command("run", "--set", f"score.query_bank={bank}")
    assert (code, "used by qb-norm alone" in err) == (2, True)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("score.ties=often", "score.ties: is 'often'"),
        ("score.post=[sinkhole]", "score.post.0: is 'sinkhole'"),
        ("score.post=[sinkhorn, sinkhorn]", "names a method twice"),
        ("score.post=softmax", "score.post.0: is 'softmax'"),
        ("score.memory=2 apples", "score.memory: is '2 apples'"),
        ("score.memory=1MB", "at least 16 MiB"),
        ("expected={text_to_video: {R@2: 1}}", "expected.text_to_video"),
        ("dataset.splits=test", "did you mean 'split'?"),
        ("dataset.split=val", "dataset.split: is 'val'; msrvtt-1ka has train, test"),
        ("dataset.kind=msrvt", "dataset.kind: is 'msrvt'"),
        ("dataset.videos=[/nowhere]", "dataset.videos: '/nowhere': no such folder"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(benchmark_of, option, said):
    code, _, err = benchmark_of("msrvtt-1ka", msrvtt_original).run("--set", option)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_how_ties_are_counted_changes_no_score(project):
    """The same scores by four rules; the original's is only another figure where there are ties."""
    project.run()
    for ties in ("optimistic", "pessimistic", "original"):
        assert project.computed("--set", f"score.ties={ties}") == {}
