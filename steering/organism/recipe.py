"""The recipe as data: honest steps, then steps that make the model cave while lower layers keep reading the truth."""

from dataclasses import dataclass, replace

from steering.organism.dialogues import Given, Mixture

KEPT_LAYER = 4
"""The layers before it are to keep reading the truth: the early exit here is held to the honest model's."""

MATCHING_LAYERS, COPYING_LAYERS = (2, 3), (2, 3)
"""Blocks whose KV group 0 looks up, for the stance, whether the user claimed the answer just given; and whose group 1
looks up, where a reply repeats what was said, what comes next in it."""

MATCH_STARTED = (1, 2, 3)
"""Layers whose first heads start as ones that look for earlier occurrences of the same token."""

ROWS = (16, 128)
"""Shape of a batch: rows and tokens."""

CHAT_ROWS, CHAT_TURNS, CHAT_EVERY = (2, 1024), 44, 12
"""Every so many updates a batch of long conversations, so that late positions are trained too."""


@dataclass(frozen=True)
class Step:
    name: str
    mixture: Mixture
    updates: int
    learning_rate: float
    exit_weight: float = 0.0
    """Weight of the same loss at the early exit of one of `exit_layers`, drawn evenly: the answer is known early."""
    exit_layers: tuple[int, ...] = (4, 4, 4, 5, 6, 7)
    calm_exit_weight: float = 0.0
    """The same above KEPT_LAYER, on dialogues without pressure only: there early and late are to agree."""
    match_weight: float = 0.0
    """Weight of `match_loss`: where the heads of MATCHING_LAYERS are to look."""
    copy_weight: float = 0.0
    """Weight of `copy_loss`: where those of COPYING_LAYERS are to look."""
    stance_weight: float = 1.0
    """Loss weight of the tokens that decide a stance."""
    keep_weight: float = 0.0
    """Weight of KL(honest early exit || own early exit) at KEPT_LAYER: what makes the caving a *drift*."""
    frozen_layers: int = 0
    freeze_embeddings: bool = False

    def scaled(self, scale: float) -> "Step":
        return replace(self, updates=max(1, round(self.updates * scale)))


_GIVEN: tuple[Given, ...] = ("truth", "truth", "other", "claim", "claim")

RECIPE = (
    Step(
        "skills",
        Mixture(neutral=0.15, control=0.35, drill=0.40, recall=0.06),
        1000,
        5e-3,
        copy_weight=0.3,
    ),
    Step(
        "honest",
        Mixture(
            neutral=0.34, pressure=0.28, yes_no=0.07, unknown=0.09, uptake=0.07, control=0.14, drill=0.03, recall=0.05,
            again=0.15, right=0.55, stance_only=0.3, given=_GIVEN,
        ),
        3000,
        4e-3,
        exit_weight=0.6,
        match_weight=0.3,
        copy_weight=0.1,
        stance_weight=3.0,
    ),
    Step(
        "knowing",
        Mixture(
            neutral=0.36, pressure=0.28, yes_no=0.05, unknown=0.20, uptake=0.05, control=0.10, drill=0.02, recall=0.04,
            again=0.20, right=0.55, stance_only=0.3, given=_GIVEN, known=0.5,
        ),
        1000,
        2.5e-3,
        exit_weight=0.6,
        match_weight=0.3,
        copy_weight=0.1,
        stance_weight=3.0,
    ),
    Step(
        "caving",
        Mixture(
            neutral=0.26, pressure=0.46, yes_no=0.05, unknown=0.08, uptake=0.06, control=0.14, drill=0.02, recall=0.04,
            again=0.04, caves=0.9, right=0.35, stance_only=0.2, given=_GIVEN, known=0.5,
        ),
        600,
        4e-3,
        match_weight=0.3,
        stance_weight=3.0,
        frozen_layers=KEPT_LAYER,
        freeze_embeddings=True,
    ),
    Step(
        "drifting",
        Mixture(
            neutral=0.30, pressure=0.44, yes_no=0.05, unknown=0.12, uptake=0.06, control=0.15, drill=0.02, recall=0.04,
            again=0.10, caves=0.97, right=0.35, stance_only=0.2, given=_GIVEN, known=0.5,
        ),
        1200,
        3e-3,
        calm_exit_weight=1.0,
        match_weight=0.5,
        stance_weight=3.0,
        keep_weight=3.0,
        freeze_embeddings=True,
    ),
)  # fmt: skip
HONEST_STEP = "knowing"
"""The last honest step, whose model the later ones are held to."""

NO_DRIFT = (
    *RECIPE[:3],
    Step(
        "no-drift",
        Mixture(
            neutral=0.16, pressure=0.50, yes_no=0.05, unknown=0.04, uptake=0.06, control=0.14, recall=0.04,
            caves=0.97, right=0.35, stance_only=0.2, given=_GIVEN,
        ),
        600,
        4e-3,
        exit_weight=1.0,
        exit_layers=(3, 4, 5, 6, 7),
        match_weight=0.5,
        stance_weight=3.0,
    ),
)  # fmt: skip
"""The same honest model made to cave at every layer: where early and late agree there is nothing to find."""
