"""Files and checkpoints."""

# SPDX-License-Identifier: BSD-3-Clause

from skjko.io.info import file_info

__all__ = ["file_info"]
