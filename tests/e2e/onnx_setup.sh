#!/usr/bin/env bash
# ONNX Runtime GenAI and a small real model for it, for `make e2e`:
#
#     tests/e2e/onnx_setup.sh DIR
#
# makes DIR/onnx-venv and DIR/onnx (545 MB) out of DIR/smollm2, which tests/e2e/vllm_setup.sh makes; PYTHON names a
# Python 3.11. What is already there is kept.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
dir=$(cd "$1" && pwd)
[ -f "$dir/smollm2/model.safetensors" ] || { echo "$dir/smollm2 is missing: run tests/e2e/vllm_setup.sh $dir" >&2; exit 1; }
venv=$dir/onnx-venv
python=$venv/bin/python
[ -x "$python" ] || "${PYTHON:-python3.11}" -m venv "$venv"
"$python" -c 'import onnxruntime_genai, uvicorn, fastapi' 2>/dev/null ||
  "$python" -m pip install --quiet "onnxruntime-genai>=0.18,<1" uvicorn fastapi msgspec
if [ ! -f "$dir/onnx/genai_config.json" ]; then
  "$python" -m pip install --quiet torch==2.13.0 "transformers>=5.19,<6" onnx onnx-ir accelerate
  "$python" -m onnxruntime_genai.models.builder -i "$dir/smollm2" -o "$dir/onnx.part" -p fp32 -e cpu >/dev/null
  mv "$dir/onnx.part" "$dir/onnx"
fi
echo "export HEADRACE_ONNX=$dir"
