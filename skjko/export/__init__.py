"""Fitted densities as one graph of torch operations, for other engines."""

# SPDX-License-Identifier: BSD-3-Clause
