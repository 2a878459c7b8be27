"""llama.cpp's server out of the package xllamacpp: `python serve_llama.py '{"model": ..., "port": ...}'`.

Run by the peers' interpreter. Keys and values in float32, as the weights; as many slots as rows; no control vector.
"""

from __future__ import annotations

import json
import signal
import sys

import xllamacpp


def main() -> None:
    settings = json.loads(sys.argv[1])
    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.hostnames, params.port = ["127.0.0.1"], settings["port"]
    params.n_parallel, params.n_ctx = settings["rows"], settings["context"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
