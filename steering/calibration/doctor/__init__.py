"""Doctor: what this engine sees and does in a model, beside what nnsight and tuned-lens see and do there."""

from steering.calibration.doctor.examine import run_doctor as run_doctor
