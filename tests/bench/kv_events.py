"""What hearing an engine's KV events costs: `python -m tests.bench.kv_events`.

CPU time of the event loop's thread, in microseconds for a block, for messages as a prefill of 8,192 tokens makes them:
`decode` reads the message that stores them, `stored` and `removed` name the blocks and tell the index, `decode_removed`
reads the one that removes them. `longest_step_us` is the longest that nothing else could be done; `bytes` what a block
that is held takes besides its place in the index.
"""

from __future__ import annotations

import json
import statistics
import time
import tracemalloc
from collections.abc import Iterator

import msgspec

from engines.kv_events.codec import decode
from engines.kv_events.tracker import Tracker
from gateway.kv_watch import SlotSink
from router.prefix import PrefixIndex

TOKENS = 8192
REPEAT = 15


def main() -> None:
    print(json.dumps({f"{size} tokens a block": measure(size) for size in (16, 32, 128)}, indent=1))


def measure(size: int) -> dict[str, float]:
    index = PrefixIndex()
    tracker = Tracker(SlotSink(index, index.open()))
    tracker.begin()
    costs: dict[str, list[float]] = {"decode": [], "decode_removed": [], "stored": [], "removed": []}
    longest_s = 0.0
    blocks = TOKENS // size
    for number in range(REPEAT):
        comes, goes = messages(number, size)
        for name, payload in (("stored", comes), ("removed", goes)):
            began_s = time.thread_time()
            events = decode(payload).events
            costs["decode" if name == "stored" else "decode_removed"].append(time.thread_time() - began_s)
            took_s, step_s = timed(tracker.apply(events))
            costs[name].append(took_s)
            longest_s = max(longest_s, step_s)
    found = {name: round(1e6 * statistics.median(took) / blocks, 2) for name, took in costs.items()}
    return found | {"longest_step_us": round(1e6 * longest_s), "bytes": round(held_bytes(size))}


def messages(number: int, size: int) -> tuple[bytes, bytes]:
    """What stores a prompt, and what removes it block by block, as evictions do."""
    hashes = [(number + 1) << 40 | index for index in range(TOKENS // size)]
    common = {"medium": "GPU", "group_idx": 0}
    stored = {"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": None, "block_size": size, **common}
    tokens = [(number * 7919 + index) % 100_000 for index in range(TOKENS)]
    removed = [{"type": "BlockRemoved", "block_hashes": [one], **common} for one in hashes]
    pack = msgspec.msgpack.encode
    return pack([1.0, [stored | {"token_ids": tokens}], 0]), pack([1.0, removed, 0])


def timed(steps: Iterator[int]) -> tuple[float, float]:
    """Seconds in all, and in the longest step."""
    began_s = last_s = time.thread_time()
    longest_s = 0.0
    for _ in steps:
        now_s = time.thread_time()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
    return time.thread_time() - began_s, longest_s


def held_bytes(size: int) -> float:
    class Nothing:
        def __getattr__(self, name: str) -> object:
            return lambda *_, **__: None

    tracker = Tracker(Nothing())  # type: ignore[arg-type]
    tracker.begin()
    batches = [messages(number, size)[0] for number in range(REPEAT)]
    tracemalloc.start()
    for payload in batches:
        for _ in tracker.apply(decode(payload).events):
            pass
    took, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return took / len(tracker)


if __name__ == "__main__":
    main()
