"""Files and checkpoints."""

# SPDX-License-Identifier: BSD-3-Clause
