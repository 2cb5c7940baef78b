"""What the access log tells of prompts, from the gateway to the simulator."""

from __future__ import annotations

from pathlib import Path

from gateway.simulator.access_trace import open_log
from tests.harness import CHAT, chat, config_of, engine_running, serving

QUESTION = "Which of the hills that one sees from the tower is the highest, and why? " * 40
ANSWER = "The one behind the church, for it has a hat on. " * 20


async def lines_of(path: Path, **access_log: str) -> list[str]:
    async with engine_running() as engine:
        config = config_of(engine) | {"telemetry": {"access_log": {"path": str(path), **access_log}}}
        async with serving(config) as server:
            turn = [{"role": "user", "content": QUESTION}]
            later = [*turn, {"role": "assistant", "content": ANSWER}, {"role": "user", "content": "Who says so?"}]
            for messages in (turn, later, [{"role": "user", "content": "Something else. " * 100}]):
                assert (await server.post(CHAT, chat(messages=messages))).status_code == 200
    return path.read_text().splitlines()


async def test_with_a_secret_the_log_tells_which_prompts_begin_alike(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    lines = await lines_of(path, prefix_secret="pepper")
    assert all('"prefix":["' in line for line in lines)
    assert not any("hill" in line for line in lines)
    first, second, other = (list(request.keys) for request in open_log(path).trace.requests)
    assert first[0] == second[0]
    assert len({*first} & {*second}) >= 0.75 * len(first) - 1
    assert not {*first} & {*other}


async def test_without_one_it_does_not(tmp_path: Path) -> None:
    assert not any("prefix" in line for line in await lines_of(tmp_path / "access.jsonl"))
