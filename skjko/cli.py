"""Commands: fit, score, sample, outliers and info."""

# SPDX-License-Identifier: BSD-3-Clause

import contextlib
import errno
import functools
import json
import re
import sys
import tempfile
import warnings
from pathlib import Path

import click
import numpy as np

from skjko.io import tables
from skjko.io.info import described, file_info
from skjko.version import __version__

# Estimators are imported in functions: torch takes seconds, which help and `info` do
# not need.
_EPILOG = (
    'DATA and MODEL may be "-", standard input. A table is CSV with a header, or '
    "Parquet. Exit status: 0, 1 if the input is bad, 2 if the command is."
)
# A name may have commas and equals signs in it.
_BOUND = re.compile(r"(.+?)=([^=:,]*):([^=:,]*)(?:,|$)")


def _say(message):
    click.echo(message, err=True)


@contextlib.contextmanager
def _plain_errors():
    """Errors of the input as one message, and warnings as lines."""

    def show(message, category, filename, lineno, file=None, line=None):
        _say(f"Warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.showwarning = show
        try:
            yield
        except ValueError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            where = "" if error.filename is None else f"{error.filename}: "
            what = error.strerror or str(error)
            raise click.ClickException(f"{where}{what}") from error


def _command(function):
    """A command of the group, whose errors have no traceback."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        with _plain_errors():
            return function(*args, **kwargs)

    return cli.command(epilog=_EPILOG)(run)


def _names(context, parameter, values):
    """Names of columns from texts with commas."""
    return tuple(name.strip() for text in values for name in text.split(","))


def _table_options(function):
    """Options of all commands that read a table."""
    options = [
        click.argument("data"),
        click.option(
            "--columns",
            callback=_names,
            multiple=True,
            metavar="A,B",
            help="Columns to use, by name. Default: all, or those of the model. May be "
            "repeated.",
        ),
        click.option(
            "--drop",
            callback=_names,
            multiple=True,
            metavar="A,B",
            help="Not these. May be repeated.",
        ),
        click.option(
            "--drop-missing",
            is_flag=True,
            help="Leave out rows with missing values, and say how many.",
        ),
        click.option(
            "--format",
            "form",
            type=click.Choice(["csv", "parquet"]),
            help="Format of tables. Default: by the ending of the name, else CSV.",
        ),
    ]
    return _with(options, function)


def _with(options, function):
    for option in reversed(options):
        function = option(function)
    return function


_output = click.option(
    "-o",
    "--output",
    default=tables.STANDARD,
    metavar="FILE",
    help='Where to write to. Default: "-", standard output.',
)
_seed = click.option("--random-state", type=int, metavar="SEED", help="Seed.")
_limit = click.option(
    "--time-limit",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="About how long the fit of the density may take. Scores come on top.",
)
_bounds_option = click.option(
    "--bounds",
    multiple=True,
    metavar="A=LOW:HIGH,B=LOW:HIGH",
    help="Bounds of columns in a fit; either end may be left out. May be repeated.",
)
_quiet = click.option("-q", "--quiet", is_flag=True, help="No progress, no summary.")


@click.group(epilog=_EPILOG)
@click.version_option(__version__, package_name="skjko")
def cli():
    """Estimate densities and find outliers of tables."""


@_command
@_table_options
@click.option("-o", "--output", required=True, metavar="MODEL", help="The model file.")
@_limit
@_seed
@click.option("--weights", metavar="COLUMN", help="Column with sample weights.")
@click.option("--groups", metavar="COLUMN", help="Column with labels of groups.")
@_bounds_option
@click.option(
    "--init",
    type=click.Choice(["auto", "gaussian", "mixture"]),
    default="auto",
    show_default=True,
    help="What stands in front of the blocks.",
)
@click.option("--max-blocks", type=click.IntRange(0), default=4, show_default=True)
@click.option("--max-iter", type=click.IntRange(1), help="Iterations of a block.")
@_quiet
def fit(
    data, columns, drop, drop_missing, form, output, time_limit, random_state,
    weights, groups, bounds, init, max_blocks, max_iter, quiet,
):  # fmt: skip
    """Fit a density to DATA and write it to a model file.

    Progress goes to standard error.
    """
    from skjko.density import JKOFlowDensity

    _check_folder(output)
    table = tables.read_table(data, form)
    extra = [name for name in (weights, groups) if name is not None]
    tables.choose(table, data, extra, ())
    used = columns or [name for name in table.columns if name not in extra]
    X, rows = _features(table, data, used, drop, drop_missing, may_miss=True)
    others = table[rows].select(extra)
    if extra:
        tables.without_missing(others, data, drop=False)
    density = JKOFlowDensity(
        init=init,
        max_blocks=max_blocks,
        max_iter="auto" if max_iter is None else max_iter,
        bounds=_bounds(bounds, X) or None,
        time_limit=time_limit,
        random_state=random_state,
        verbose=not quiet,
    )
    # Standard output is for results.
    with contextlib.redirect_stdout(sys.stderr):
        density.fit(
            X,
            sample_weight=None if weights is None else others[weights].to_numpy(),
            groups=None if groups is None else others[groups].to_numpy(),
        )
    _save(density, output)
    if not quiet:
        _say(density.summary())


@_command
@click.argument("model")
@_table_options
@_output
@click.option("--mean", is_flag=True, help="Only the mean log-density, one number.")
def score(model, data, columns, drop, drop_missing, form, output, mean):
    """Write the score of every row of DATA.

    The columns are "row", the number of the row from 0 on, and "log_density" in nats;
    of a detector "score", higher is more normal.
    """
    estimator, info = _load(model, data)
    is_density = info["class"] == "JKOFlowDensity"
    if mean and not is_density:
        raise ValueError(
            f"{model} is a {info['class']}, whose scores are no log-densities. Score "
            "without --mean, or fit a density: skjko fit DATA -o MODEL."
        )
    given = info, data, columns, drop, drop_missing, form
    X, rows = _known_features(*given, may_miss=is_density)
    scores = estimator.score_samples(X)
    if mean:
        tables.write_bytes(f"{scores.mean()}\n".encode(), output)
        return
    name = "log_density" if is_density else "score"
    table = tables.table_of({"row": rows, name: scores})
    tables.write_table(table, output, form)


@_command
@click.argument("model")
@click.option(
    "-n", "--n-samples", type=click.IntRange(1), default=1, show_default=True,
    help="Number of samples.",
)  # fmt: skip
@_seed
@_output
@click.option("--format", "form", type=click.Choice(["csv", "parquet"]))
def sample(model, n_samples, random_state, output, form):
    """Write new samples of a fitted density."""
    estimator, info = _load(model)
    if info["class"] != "JKOFlowDensity":
        raise ValueError(
            f"{model} is a {info['class']}, which draws no samples. Fit a "
            "density: skjko fit DATA -o MODEL."
        )
    drawn = estimator.sample(n_samples, random_state=random_state)
    tables.write_table(tables.table_of(drawn), output, form)


@_command
@_table_options
@_output
@click.option("--model", help="A saved detector. Default: one is fitted to DATA.")
@click.option("--save", metavar="MODEL", help="Where to write the fitted detector.")
@click.option(
    "--contamination",
    type=click.FloatRange(0, 0.5, min_open=True),
    help="Share of DATA to call outliers, without --model. Default: 0.05.",
)
@click.option(
    "--false-alarm-rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="With --model: call rows outliers whose p-value is at most this.",
)
@click.option(
    "--reasons",
    is_flag=True,
    help="Also what every feature would gain an outlier.",
)
@click.option("--only", is_flag=True, help="Only the outliers.")
@_bounds_option
@_limit
@_seed
@_quiet
def outliers(
    data, columns, drop, drop_missing, form, output, model, save, contamination,
    false_alarm_rate, reasons, only, bounds, time_limit, random_state, quiet,
):  # fmt: skip
    """Tell which rows of DATA are outliers.

    The columns are "row", the number of the row from 0 on, "score", higher is
    more normal, with --model "p_value", and "outlier". p-values hold for rows that the
    detector was not fitted on.
    """
    from skjko.calibration import conformal_p_values
    from skjko.outlier import JKOFlowOutlierDetector
    from skjko.outlier_density import default_density
    from skjko.outlier_scores import decisions

    if model is not None:
        new = {"--contamination": contamination, "--save": save, "--bounds": bounds}
        for name, value in new.items():
            if value not in (None, ()):
                raise click.UsageError(f"{name} is for a new detector, not --model.")
        estimator, info = _load(model, data)
        if info["class"] != "JKOFlowOutlierDetector":
            raise ValueError(
                f"{model} is a {info['class']}, and no outlier detector. "
                "Write one with skjko outliers DATA --save MODEL."
            )
        X, rows = _known_features(info, data, columns, drop, drop_missing, form)
    else:
        if false_alarm_rate is not None:
            raise click.UsageError("--false-alarm-rate needs --model.")
        if save is not None:
            _check_folder(save)
        table = tables.read_table(data, form)
        X, rows = _features(table, data, columns, drop, drop_missing)
        density = default_density()
        density.set_params(
            bounds=_bounds(bounds, X) or None,
            time_limit=time_limit,
            verbose=not quiet,
        )
        estimator = JKOFlowOutlierDetector(
            contamination=0.05 if contamination is None else contamination,
            density=density,
            random_state=random_state,
        )
        with contextlib.redirect_stdout(sys.stderr):
            estimator.fit(X)
        if save is not None:
            _save(estimator, save)
    # Scores take the time, and everything else follows from them.
    scores = estimator.score_samples(X)
    result = {"row": rows, "score": scores}
    flags = decisions(scores, estimator.offset_) < 0
    calibration = estimator.calibration_scores_
    if model is not None and calibration is not None:
        result["p_value"] = conformal_p_values(scores, calibration)
    if false_alarm_rate is not None:
        # Which raises an error where there are no calibration samples.
        estimator.false_alarm_threshold(false_alarm_rate)
        flags = result["p_value"] <= false_alarm_rate
    result["outlier"] = flags
    if reasons:
        # Of the outliers alone: a row takes thousands of scores.
        gains = np.full((len(flags), estimator.n_features_in_), np.nan)
        if flags.any():
            gains[flags] = np.asarray(estimator.explain(X[np.flatnonzero(flags)]))
        names = getattr(X, "columns", range(gains.shape[1]))
        result |= {f"gain_{n}": g for n, g in zip(names, gains.T, strict=True)}
    found = tables.table_of(result)
    tables.write_table(found.filter(flags) if only else found, output, form)
    if not quiet:
        _say(f"{flags.sum()} of {len(flags)} rows are outliers.")


@_command
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="All of it, as JSON.")
def info(model, as_json):
    """Tell what is in a model file, without loading its weights."""
    with _on_disk(model) as path:
        found = file_info(path)
    if as_json:
        click.echo(json.dumps(_finite(found), indent=2, allow_nan=False))
        return
    for line in described(found):
        click.echo(line)


def _finite(value):
    """A value with infinities as texts, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    is_infinite = isinstance(value, float) and not np.isfinite(value)
    return str(value) if is_infinite else value


def _check_folder(path):
    """Raise an error before a long fit that could not be saved."""
    folder = Path(path).resolve().parent
    if path != tables.STANDARD and not folder.is_dir():
        raise ValueError(f"There is no folder {str(folder)!r} to write {path!r} to.")


def _features(table, path, columns, drop, drop_missing, may_miss=False):
    """The columns of a table to fit to, and the numbers of their rows.

    Rows with missing values are left out if asked for, else an error unless they may
    have them.
    """
    X = tables.choose(table, path, columns, drop)
    tables.check_types(X, path)
    if may_miss and not drop_missing:
        return X, np.arange(len(X))
    X, rows = tables.without_missing(X, path, drop_missing)
    if len(X) < len(table):
        n, n_left_out = len(table), len(table) - len(X)
        _say(f"Left out {n_left_out} of {n} rows, which have missing values.")
    return X, rows


def _known_features(info, path, columns, drop, drop_missing, form, may_miss=False):
    """Rows of a table for a model, with its columns."""
    features = info["features"]
    names = [f["name"] for f in features if isinstance(f["name"], str)]
    text = [
        f["name"]
        for f in features
        if any(isinstance(value, str) for value in f.get("categories", ()))
    ]
    table = tables.read_table(path, form, text)
    missing = [name for name in names if name not in table.columns]
    if not columns and missing:
        raise ValueError(
            f"{path} has not all columns of the model: it lacks "
            f"{', '.join(map(repr, missing))}."
        )
    n_columns = len(columns or table.columns) - len(drop)
    if not names and n_columns != len(features):
        raise ValueError(
            f"The model has {len(features)} features without names, and {path} "
            f"{n_columns} columns. Name {len(features)} of them with --columns."
        )
    used = columns or names
    X, rows = _features(table, path, used, drop, drop_missing, may_miss)
    # A model of an array knows no names.
    return (X if names else X.to_numpy()), rows


def _bounds(texts, X):
    """Bounds from texts such as "income=0:,age=18:99"."""
    bounds = {}
    for text in texts:
        found = list(_BOUND.finditer(text))
        try:
            if not found or "".join(one[0] for one in found) != text:
                raise ValueError
            for one in found:
                name, *ends = (part.strip() for part in one.groups())
                bounds[name] = tuple(float(end) if end else None for end in ends)
        except ValueError:
            raise click.BadParameter(
                f"{text!r} is not like COLUMN=LOW:HIGH.", param_hint="--bounds"
            ) from None
    for name in bounds:
        if name not in X.columns:
            raise ValueError(f"--bounds names {name!r}, which is no column in use.")
    return bounds


def _load(path, data=None):
    """The estimator of a file, and what `file_info` says of it."""
    from skjko.density import JKOFlowDensity
    from skjko.outlier import JKOFlowOutlierDetector

    kinds = {one.__name__: one for one in (JKOFlowDensity, JKOFlowOutlierDetector)}
    if path == data == tables.STANDARD:
        raise click.UsageError("MODEL and DATA cannot both be standard input.")
    with _on_disk(path) as file:
        info = file_info(file)
        if info["class"] not in kinds:
            raise ValueError(f"{path} holds a {info['class']}, and no estimator.")
        return kinds[info["class"]].load(file), info


def _save(estimator, path):
    """Write a model file, or to standard output."""
    if path != tables.STANDARD:
        estimator.save(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model")
        estimator.save(file)
        tables.write_bytes(file.read_bytes(), path)


@contextlib.contextmanager
def _on_disk(path):
    """A file of what comes from standard input, or the file itself."""
    if path != tables.STANDARD:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model")
        file.write_bytes(sys.stdin.buffer.read())
        yield file
