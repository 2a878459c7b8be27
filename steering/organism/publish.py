"""Store a trained step as the bundled model: `python -m steering.organism.publish DIR/2c [--to WEIGHTS]`."""

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Store a trained step as the bundled model.")
    parser.add_argument("step", type=Path)
    parser.add_argument("--to", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    publish(arguments.step, arguments.to)


if __name__ == "__main__":
    main()
