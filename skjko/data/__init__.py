"""Arrays, data frames and splits."""

# SPDX-License-Identifier: BSD-3-Clause
