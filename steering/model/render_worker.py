"""Renders chat templates, in a process of its own that may be killed: a template is a program that came with a model.

Run as a script. Each line on standard input asks for one rendering, each line on standard output answers it, both JSON.
What takes too long ends the process; what takes too much memory, or comes to too long a text, is an error. It imports
neither torch nor anything of ours, and ends with whoever started it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
from typing import Any

SECONDS = 2.0
"""Of processor time for one rendering: a busy machine refuses no template that an idle one takes."""
PATIENCE = 10.0
"""Seconds by the clock, whatever the processor did."""
MEMORY = 1 << 30
"""Bytes of address space beyond what the process has at its start."""
MAX_TEXT = 1 << 24
"""Characters of a rendered conversation."""
MAX_ERROR = 1000


def render(task: dict[str, Any]) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    conversation, names = task["messages"], task["special_tokens"]
    (text,), _ = render_jinja_template(
        [conversation],
        tools=task["tools"],
        chat_template=task["template"],
        continue_final_message=task["continues"],
        add_generation_prompt=task["prompts"],
        **names,
    )
    if len(text) > MAX_TEXT:
        raise ValueError(f"it wrote more than {MAX_TEXT:,} characters")
    return str(text)


def answer(line: bytes) -> dict[str, str]:
    try:
        return {"text": render(json.loads(line))}
    except MemoryError:
        return {"error": "it takes too much memory"}
    except Exception as error:  # whatever the template raised
        return {"error": str(error)[:MAX_ERROR] or type(error).__name__}


def limited(line: bytes) -> dict[str, str]:
    """The process ends where the time does."""
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        faulthandler.dump_traceback_later(PATIENCE, exit=True, file=nowhere)
        _processor_time(SECONDS)
        try:
            return answer(line)
        finally:
            _processor_time(0)
            faulthandler.cancel_dump_traceback_later()


def _processor_time(seconds: float) -> None:
    """After which a signal ends the process; 0: no limit. Windows has the clock alone."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory() -> None:
    try:
        import resource

        with open("/proc/self/statm") as file:  # noqa: PTH123
            size = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    except (ImportError, OSError):  # not Linux: time and size are what there is
        return


def main() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template  # noqa: F401 - before the first task

    _limit_memory()
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(json.dumps(limited(line)).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
