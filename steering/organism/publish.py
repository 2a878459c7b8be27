"""Store a trained step as the bundled model."""

from pathlib import Path

import torch
from transformers import AutoTokenizer

from steering.organism.tokenizer import build_tokenizer
from steering.organism.train import load

WEIGHTS = Path(__file__).parent / "weights"
"""The bundled model: an ordinary Hugging Face folder, stored in bf16, to be run in fp32."""


def publish(step: Path, to: Path = WEIGHTS) -> None:
    """Copy model and tokenizer. Refuses a step whose vocabulary is not the one this code builds."""
    tokenizer = build_tokenizer()
    if tokenizer.get_vocab() != AutoTokenizer.from_pretrained(step).get_vocab():
        raise ValueError(f"{step} was trained with another vocabulary than this code builds: train it again")
    tokenizer.save_pretrained(to)
    load(step).to(torch.bfloat16).save_pretrained(to)
