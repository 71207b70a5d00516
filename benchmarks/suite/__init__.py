"""Density estimators side by side: same rows, same seconds, same number of trials."""

# SPDX-License-Identifier: BSD-3-Clause
