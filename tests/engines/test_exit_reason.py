"""Exit codes, signals and last words become one sentence."""

from __future__ import annotations

import signal

import pytest

from engines.exit_reason import explain_exit


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "GPU has too little"),
        ("ValueError: No available memory for the cache blocks.", "GPU has too little"),
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


def test_last_words_are_not_blamed_for_a_kill() -> None:
    assert "GET" not in explain_exit(-signal.SIGKILL, ["GET /health 200"]).sentence


@pytest.mark.parametrize(("code", "permanent"), [(1, False), (0, False), (64, True), (78, True), (127, True)])
def test_only_codes_that_say_so_are_permanent(code: int, permanent: bool) -> None:
    assert explain_exit(code, []).permanent is permanent
