"""The `headrace` command, as people call it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import typer
from typer.testing import CliRunner

from gateway.cli import app
from gateway.cli.serve import embedded_config, engines_config
from gateway.config.load import parse_config
from gateway.keys import hash_key

PLANTED = "planted-secret-value"
GOOD = "pools: {p: {urls: [http://a]}}\ndeployments: {m: {variants: {v: {pools: [p]}}}}\n"
COMMANDS = ("serve", "check", "diff", "schema", "models", "keys", "import-litellm", "fake-engine", "version")


class Answer:
    def __init__(self, *arguments: str, given: str | None = None, env: dict[str, str] | None = None) -> None:
        result = CliRunner().invoke(app, list(arguments), input=given, env={"HEADRACE_CONFIG": None, **(env or {})})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.status, self.out, self.err = result.exit_code, result.stdout, result.stderr


@pytest.fixture
def good(tmp_path: Path) -> Path:
    file = tmp_path / "good.yaml"
    file.write_text(GOOD, encoding="utf-8")
    return file


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "bad.yaml"
    file.write_text(f"server:\n  prot: 1\nauth: {{salt: {PLANTED}, slat: {PLANTED}}}\n", encoding="utf-8")
    return file


def test_help_lists_every_command_and_takes_both_spellings() -> None:
    answers = [Answer("--help"), Answer("-h")]
    assert answers[0].out == answers[1].out
    assert all(name in answers[0].out for name in COMMANDS)


@pytest.mark.parametrize(
    "command", [*([name] for name in COMMANDS), ["keys", "new"], ["keys", "hash"], ["models", "pull"]]
)
def test_every_command_has_help_in_both_spellings(command: list[str]) -> None:
    answers = [Answer(*command, "--help"), Answer(*command, "-h")]
    assert [answer.status for answer in answers] == [0, 0]
    assert answers[0].out == answers[1].out
    assert "Usage" in answers[0].out


def test_a_wrong_call_leaves_with_2_and_a_suggestion() -> None:
    answer = Answer("serv")
    assert answer.status == 2
    assert "serve" in answer.err


def test_without_a_command_help_is_shown() -> None:
    answer = Answer()
    assert "Usage" in answer.out + answer.err


def test_help_imports_nothing_heavy_and_comes_at_once() -> None:
    code = (
        "import sys; from gateway.cli import app; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "print([name for name in ('pydantic', 'httpx', 'fastapi', 'yaml', 'engines', 'uvloop') if name in sys.modules])"
    )
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert time.perf_counter() - begun < 5.0  # 0.15 s on a quiet machine; this one is shared


def test_completion_reaches_into_commands_that_load_late() -> None:
    env = {**os.environ, "_HEADRACE_COMPLETE": "complete_bash", "COMP_WORDS": "headrace models p", "COMP_CWORD": "2"}
    code = "from gateway.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert "pull" in done.stdout


# check


def test_check_prints_the_effective_values(good: Path) -> None:
    answer = Answer("check", str(good))
    assert answer.status == 0
    assert parse_config(answer.out, env={}) == parse_config(GOOD + "server: {port: 8080}", env={})
    assert answer.err == f"{good}: ok\n"


def test_check_quiet_prints_problems_only(good: Path) -> None:
    answer = Answer("check", "--quiet", str(good))
    assert (answer.status, answer.out) == (0, "")


def test_check_tells_every_problem_with_its_place_and_no_secret(bad: Path) -> None:
    answer = Answer("check", str(bad))
    assert (answer.status, answer.out) == (1, "")
    assert f'{bad}:2:3: server.prot: there is no key "prot" in server (did you mean "port"?)' in answer.err
    assert f'{bad}:3:36: auth.slat: there is no key "slat" in auth (did you mean "salt"?)' in answer.err
    assert answer.err.endswith("2 errors\n")
    assert PLANTED not in answer.err


def test_check_as_json(good: Path, bad: Path) -> None:
    answer = Answer("check", "--json", str(bad))
    told = json.loads(answer.out)
    assert (answer.status, told["ok"]) == (1, False)
    assert [(one["line"], one["column"], one["key"]) for one in told["problems"]] == [
        (2, 3, "server.prot"),
        (3, 36, "auth.slat"),
    ]
    answer = Answer("check", "--json", str(good))
    told = json.loads(answer.out)
    assert (answer.status, told["ok"], told["problems"]) == (0, True, [])
    assert told["config"]["server"]["port"] == 8080


def test_check_takes_its_file_from_the_environment(good: Path) -> None:
    assert Answer("check", "-q", env={"HEADRACE_CONFIG": str(good)}).status == 0


def test_a25_check_masks_secrets_in_what_it_prints(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(GOOD + f"auth: {{keys: [{{name: a, key: {PLANTED}}}]}}\n", encoding="utf-8")
    answer = Answer("check", str(file))
    assert answer.status == 0
    assert "the key is written out in the file" in answer.err
    assert PLANTED not in answer.out + answer.err


def in_a_terminal(*arguments: str, typed: bytes = b"") -> str:
    """What a terminal shows of standard output and standard error together."""
    ours, theirs = pty.openpty()
    os.write(ours, typed)
    code = "from gateway.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=theirs, stderr=theirs, stdin=theirs
    ) as child:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # how Linux says that the other side has closed
                break
            if not piece:
                break
            shown += piece
        child.wait(30)
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def test_in_a_terminal_the_line_is_shown_with_a_caret(bad: Path) -> None:
    shown = in_a_terminal("check", str(bad))
    assert "\n      prot: **********\n" in shown
    assert "^^^^" in shown
    assert PLANTED not in shown


# diff, schema, version


def test_diff_tells_what_changes(good: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(GOOD + "server: {port: 1}\ncache: {enabled: false}\n", encoding="utf-8")
    answer = Answer("diff", str(good), str(other))
    assert (answer.status, answer.out) == (0, "~ server.port: 8080 → 1\n")
    assert Answer("diff", "--exit-code", str(good), str(other)).status == 1
    assert Answer("diff", "--exit-code", str(good), str(good)).status == 0
    told = json.loads(Answer("diff", "--json", str(good), str(other)).out)
    assert told == [{"kind": "changed", "key": "server.port", "old": "8080", "new": "1"}]


def test_diff_of_a_broken_file_tells_its_problems(good: Path, bad: Path) -> None:
    answer = Answer("diff", str(good), str(bad))
    assert answer.status == 1
    assert "server.prot" in answer.err


def test_schema_is_json() -> None:
    assert json.loads(Answer("schema").out)["$id"] == "urn:headrace:config"


def test_version_in_all_its_forms() -> None:
    told = json.loads(Answer("version", "--json").out)
    assert {"headrace", "python", "platform", "compiled", "dependencies"} == told.keys()
    assert told["dependencies"]["pydantic"]
    assert Answer("version").out.startswith(f"headrace   {told['headrace']}\n")
    assert Answer("--version").out == f"{told['headrace']}\n"


# keys


def test_keys_new_prints_a_key() -> None:
    assert Answer("keys", "new").out.startswith("sk-hr-")


def test_keys_hash_reads_standard_input_and_the_salt_from_the_environment() -> None:
    answer = Answer("keys", "hash", "--salt-env", "S", given="sk-a\n", env={"S": "salt"})
    assert (answer.status, answer.out, answer.err) == (0, hash_key("sk-a", "salt") + "\n", "")


def test_keys_hash_takes_the_salt_of_a_configuration(tmp_path: Path, bad: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("auth: {salt: pepper}", encoding="utf-8")
    assert Answer("keys", "hash", "-c", str(file), given="sk-a").out == hash_key("sk-a", "pepper") + "\n"
    assert Answer("keys", "hash", "-c", str(bad), given="sk-a").status == 1


def test_keys_hash_without_a_salt_warns() -> None:
    answer = Answer("keys", "hash", given="sk-a\n")
    assert answer.out == hash_key("sk-a", "") + "\n"
    assert "there is no salt" in answer.err


def test_keys_hash_without_a_key_is_a_problem() -> None:
    assert Answer("keys", "hash", given="").status == 1


def test_keys_hash_never_takes_a_key_as_an_argument() -> None:
    assert Answer("keys", "hash", "sk-a").status == 2


def test_keys_hash_with_both_salts_or_an_unset_variable_is_a_wrong_call(good: Path) -> None:
    assert Answer("keys", "hash", "--salt-env", "S", "-c", str(good), env={"S": "s"}).status == 2
    assert Answer("keys", "hash", "--salt-env", "NOT_SET_ANYWHERE").status == 2


# import-litellm

LITELLM = Path(__file__).parent / "litellm" / "minimal.yaml"


def test_import_litellm_prints_the_file_and_the_notes_apart() -> None:
    answer = Answer("import-litellm", str(LITELLM))
    assert answer.status == 0
    assert answer.out.startswith("# From the LiteLLM configuration minimal.yaml.\nserver:\n")
    assert f"{LITELLM}:14: not carried: model_list[2].litellm_params.model:" in answer.err
    assert "3 deployments carried, 4 notes" in answer.err


def test_import_litellm_writes_a_file_that_check_takes_and_does_not_overwrite_it(tmp_path: Path) -> None:
    file = tmp_path / "headrace.yaml"
    answer = Answer("import-litellm", str(LITELLM), "-o", str(file), "--json")
    assert (answer.status, answer.out) == (0, "")
    assert json.loads(answer.err)["deployments"] == 3
    assert Answer("check", "-q", str(file), env={"OPENAI_API_KEY": "x"}).status == 0
    assert Answer("import-litellm", str(LITELLM), "-o", str(file)).status == 2
    assert Answer("import-litellm", str(LITELLM), "-o", str(file), "--force").status == 0


def test_import_litellm_of_something_else_is_a_problem(good: Path) -> None:
    assert Answer("import-litellm", str(good)).status == 1


# serve


@pytest.mark.parametrize("arguments", [["--model", "x"], ["--engine-url", "http://a"]])
def test_serve_takes_a_file_or_flags_for_engines_not_both(good: Path, arguments: list[str]) -> None:
    assert Answer("serve", "-c", str(good), *arguments).status == 2


def test_serve_refuses_flags_that_make_no_usable_configuration(good: Path) -> None:
    answer = Answer("serve", "-c", str(good), "--host", "0.0.0.0")
    assert answer.status == 1
    assert "add auth.keys, auth.jwt or database, or bind 127.0.0.1" in answer.err
    answer = Answer("serve", "-c", str(good), "--tls-cert", "/nowhere/cert.pem")
    assert answer.status == 1
    assert 'the key "key" is missing' in answer.err


def test_serve_wants_a_certificate_with_its_key() -> None:
    answer = Answer("serve", "--tls-key", "key.pem")
    assert answer.status == 2
    assert "go together" in answer.err


def test_serve_takes_the_usual_file_that_lies_here(bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad.rename(bad.with_name("headrace.yaml"))
    monkeypatch.chdir(bad.parent)
    answer = Answer("serve")
    assert answer.status == 1
    assert "headrace.yaml:" in answer.err


def test_serve_refuses_a_broken_file(bad: Path) -> None:
    assert Answer("serve", "-c", str(bad)).status == 1


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("/models/My Model.Q4.gguf", "My-Model.Q4"),
        ("hf:owner/repo/file.gguf", "file"),
        ("...", "model"),
    ],
)
def test_an_embedded_model_gets_a_deployment_of_its_name(model: str, name: str) -> None:
    config = embedded_config(model)
    assert list(config.deployments) == [name]
    assert config.pools["local"].engine.model == model


class _Engine(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        models: list[str] = getattr(self.server, "models", [])
        body = json.dumps({"data": [{"id": name} for name in models]}).encode()
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def engines() -> Iterator[list[str]]:
    """Three servers: two of the models a and b, one of c; their URLs."""
    servers = []
    for models in (["org/a", "b"], ["org/a", "b"], ["c"]):
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Engine)
        server.models = models  # type: ignore[attr-defined]
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
    yield [f"http://127.0.0.1:{server.server_address[1]}" for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


def test_engines_by_url_are_asked_what_they_serve(engines: list[str]) -> None:
    config = engines_config([f"{engines[0]}/v1", engines[1], engines[2], engines[2] + "/"], None)
    assert set(config.deployments) == {"org/a", "b", "c"}
    pools = {name: deployment.variants["default"].pools[0] for name, deployment in config.deployments.items()}
    assert pools["org/a"] == pools["b"] != pools["c"]
    assert config.pools[pools["b"]].urls == engines[:2]
    assert config.pools[pools["c"]].urls == engines[2:]


def test_engines_by_url_are_not_asked_if_the_model_is_named() -> None:
    config = engines_config(["http://127.0.0.1:9"], "my model")
    assert config.deployments["my-model"].variants["default"].model == "my model"
    assert config.pools["engines"].urls == ["http://127.0.0.1:9"]


def test_an_engine_that_does_not_answer_or_serves_nothing_is_told(
    engines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit):
        engines_config([engines[0] + "/elsewhere"], None)
    assert "gives no list of models" in capsys.readouterr().err
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Engine)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    with pytest.raises(typer.Exit):
        engines_config([f"http://127.0.0.1:{server.server_address[1]}"], None)
    server.shutdown()
    server.server_close()
    assert "serves no model" in capsys.readouterr().err


def test_serve_starts_in_front_of_an_engine_by_url_and_stops_when_told(engines: list[str]) -> None:
    code = "from gateway.cli import main; main()"
    flags = ["--engine-url", engines[0], "--port", "0", "--workers", "1", "--log-format", "json", "--drain", "1"]
    with subprocess.Popen([sys.executable, "-c", code, "serve", *flags], stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        said = []
        for line in child.stderr:
            said.append(line)
            if json.loads(line)["message"] == "ready":
                child.terminate()
        assert child.wait(30) == 0
    assert any("gateway on http://127.0.0.1:" in line for line in said)
    assert any(engines[0] in line for line in said)


def test_many_problems_on_one_endless_line_are_told_quickly_and_not_all_shown(tmp_path: Path) -> None:
    keys = [{"name": f"k{i}", "key": f"sk-written-out-{i}"} for i in range(1000)]
    file = tmp_path / "one-line.yaml"
    file.write_text(json.dumps({"auth": {"keys": keys}}))
    began_s = time.process_time()
    result = CliRunner().invoke(app, ["check", "--quiet", str(file)])
    assert time.process_time() - began_s < 10
    assert result.exit_code == 0
    assert len(result.stderr.splitlines()) < 60
    assert "more; `headrace check --json` lists all" in result.stderr
