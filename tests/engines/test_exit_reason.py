"""Exit codes, signals and last words become one sentence."""

from __future__ import annotations

import signal

import pytest

from engines.exit_reason import explain_exit


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
            "lower --gpu-memory-utilization or --max-model-len",
        ),
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.",
            "raise --gpu-memory-utilization",
        ),
        (
            "ValueError: (16.0 GiB KV cache is needed, which is larger than the available KV cache memory (2.0 GiB).",
            "lower --max-model-len",
        ),
        ("ValueError: Free memory on device is less than desired GPU memory utilization (0.9)", "another process uses"),
        ("ValueError: User-specified max_model_len (9) is greater than the derived max_model_len", "lower it"),
        ("RuntimeError: CUDA error: invalid device ordinal", "a GPU that is not there"),
        ("ValueError: World size (4) is larger than the number of available GPUs (1)", "check `gpus`"),
        ("ValueError: Model architectures ['X'] are not supported for now.", "take a newer one"),
        ("You are trying to access a gated repo.", "set HF_TOKEN in `env`"),
        ("requests.HTTPError: 401 Client Error: Unauthorized for url", "set HF_TOKEN in `env`"),
        ("OSError: none/none is not a local folder and is not a valid model identifier", "no such model"),
        ("OSError: We couldn't connect to 'https://huggingface.co' to load the files", "cannot be reached"),
        ("api_server.py: error: unrecognized arguments: --nonsense", "does not know one of its arguments"),
        (
            "Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting down",
            "a helper process of it was killed",
        ),
        ("ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0", "--dtype=half"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "too little memory"),
        ("OSError: [Errno 98] Address already in use", "port is taken"),
        ("srv init: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 9", "port is taken"),
        ("RuntimeError: Found no NVIDIA driver on your system.", "no usable GPU"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("ModuleNotFoundError: No module named 'vllm'", "package that it needs is not installed"),
        ("gguf_init_from_file: failed to open GGUF file 'x.gguf'", "model file is missing"),
        ("PermissionError: [Errno 13] Permission denied: '/models'", "lacks the permission"),
    ],
)
def test_a_known_text_says_what_is_wrong_and_is_quoted(line: str, expected: str) -> None:
    sentence = explain_exit(1, ["Starting", line, "and then the end"]).sentence
    assert sentence.startswith("exited with code 1: ")
    assert expected in sentence
    assert line in sentence


def test_without_a_known_text_the_last_line_is_quoted() -> None:
    assert explain_exit(3, ["one", "two", " "]).sentence == "exited with code 3; its last line: two"


def test_a_last_line_that_points_further_up_is_followed() -> None:
    lines = [
        "(EngineCore pid=7) ValueError: the model and I do not get along",
        "(APIServer pid=1)   File api_server.py, line 3, in main",
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
        "UserWarning: resource_tracker: There appear to be 2 leaked shared_memory objects to clean up at shutdown",
    ]
    assert "the model and I do not get along" in explain_exit(1, lines).sentence
    assert "initialization failed" in explain_exit(1, lines[2:]).sentence
    noise = ["    For further information visit https://errors.pydantic.dev/2.14/v/value_error", lines[-1]]
    assert "went on" in explain_exit(1, ["it went on", *noise]).sentence


def test_what_no_restart_can_mend_is_permanent() -> None:
    assert explain_exit(1, ["ModuleNotFoundError: No module named 'vllm'"]).permanent
    assert not explain_exit(1, ["torch.OutOfMemoryError: CUDA out of memory."]).permanent


def test_a_silent_end_is_told_by_its_code_alone() -> None:
    assert explain_exit(0, []).sentence == "exited with code 0"


def test_a_long_line_is_cut() -> None:
    assert explain_exit(1, ["x" * 5000]).sentence.endswith("xxx…")
    assert len(explain_exit(1, ["x" * 5000]).sentence) < 400


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGKILL, "using too much memory"),
        (signal.SIGSEGV, "SIGSEGV: a fault in native code"),
        (signal.SIGILL, "built for another CPU"),
        (signal.SIGTERM, "SIGTERM that somebody else sent"),
        (signal.SIGUSR1, "killed by SIGUSR1"),
        (200, "killed by signal 200"),
    ],
)
def test_a_signal_is_named(number: int, expected: str) -> None:
    assert expected in explain_exit(-number, ["GET /health 200"]).sentence


def test_a_kill_says_how_much_memory_was_held() -> None:
    sentence = explain_exit(-signal.SIGKILL, [], peak_bytes=12_340_000_000).sentence
    assert sentence.endswith("; it held up to 12.3 GB")
    assert "GB" not in explain_exit(1, [], peak_bytes=1).sentence


def test_last_words_are_not_blamed_for_a_kill() -> None:
    assert "GET" not in explain_exit(-signal.SIGKILL, ["GET /health 200"]).sentence


@pytest.mark.parametrize(("code", "permanent"), [(1, False), (0, False), (64, True), (78, True), (127, True)])
def test_only_codes_that_say_so_are_permanent(code: int, permanent: bool) -> None:
    assert explain_exit(code, []).permanent is permanent
