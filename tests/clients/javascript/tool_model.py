"""A tiny random model whose chat template takes tools, as `unsway serve --model` takes it: into the folder named."""

from __future__ import annotations

import sys

from tests.tool_models import tool_model

if __name__ == "__main__":
    model = tool_model("qwen")
    model.hf.save_pretrained(sys.argv[1])
    model.tokenizer.save_pretrained(sys.argv[1])
