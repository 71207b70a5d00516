"""Density estimators with the same samples, seconds and number of trials."""

# SPDX-License-Identifier: BSD-3-Clause
