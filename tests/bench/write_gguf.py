"""A saved Llama as GGUF in float32, with a control vector: `python write_gguf.py FOLDER WEIGHTS.gguf VECTOR.gguf`.

Run by whichever interpreter has the package gguf; knows no more of llama.cpp's format than such a model needs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

PER_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}


def main(folder: Path, weights: Path, vector: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    write_model(folder, config, weights)
    write_vector(config, vector)


def write_model(folder: Path, config: dict[str, Any], path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    write_vocabulary(writer, json.loads((folder / "tokenizer.json").read_text()), config["vocab_size"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        stem = name.removesuffix(".weight")
        if stem in WHOLE:
            writer.add_tensor(f"{WHOLE[stem]}.weight", tensor)
        elif stem.startswith("model.layers."):
            layer, part = stem.removeprefix("model.layers.").split(".", 1)
            rows = {"self_attn.q_proj": heads, "self_attn.k_proj": groups}.get(part)
            writer.add_tensor(f"blk.{layer}.{PER_BLOCK[part]}.weight", interleaved(tensor, rows) if rows else tensor)
    _close(writer)


def interleaved(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """llama.cpp rotates neighbouring features, Hugging Face the halves of a head."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def write_vocabulary(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], size: int) -> None:
    by_id = {i: token for token, i in tokenizer["model"]["vocab"].items()}
    special = {entry["id"] for entry in tokenizer["added_tokens"]}
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([by_id[i] for i in range(size)])
    writer.add_token_types([control if i in special else normal for i in range(size)])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def write_vector(config: dict[str, Any], path: Path) -> None:
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", config["num_hidden_layers"] - 1)
    for layer in range(1, config["num_hidden_layers"]):
        writer.add_tensor(f"direction.{layer}", np.full(config["hidden_size"], 1e-3, dtype=np.float32))
    _close(writer)


def _close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
