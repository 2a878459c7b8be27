"""A GGUF that we write in llama.cpp itself: it steers the block there that it steers here.

`tests/interop/install-llama-cpp` brings llama.cpp.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from steering.interop.directions import Directions
from steering.interop.gguf import write_gguf
from tests.interop.test_gguf import noise
from tests.models import VOCAB_SIZE, tiny_hf

IDS = torch.randint(6, VOCAB_SIZE, (17,), generator=torch.Generator().manual_seed(5))
H, G, K, D, L = 8, 2, 8, 64, 4

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lib() -> Any:
    return pytest.importorskip("llama_cpp", reason="llama.cpp is not installed")


def converted(hf: PreTrainedModel, path: Path) -> Path:
    """As a GGUF without a vocabulary. llama.cpp turns neighbouring features of q and k, transformers halves."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(D)
    writer.add_block_count(L)
    writer.add_feed_forward_length(hf.config.intermediate_size)
    writer.add_head_count(H)
    writer.add_head_count_kv(G)
    writer.add_key_length(K)
    writer.add_value_length(K)
    writer.add_rope_dimension_count(K)
    writer.add_rope_freq_base(hf.config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(hf.config.rms_norm_eps)
    writer.add_vocab_size(VOCAB_SIZE)
    writer.add_tokenizer_model("none")

    def turned(weight: Tensor) -> Tensor:
        return weight.reshape(-1, 2, K // 2, D).swapaxes(1, 2).reshape(weight.shape)

    def add(name: str, weight: Tensor) -> None:
        writer.add_tensor(f"{name}.weight", weight.detach().float().contiguous().numpy())

    add("token_embd", hf.model.embed_tokens.weight)
    add("output_norm", hf.model.norm.weight)
    add("output", hf.lm_head.weight)
    for i, block in enumerate(hf.model.layers):
        add(f"blk.{i}.attn_norm", block.input_layernorm.weight)
        add(f"blk.{i}.attn_q", turned(block.self_attn.q_proj.weight))
        add(f"blk.{i}.attn_k", turned(block.self_attn.k_proj.weight))
        add(f"blk.{i}.attn_v", block.self_attn.v_proj.weight)
        add(f"blk.{i}.attn_output", block.self_attn.o_proj.weight)
        add(f"blk.{i}.ffn_norm", block.post_attention_layernorm.weight)
        add(f"blk.{i}.ffn_gate", block.mlp.gate_proj.weight)
        add(f"blk.{i}.ffn_up", block.mlp.up_proj.weight)
        add(f"blk.{i}.ffn_down", block.mlp.down_proj.weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def as_loaded(path: Path) -> np.ndarray[Any, Any]:
    """What llama.cpp's loader makes of a control vector: [L - 1, D], direction.k in row k - 1, else 0."""
    rows = np.zeros((L - 1, D), np.float32)
    for tensor in gguf.GGUFReader(path).tensors:
        rows[int(tensor.name.removeprefix("direction.")) - 1] = tensor.data
    return rows


@pytest.fixture(scope="module")
def context(lib: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = converted(tiny_hf(), tmp_path_factory.mktemp("gguf") / "model.gguf")
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = 256, 1, 1
    context = lib.llama_init_from_model(model, params)
    assert model and context
    yield context
    lib.llama_free(context)
    lib.llama_model_free(model)


def theirs(lib: Any, context: Any, rows: np.ndarray[Any, Any]) -> Tensor:
    """[V] logits of the last of IDS."""
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
    pointer = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    assert lib.llama_set_adapter_cvec(context, pointer, rows.size, D, 1, L - 1) == 0
    ids = (ctypes.c_int32 * len(IDS))(*IDS.tolist())
    assert lib.llama_decode(context, lib.llama_batch_get_one(ids, len(IDS))) == 0
    logits = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (VOCAB_SIZE,))
    return torch.from_numpy(logits.copy())


def ours(vectors: dict[int, Tensor]) -> Tensor:
    hf = tiny_hf()
    for block, vector in vectors.items():
        hf.model.layers[block].register_forward_hook(lambda module, args, out, vector=vector: out + vector)
    with torch.no_grad():
        logits: Tensor = hf(IDS[None], use_cache=False).logits[0, -1]
    return logits


@pytest.mark.parametrize("layers", [(), (1,), (2,), (3,), (1, 3)])
def test_llama_cpp_steers_the_same_block(lib: Any, context: Any, tmp_path: Path, layers: tuple[int, ...]) -> None:
    vectors = noise(*layers)
    path = tmp_path / "v.gguf"
    path.write_bytes(write_gguf(Directions(vectors, "llama", {"pack": "p@0"})))
    found, expected, plain = theirs(lib, context, as_loaded(path)), ours(vectors), ours({})
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)
    assert bool(layers) == ((expected - plain).abs().max() > 0.1).item()
    if layers:
        shifted = ours({layer - 1: vector for layer, vector in vectors.items()})
        assert (found - shifted).abs().max() > 0.1, "a block off would not be noticed"
