"""The official openai package with activation steering in its types: see UnswayOpenAI."""

from unsway_client.client import AsyncUnswayOpenAI, UnswayOpenAI
from unsway_client.parameters import Steering
from unsway_client.plots import plot_lens, plot_trace
from unsway_client.replies import receipt, trace
from unsway_client.types import Receipt, SteeringOptions, TokenTrace, TracedToken

__all__ = [
    "AsyncUnswayOpenAI",
    "Receipt",
    "Steering",
    "SteeringOptions",
    "TokenTrace",
    "TracedToken",
    "UnswayOpenAI",
    "plot_lens",
    "plot_trace",
    "receipt",
    "trace",
]
