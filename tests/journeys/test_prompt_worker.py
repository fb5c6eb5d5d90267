"""What reads Chinese prompts for others: fetched, held once for everybody, and spoilt."""

import json
import os
import shutil
import signal

import pytest

from harness import adapterkit, promptkit
from harness.daemon import source, until
from zhcache import Client, Incomplete, IntegrityError, UsageError, ZhcacheError
from zhcache.chinese import choose
from zhcache.chinese.ask import Asking
from zhcache.protocol.prompts import PromptModel
from zhcache.results import warmed

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]

TRANSLATOR = "Helsinki-NLP/opus-mt-zh-en"
LONG = "一只红色的猫在河边。" * 400


def files_of(folder):
    return {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def daemon(hub, make_daemon, pipeline_dir, monkeypatch):
    hub.add("org/pipe", files_of(pipeline_dir))
    made = make_daemon(source(hub)).start()
    made.json("prefetch", "org/pipe")
    monkeypatch.setenv("ZHCACHE_SOCKET", str(made.socket))
    return made


@pytest.fixture
def published(hub, tmp_path):
    """The translator as it lies on a hub: in pickle, and twice more for other frameworks."""
    folder = promptkit.pickled(promptkit.translator(), tmp_path / "published")
    for other in ("tf_model.h5", "rust_model.ot"):
        (folder / other).write_bytes(b"weights for others")
    hub.add(TRANSLATOR, files_of(folder))
    return folder


@pytest.fixture
def translator(hub, daemon):
    hub.add(TRANSLATOR, files_of(promptkit.translator()))
    daemon.json("prefetch", TRANSLATOR)
    return held(route="translate")


def held(route):
    with Client() as client:
        (model,) = (one for one in client.chinese("org/pipe").models if one.route == route)
    return model


def opened(repo, commit=None):
    model = PromptModel(route="translate", repo=repo, commit=commit or "main", name=repo)
    return Asking(model)


def english(asking, *texts, **more):
    return asking.ask(texts, raw=True, **more).texts


def test_translator_that_is_published_as_pickle_is_converted_and_translates(daemon, published):
    with Client() as client:
        assert client.chinese("org/pipe").models == []
    refused = daemon.json("prefetch", TRANSLATOR, code=8)
    assert "--allow-pickle" in refused["error"]["hint"]
    # As the error says that is raised where nothing reads Chinese.
    fetched = daemon.json("prefetch", *choose.TRANSLATOR.split())
    assert {"tf_model.h5", "rust_model.ot"} < fetched["left_out"].keys()
    model = held(route="translate")
    assert (model.repo, model.commit) == (TRANSLATOR, fetched["commit"])
    asking = Asking(model)
    assert english(asking, "一隻紅色的貓在河邊，8k", "a dog") == (
        ["a red cat by the river, 8k", "a dog"]
    )
    assert english(asking, "一只白色的灯笼写着「福」", keep=["小红"]) == (
        ['a white lantern that says "福"']
    )
    (shown,) = json.loads(daemon.cli("ps", "--json").stdout)["resident"]
    assert (shown["repo"], shown["role"], shown["device"]) == (TRANSLATOR, "prompts", "cpu")
    assert "prompts" in daemon.cli("ps").stdout


def test_encoder_that_is_published_as_pickle_is_had_without_its_unet(daemon, hub, tmp_path):
    folder = promptkit.pickled(promptkit.encoder(), tmp_path / "taiyi", "text_encoder")
    (folder / "unet").mkdir()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"not wanted")
    repo, *options = choose.ENCODER.split()
    hub.add(repo, files_of(folder))
    daemon.json("prefetch", repo, *options)
    answer = opened(repo).ask(["一隻紅色的貓", "一只红色的猫", ""], raw=True)
    states = answer.embeds["prompt_embeds"]
    assert [one.shape for one in states] == [(1, 77, 32)] * 3
    # It is known to read simplified characters only.
    assert bytes(states[0].raw) == bytes(states[1].raw) != bytes(states[2].raw)


def test_one_worker_is_there_for_all_who_ask(daemon, translator):
    one, two = Asking(translator), Asking(translator)
    assert english(one, "一只红色的猫") == english(two, "一只红色的猫") == ["a red cat"]
    (shown,) = json.loads(daemon.cli("ps", "--json").stdout)["resident"]
    assert shown["leases"] == 2


def test_worker_that_is_killed_while_it_reads_is_replaced(daemon, translator):
    import threading

    asking = Asking(translator)
    english(asking, "一只红色的猫")
    ended = []

    def ask():
        try:
            ended.append(english(asking, LONG))
        except ZhcacheError as error:
            ended.append(error)

    def running():
        shown = json.loads(daemon.cli("ps", "--json").stdout)["resident"]
        return next((one["pid"] for one in shown if one["running"]), None)

    calling = threading.Thread(target=ask)
    calling.start()
    os.kill(until(running, "the call runs"), signal.SIGKILL)
    calling.join(60)
    assert [getattr(one, "code", one) for one in ended] == ["worker_died"]
    assert english(asking, "一只蓝色的桥") == ["a blue bridge"]


@pytest.mark.slow
def test_prompt_models_are_kept_warm_as_what_they_are(daemon, hub, translator, tmp_path):
    folder = adapterkit.small_adapter(tmp_path / "adapter")
    daemon.cli("import", str(folder), "--repo", "adapters/small")
    # Of a pipeline only what reads: its index is elsewhere, and nothing more is to be fetched.
    files = files_of(promptkit.encoder())
    hub.add("org/bert", {**files, "model_index.json": b"{}", "unet/config.json": b"{}"})
    daemon.json("prefetch", "org/bert", "--include", "text_encoder/", "--include", "tokenizer/")
    for repo in (TRANSLATOR, "adapters/small", "org/bert"):
        warm = daemon.json("warm", repo, "--for", "1h")
        assert (warm["mode"], warm["device"]) == ("attach", "cpu")
        assert warm["bytes"] == warm["bytes_resident"] > 0
    with Client() as client, pytest.raises(UsageError, match="device means nothing"):
        warmed(client.wait(client.warm(TRANSLATOR, device="cuda").id, timeout_s=60))
    daemon.json("warm", TRANSLATOR, "--resident", "--for", "1h")
    (held,) = workers(daemon)
    assert (held["repo"], held["role"], held["leases"]) == (TRANSLATOR, "prompts", 0)
    asking = Asking(translator)
    assert english(asking, "一只红色的猫") == ["a red cat"]
    assert [one["pid"] for one in workers(daemon)] == [held["pid"]]


def workers(daemon):
    return [one for one in daemon.json("ps")["resident"] if one["mode"] == "resident"]


def test_translator_without_its_vocabulary_says_what_it_lacks(daemon, hub):
    hub.add(TRANSLATOR, files_of(promptkit.translator()))
    daemon.json("prefetch", TRANSLATOR, "--exclude", "target.spm")
    with Client() as client:
        assert client.chinese("org/pipe").models == []
    with pytest.raises(Incomplete, match=r"lacks target\.spm") as caught:
        opened(TRANSLATOR)
    assert f"zhcache prefetch {TRANSLATOR}" in caught.value.hint


def test_translator_whose_vocabulary_is_none_is_named(daemon, hub, tmp_path):
    spoilt = shutil.copytree(promptkit.translator(), tmp_path / "spoilt")
    (spoilt / "source.spm").write_bytes(b"no sentencepiece model")
    hub.add("org/zh-en", files_of(spoilt))
    daemon.json("prefetch", "org/zh-en")
    with pytest.raises(IntegrityError, match="org/zh-en") as caught:
        opened("org/zh-en")
    assert "zhcache verify org/zh-en" in caught.value.hint


def test_what_reads_no_prompts_is_refused_before_a_worker_is_launched(daemon):
    with pytest.raises(UsageError, match="org/pipe reads no prompts"):
        opened("org/pipe")
    assert json.loads(daemon.cli("ps", "--json").stdout)["resident"] == []


def test_adapter_with_other_tensors_than_it_says_is_refused(daemon, tmp_path):
    folder = adapterkit.small_adapter(tmp_path / "adapter")
    about = json.loads((folder / "zhcache_adapter.json").read_text())
    about["network"]["layers"] += 1
    (folder / "zhcache_adapter.json").write_text(json.dumps(about))
    daemon.cli("import", str(folder), "--repo", "adapters/small")
    with pytest.raises(IntegrityError, match="tensors are not those"):
        opened("adapters/small")


def test_adapters_are_listed_by_what_they_fit_and_copied_with_their_card(daemon, tmp_path):
    folder = adapterkit.small_adapter(tmp_path / "adapter")
    daemon.cli("import", str(folder), "--repo", "adapters/small")
    (listed,) = daemon.json("adapter", "ls")["models"]
    assert (listed["name"], listed["base"]) == ("small", "demo/tiny")
    assert "0.900" in daemon.cli("adapter", "ls").stdout
    # It was trained with another text encoder.
    assert daemon.json("adapter", "ls", "org/pipe")["models"] == []
    daemon.cli("adapter", "export", "small", str(tmp_path / "copy"))
    names = set(files_of(folder))
    assert names == set(files_of(tmp_path / "copy"))
    assert "README.md" in names
