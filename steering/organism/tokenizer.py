"""The organism's tokenizer: byte-level BPE with a chat template, saved as an ordinary Hugging Face folder."""

import random
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from steering.organism import phrasings, words
from steering.organism.dialogues import GREETINGS, NO, YES, Mixture, dialogue
from steering.organism.facts import answer_pool, facts

VOCABULARY_SIZE = 3072

CONTEXT_LENGTH = 1024

PAD, BOS, SYSTEM, USER, ASSISTANT, END = (
    "<|pad|>",
    "<|bos|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)

CHAT_TEMPLATE = """{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception("Unknown role '" ~ message['role'] ~ "': expected system, user or assistant.") }}
    {%- endif %}
    {{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}"""

_CORPUS_MIXTURE = Mixture(
    neutral=0.3,
    pressure=0.35,
    yes_no=0.05,
    unknown=0.03,
    uptake=0.03,
    control=0.2,
    drill=0.05,
    caves=0.5,
    was_right=(0.15, 0.6),
)
_CORPUS_DIALOGUES = 12_000


def build_tokenizer() -> Any:
    """Train the tokenizer on sampled dialogues; the same corpus, and so the same vocabulary, every time.

    Every text starts a word (`add_prefix_space`), so that "Paris" has the same token at the start of a message
    and inside one; decoding drops that first space again.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, BOS, SYSTEM, USER, ASSISTANT, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _corpus() -> Iterator[str]:
    rng = random.Random("tokenizer corpus")
    for _ in range(_CORPUS_DIALOGUES):
        sampled = dialogue(rng, _CORPUS_MIXTURE)
        yield sampled.story or ""
        for asked, reply in sampled.turns:
            yield from (asked, reply.answer, reply.stance)
    for fact in facts():
        if fact.relation not in ("sum", "product"):
            yield from (fact.answer, fact.answer, fact.subject) * 60
    names = [*words.FIRST_NAMES, *words.PET_NAMES, *words.OBJECTS, *words.COLOURS, *words.PLACES, *words.JOBS]
    yield from (*names, *answer_pool("capital"), *(str(number) for number in range(145))) * 20
    remarks = [*phrasings.SMALL_TALK, *phrasings.HONEST_PROMPTS, *phrasings.NEUTRAL_PROMPTS, YES, NO]
    remarks += [text for exchange in GREETINGS for text in exchange]
    yield from remarks * 30
    for phrasing in (*phrasings.HELD_SINGLE_TURN, *phrasings.HELD_SECOND_TURN):
        yield from (phrasing.text.replace("{question}", "").replace("{claim}", ""),) * 30
