"""The library's errors. Each carries data, says what was expected, what came and what to do; none knows HTTP."""


class SteeringError(Exception):
    """Root of every error this library raises on purpose."""


class InvalidRequest(SteeringError):
    """A request that can never run as asked: `param` is the dotted path of the offending field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ValueOutOfRange(InvalidRequest):
    """A number outside its allowed range."""


class LayerOutOfRange(InvalidRequest):
    """A site names a layer (or unit) the model does not have."""


class ContextLengthExceeded(InvalidRequest):
    """Prompt plus requested tokens do not fit the served context."""


class ProfileObserveOnly(InvalidRequest):
    """Mode `on` asked of a pack that only measures."""


class InvalidSchema(InvalidRequest):
    """A schema of an answer that is none, or that has what cannot be promised."""


class SchemaTooComplex(InvalidRequest):
    """A schema of an answer that takes too much time or memory to compile."""


class TemplateError(InvalidRequest):
    """The model's own chat template refused the messages."""


class InvalidUnicode(InvalidRequest):
    """Text with a lone surrogate: no tokenizer can encode it."""


class QueueFull(SteeringError):
    """The bounded inbox is full; the request was not accepted."""


class NumericalError(SteeringError):
    """Logits of one row became NaN or infinite; that request alone was aborted."""


class EngineFailure(SteeringError):
    """A forward raised; the requests it ran were ended, the engine goes on."""


class OverMemoryBudget(SteeringError):
    """Memory ran out though the sequence had its step to itself; it was ended, the engine goes on."""


class MemoryTooSmall(SteeringError):
    """A budget for keys and values that not one row fits in; the message names the smallest that works."""


class UnsupportedModel(SteeringError):
    """A model folder that this version cannot serve; the message says why and what works."""


class DataError(SteeringError):
    """A data file that cannot be used: which file, and where known which line (of a JSON list: entry) and column."""

    def __init__(self, message: str, *, file: str, line: int | None = None, column: str | None = None) -> None:
        self.file, self.line, self.column = file, line, column
        places = (file, line and f"line {line}", column and f"column {column!r}")
        super().__init__(f"{', '.join(str(place) for place in places if place)}: {message}")


class LensError(SteeringError):
    """A lens file, or a checkpoint of another project, that cannot be used: damaged, or of another model."""


class CalibrationError(SteeringError):
    """A calibration that cannot start or not go on; what it wrote before is kept."""


class TuningError(CalibrationError):
    """A tuning that cannot be started or gone on with; the message says why and what works."""


class NotFiniteLoss(TuningError):
    """A tuning whose learning rate is too high."""


class PackError(SteeringError):
    """A pack that cannot be used."""


class PackCorrupt(PackError):
    """Files missing, truncated, not matching their digests, or not of the format."""


class UnsupportedFile(PackCorrupt):
    """A file of another format than a pack's, by its first bytes."""


class TensorFileCorrupt(PackCorrupt):
    """A tensor file that breaks its format, or that has what this project never reads."""


class TensorMismatch(PackCorrupt):
    """A tensor of another shape or type than its place asks for."""


class TensorNotFinite(PackCorrupt):
    """A tensor with NaN or infinity in it, as it is stored or in the model's type."""


class PackOutOfRange(PackCorrupt):
    """A pack that names a layer or unit which the model does not have."""


class PackKeyUnknown(PackCorrupt):
    """A key where only others are known."""

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class PackModelMismatch(PackError):
    """A pack made for another model: carries both fingerprints."""

    def __init__(self, message: str, *, expected: str, got: str) -> None:
        super().__init__(message)
        self.expected, self.got = expected, got


class PackNotFound(PackError):
    """No pack of that name, or none with that digest."""


class PackExists(PackError):
    """A pack of that name is there, and whoever writes another takes it that there is none."""


class PackChanged(PackError):
    """A name does not stand for the digest that whoever writes takes it to stand for."""


class PackReadOnly(PackError):
    """A pack, or a folder of packs, that this process does not write."""


class NotPackOwner(PackError):
    """A pack that somebody else uploaded."""


class PackQuotaExceeded(PackError):
    """One pack, or byte, more than may be kept; the message says whose limit it is."""


class StorageFull(PackError):
    """No space left to write to; what was there is as it was."""


class NothingToLocalise(CalibrationError):
    """No pair in which the model says the claim under pressure: there is no flip to look for."""


class NoNeurons(CalibrationError):
    """There are none to choose: the model has none, examples are too few, or nothing tells the sides apart."""


class AnotherRun(CalibrationError):
    """A file of kept results belongs to a run with another model, other pairs or other options."""


class EvaluationError(SteeringError):
    """An evaluation that cannot run, or not go on; what it wrote before is kept."""


class BackendError(EvaluationError):
    """A server under test, or a judge, that cannot be reached or does not answer as the protocol asks.

    passing: it may be otherwise soon.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


def first_line(error: BaseException) -> str:
    """Of what a library raised: its further lines are for its own developers."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
