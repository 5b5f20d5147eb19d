"""The capitals task: DPO against ASR-DPO where the true credit of every token is known."""

import segkernel.training  # noqa: F401  # names a package of the `train` extra that is missing, before any import of it
