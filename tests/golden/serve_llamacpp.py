"""llama.cpp as it was recorded: `python serve_llamacpp.py MODEL.gguf PORT [--embedding]`, in a venv with xllamacpp.

Runs until SIGTERM or SIGINT. OMP_WAIT_POLICY=passive keeps idle worker threads from spinning.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.model_alias = {"smollm2"}
params.port = int(sys.argv[2])
params.hostnames = ["127.0.0.1"]
params.n_ctx = 1024
params.n_parallel = 4
params.kv_unified = True
params.endpoint_metrics = True
params.cpuparams.n_threads = 2
params.chat_template = (Path(__file__).parent / "chat-template.jinja").read_text()
if "--embedding" in sys.argv:
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
server = xllamacpp.Server(params)
print("serving", server.listening_address, flush=True)
signal.sigwait({signal.SIGTERM, signal.SIGINT})
