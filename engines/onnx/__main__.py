"""ONNX Runtime GenAI behind OpenAI's API: `python -m engines.onnx --model FOLDER --port 9001`.

FOLDER is what `python -m onnxruntime_genai.models.builder` makes, or what a model's page offers for it: it holds
`genai_config.json`. Exits with 78 (EX_CONFIG) when starting it again the same way cannot help.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn


def main() -> None:
    options = _parser().parse_args()
    if not (options.model / "genai_config.json").is_file():
        _refuse(f"{options.model} holds no genai_config.json: it is no model for ONNX Runtime GenAI")
    try:
        import onnxruntime_genai
        import uvicorn

        from engines.onnx.app import create_app
        from engines.onnx.runner import Runner
    except ModuleNotFoundError as error:
        _refuse(f"the ONNX engine is not installed ({error.name} is missing): pip install 'headrace[onnx]'")
    runner = Runner(onnxruntime_genai, str(options.model), options.slots)
    print(f"ONNX Runtime GenAI serves {options.alias} on {options.host}:{options.port}", flush=True)  # noqa: T201
    app = create_app(runner, options.alias)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning", access_log=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engines.onnx", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder with genai_config.json")
    parser.add_argument("--alias", default="model", help="the model name it answers to")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=8, help="requests that take turns; more wait")
    return parser


def _refuse(message: str) -> NoReturn:
    print(message, file=sys.stderr)  # noqa: T201
    raise SystemExit(os.EX_CONFIG)


if __name__ == "__main__":
    main()
