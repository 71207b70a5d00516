"""The command line: results are those of the estimators, errors are one message."""

# SPDX-License-Identifier: BSD-3-Clause

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import quick
from sklearn.exceptions import ConvergenceWarning

from skjko import JKOFlowDensity, JKOFlowOutlierDetector, __main__
from skjko.io import file_info, tables

pytest.importorskip("click")
from click.testing import CliRunner

from skjko.cli import cli

FAST = ["--init", "gaussian", "--max-blocks", "0", "--random-state", "0"]


def table(n=120, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(n)
    return pl.DataFrame(
        {
            "age": np.round(30 + 5 * a + rng.standard_normal(n)).astype(int),
            "income": np.exp(0.5 * a),
            "city": np.where(a > 0.5, "Rome", np.where(a > -0.5, "Oslo", "Bonn")),
            "member": a > rng.standard_normal(n),
        }
    )


def with_gaps():
    missing = pl.Series([i in (3, 17) for i in range(120)])
    return table().with_columns(
        income=pl.when(missing).then(None).otherwise(pl.col("income")),
        city=pl.when(pl.int_range(pl.len()) == 17).then(None).otherwise(pl.col("city")),
    )


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in a folder that has tables."""
    monkeypatch.chdir(tmp_path)
    table().write_csv("data.csv")
    table(30, seed=1).write_csv("new.csv")
    with_gaps().write_csv("gaps.csv")

    def run(*args, code=0, stdin=None):
        result = CliRunner().invoke(cli, list(map(str, args)), input=stdin)
        unexpected = result.exception is not None and not isinstance(
            result.exception, SystemExit
        )
        if unexpected:
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def model(run):
    run("fit", "data.csv", "-o", "model.skjko", *FAST)
    return "model.skjko"


def frame(result):
    return pl.read_csv(io.BytesIO(result.stdout_bytes))


# -------------------------------------------------------------- fit and score


def test_fit_and_score_are_those_of_python(run, model):
    density = JKOFlowDensity(init="gaussian", max_blocks=0, random_state=0)
    density.fit(pl.read_csv("data.csv"))
    expected = density.score_samples(pl.read_csv("new.csv"))
    found = frame(run("score", model, "new.csv"))
    assert found.columns == ["row", "log_density"]
    np.testing.assert_array_equal(found["row"], np.arange(30))
    np.testing.assert_array_equal(found["log_density"], expected)
    mean = run("score", model, "new.csv", "--mean")
    assert float(mean.stdout) == expected.mean()
    loaded = JKOFlowDensity.load(model).score_samples(pl.read_csv("new.csv"))
    np.testing.assert_array_equal(loaded, expected)


def test_progress_and_summary_are_on_stderr(run):
    args = ("fit", "data.csv", "-o", "m", "--max-iter", 5, "--max-blocks", 1)
    result = run(*args, "--init", "gaussian", "--random-state", 0)
    assert result.stdout == ""
    assert re.search(r"^grow +1 +free ", result.stderr, re.MULTILINE)
    assert "4 features." in result.stderr
    result = run(*args, "--quiet")
    assert (result.stdout, result.stderr) == ("", "")


def test_parquet_is_csv(run, model):
    table(30, seed=1).write_parquet("new.parquet")
    run("score", model, "new.parquet", "-o", "scores.parquet")
    expected = frame(run("score", model, "new.csv"))
    assert pl.read_parquet("scores.parquet").equals(expected)
    content = Path("new.parquet").read_bytes()
    assert frame(run("score", model, "-", stdin=content)).equals(expected)
    as_parquet = run("score", model, "new.csv", "--format", "csv", "-o", "a.parquet")
    assert as_parquet.stdout == ""
    assert Path("a.parquet").read_text().startswith("row,log_density\n")


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("decimal_comma", [False, True])
def test_separators_and_decimal_commas(tmp_path, separator, decimal_comma):
    path = str(tmp_path / "data.csv")
    # With commas, semicolons and quotes in text, and gaps.
    odd = pl.DataFrame(
        {
            "name, first": ["Bo, junior", 'say "a;b"', None, "1,5"],
            "income": [1.5, -0.25, 1e-7, None],
            "age": [30, 40, 50, 60],
            "code": ["1,5", "2", "3", "4"],
        }
    )
    odd.write_csv(path, separator=separator, decimal_comma=decimal_comma)
    assert tables.read_table(path, text=["code"]).equals(odd)
    table().write_csv(path, separator=separator, decimal_comma=decimal_comma)
    assert tables.read_table(path).equals(table())


@pytest.mark.parametrize("header", ["a,b;c", '"a;b"', "a"])
def test_separators_that_are_none(tmp_path, header):
    path = tmp_path / "data.csv"
    path.write_text(f"{header}\n1,2\n" if header == "a,b;c" else f"{header}\n1\n")
    names = tables.read_table(str(path)).columns
    assert names == header.replace('"', "").split(",")


def test_columns_by_name(run):
    run("fit", "data.csv", "-o", "m", "--columns", "income, age", *FAST)
    names = [f["name"] for f in file_info("m")["features"]]
    assert names == ["income", "age"]
    for drop in (["--drop", "city,member"], ["--drop", "city", "--drop", "member"]):
        run("fit", "data.csv", "-o", "m", *drop, *FAST)
        names = [f["name"] for f in file_info("m")["features"]]
        assert names == ["age", "income"]
    # The model knows which columns it needs, in any order, of any file that has them.
    shuffled = table(30, seed=1).select("member", "income", "age")
    shuffled.write_csv("other.csv")
    expected = JKOFlowDensity.load("m").score_samples(shuffled.select("age", "income"))
    found = frame(run("score", "m", "other.csv"))
    np.testing.assert_array_equal(found["log_density"], expected)


def test_text_and_booleans_are_categories(run, model):
    features = file_info(model)["features"]
    assert features[2]["categories"] == ["Bonn", "Oslo", "Rome"]
    assert features[3]["type"] == "Boolean"
    samples = frame(run("sample", model, "-n", 50, "--random-state", 0))
    assert set(samples["city"]) <= {"Bonn", "Oslo", "Rome"}
    assert samples["member"].dtype == pl.Boolean
    assert samples["age"].dtype == pl.Int64


def test_text_of_digits_stays_text(run):
    codes = table().with_columns(
        city=pl.col("city").replace_strict({"Rome": "01", "Oslo": "x", "Bonn": "02"})
    )
    codes.write_csv("codes.csv")
    run("fit", "codes.csv", "-o", "m", *FAST)
    # No row of the new file tells that it is text.
    new = codes.filter(pl.col("city") != "x")
    new.write_csv("new.csv")
    found = frame(run("score", "m", "new.csv"))
    expected = JKOFlowDensity.load("m").score_samples(new)
    np.testing.assert_array_equal(found["log_density"], expected)
    assert np.isfinite(expected).all()


def test_weights_groups_and_bounds(run):
    data = table().with_columns(
        w=pl.Series(np.arange(120) % 3 + 0.5), g=pl.Series(np.arange(120) // 4)
    )
    data.write_csv("data.csv")
    run(
        *("fit", "data.csv", "-o", "m", "--weights", "w", "--groups", "g"),
        *("--bounds", "income=0:", "--bounds", "age=:90", *FAST),
    )
    X = pl.read_csv("data.csv")
    density = JKOFlowDensity(
        init="gaussian",
        max_blocks=0,
        random_state=0,
        bounds={"income": (0, None), "age": (None, 90)},
    )
    with pytest.warns(ConvergenceWarning, match="effective number of samples"):
        density.fit(X.drop("w", "g"), sample_weight=X["w"], groups=X["g"])
    found = frame(run("score", "m", "data.csv"))["log_density"]
    np.testing.assert_array_equal(found, density.score_samples(X.drop("w", "g")))


def test_time_limit_reaches_the_fit(run):
    run("fit", "data.csv", "-o", "m", "--time-limit", 0.5, "--random-state", 0)
    assert file_info("m")["parameters"]["time_limit"] == 0.5


# ------------------------------------------------------------- missing values


def test_missing_values_are_an_error_with_the_remedy(run):
    options = ("--time-limit", 1, "--save", "m")
    result = run("outliers", "gaps.csv", *options, code=1)
    assert result.stderr == (
        "Error: gaps.csv has missing values: 2 in column 'income', 1 in column 'city'; "
        "in rows 3, 17 (row 0 is the first below the header). Leave these rows out "
        "with --drop-missing, or the columns with --drop NAME.\n"
    )
    assert not Path("m").exists()


def test_densities_take_missing_values(run):
    run("fit", "gaps.csv", "-o", "m", *FAST)
    scores = frame(run("score", "m", "gaps.csv"))["log_density"]
    assert len(scores) == 120
    assert np.isfinite(scores.to_numpy()).all()


@pytest.mark.parametrize("gap", ["NA", "NaN", "nan", "null", "None", ""])
def test_ways_to_write_a_gap(run, gap):
    lines = Path("data.csv").read_text().splitlines()
    cells = lines[5].split(",")
    lines[5] = ",".join([cells[0], gap, *cells[2:]])
    Path("data.csv").write_text("\n".join(lines))
    result = run("outliers", "data.csv", code=1)
    assert "1 in column 'income'; in row 4 (" in result.stderr


def test_drop_missing_says_how_many_and_which_rows_are_left(run, model):
    result = run("fit", "gaps.csv", "-o", "m", "--drop-missing", *FAST)
    assert "Left out 2 of 120 rows, which have missing values." in result.stderr
    result = run("score", model, "gaps.csv", "--drop-missing")
    rows = frame(result)["row"].to_list()
    assert rows == [i for i in range(120) if i not in (3, 17)]
    everywhere = table().with_columns(income=pl.lit(None, pl.Float64))
    everywhere.write_csv("none.csv")
    result = run("fit", "none.csv", "-o", "m", "--drop-missing", code=1)
    assert "Every row of none.csv has a missing value" in result.stderr
    assert "120 in column 'income'" in result.stderr


# ------------------------------------------------------------------- outliers


def test_outliers_of_a_table_are_its_least_likely_rows(run):
    args = ("outliers", "data.csv", "--time-limit", 1, "--random-state", 0)
    result = run(*args, "--contamination", 0.1, "--save", "det.skjko")
    found = frame(result)
    assert found.columns == ["row", "score", "outlier"]
    assert "12 of 120 rows are outliers." in result.stderr
    detector = JKOFlowOutlierDetector.load("det.skjko")
    X = pl.read_csv("data.csv")
    np.testing.assert_array_equal(found["score"], detector.score_samples(X))
    np.testing.assert_array_equal(found["outlier"], detector.predict(X) == -1)


def test_bounds_of_a_new_detector(run):
    args = ("outliers", "data.csv", "--time-limit", 1, "-q", "-o", "flags.csv")
    run(*args, "--bounds", "income=0:", "--save", "det.skjko")
    lower = JKOFlowOutlierDetector.load("det.skjko").density_.support_.lower
    assert lower[1] == 0.0
    result = run(*args, "--bounds", "income=0:,price=0:", code=1)
    assert "--bounds names 'price', which is no column in use" in result.stderr


@pytest.fixture
def detector(run):
    X = table()
    fitted = JKOFlowOutlierDetector(
        density=quick(max_blocks=0, early_stopping=False),
        calibration_fraction=0.5,
        random_state=0,
    ).fit(X)
    fitted.save("det.skjko")
    return fitted


def test_outliers_by_a_saved_detector(run, detector):
    X = pl.read_csv("new.csv")
    result = run("outliers", "new.csv", "--model", "det.skjko", "--reasons")
    found = frame(result)
    np.testing.assert_array_equal(found["p_value"], detector.p_values(X))
    np.testing.assert_array_equal(found["outlier"], detector.predict(X) == -1)
    assert found.columns[4:] == ["gain_age", "gain_income", "gain_city", "gain_member"]
    # Of the outliers alone, and empty elsewhere.
    flags = found["outlier"].to_numpy()
    assert 0 < flags.sum() < len(flags)
    gains = found[:, 4:].to_numpy()
    np.testing.assert_array_equal(gains[flags], detector.explain(X)[flags])
    assert np.isnan(gains[~flags]).all()
    args = ("outliers", "new.csv", "--model", "det.skjko", "--only")
    found = frame(run(*args, "--false-alarm-rate", 0.4))
    rows = np.flatnonzero(detector.p_values(X) <= 0.4)
    assert len(rows) > 0
    np.testing.assert_array_equal(found["row"], rows)


def test_detectors_score_and_do_not_sample(run, detector):
    found = frame(run("score", "det.skjko", "new.csv"))
    X = pl.read_csv("new.csv")
    assert found.columns == ["row", "score"]
    np.testing.assert_array_equal(found["score"], detector.score_samples(X))
    result = run("score", "det.skjko", "new.csv", "--mean", code=1)
    assert "whose scores are no log-densities. Score without --mean" in result.stderr
    result = run("sample", "det.skjko", code=1)
    assert "is a JKOFlowOutlierDetector, which draws no samples" in result.stderr


# --------------------------------------------------------------------- sample


def test_samples_are_those_of_python(run, model):
    result = run("sample", model, "-n", 7, "--random-state", 3, "-o", "new.parquet")
    assert result.stdout == ""
    expected = JKOFlowDensity.load(model).sample(7, random_state=3)
    assert pl.read_parquet("new.parquet").equals(expected)


def test_models_of_other_tables(run):
    X = table().select("age", "income").to_numpy()
    quick(max_blocks=0).fit(X).save("array")
    drawn = frame(run("sample", "array", "-n", 3))
    assert drawn.columns == ["x0", "x1"]
    result = run("score", "array", "data.csv", "--columns", "age,income")
    expected = JKOFlowDensity.load("array").score_samples(X)
    np.testing.assert_allclose(frame(result)["log_density"], expected)
    result = run("score", "array", "data.csv", "--columns", "age", code=1)
    assert "has 2 features without names, and data.csv 1 columns" in result.stderr
    assert "Name 2 of them with --columns" in result.stderr
    named = pd.DataFrame(X, columns=["age", "income"])
    quick(max_blocks=0).fit(named).save("pandas")
    drawn = frame(run("sample", "pandas", "-n", 3))
    assert drawn.columns == ["age", "income"]
    assert len(frame(run("score", "pandas", "data.csv"))) == 120


# ----------------------------------------------------------------------- info


def test_info_tells_what_is_inside(run, model):
    text = run("info", model).stdout
    assert text.startswith("JKOFlowDensity, ")
    assert "4 features, fitted on a polars table:" in text
    assert "  city (String): Bonn, Oslo, Rome" in text
    assert "0 blocks" in text
    assert '  init = "gaussian"' in text
    assert "time_limit" not in text
    found = json.loads(run("info", model, "--json").stdout)
    assert found == file_info(model)
    quick(max_blocks=1, early_stopping=False).fit(table()[:, :2]).save("free")
    assert json.loads(run("info", "free", "--json").stdout)["step_sizes"] == ["inf"]


def test_info_and_help_load_no_torch(run, model):
    code = (
        "import sys; from skjko.cli import cli; "
        "cli(sys.argv[1:], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    for args in (("info", model), ("fit", "--help"), ("--version",)):
        subprocess.run([sys.executable, "-c", code, *args], check=True)


def test_info_of_a_detector(run, detector):
    text = run("info", "det.skjko").stdout
    assert f"threshold: {detector.offset_:.4f} (combined), 60 calibration" in text


def test_info_reads_no_weights(run, model):
    content = Path(model).read_bytes()
    n_header = int.from_bytes(content[:8], "little")
    Path("cut").write_bytes(content[: 8 + n_header])
    text = run("info", "cut").stdout
    assert "DAMAGED: the file is not as long as its header says" in text
    assert text.splitlines()[2:] == run("info", model).stdout.splitlines()[1:]
    assert "Cannot load" in run("score", "cut", "new.csv", code=1).stderr


def test_info_from_standard_input(run, model):
    piped = run("info", "-", stdin=Path(model).read_bytes()).stdout
    assert piped == run("info", model).stdout


# --------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "args, message",
    [
        (("fit", "no.csv", "-o", "m"), "no.csv: No such file or directory"),
        (("fit", "data.csv", "-o", "no/m"), "There is no folder"),
        (("fit", "data.csv", "-o", "m", "--columns", "a"), "has no column 'a'. It has"),
        (("fit", "data.csv", "-o", "m", "--drop", "a"), "data.csv has no column 'a'"),
        (("fit", "data.csv", "-o", "m", "--weights", "a"), "no column 'a'"),
        (
            ("fit", "data.csv", "-o", "m", "--drop", "age,income,city,member"),
            "No column of data.csv is left",
        ),
        (("fit", "dates.csv", "-o", "m"), "'day' (Date). Leave them out: --drop day"),
        (("fit", "ragged.csv", "-o", "m"), "ragged.csv is no csv table:"),
        (("fit", "empty.csv", "-o", "m"), "empty.csv is no csv table:"),
        (("fit", "data.csv", "-o", "m", "--format", "parquet"), "is no parquet table"),
        (("fit", "names.csv", "-o", "m"), "'name' of X has 120 categories in 120 rows"),
        (("fit", "data.csv", "-o", "m", "--bounds", "a=0:"), "--bounds names 'a'"),
        (
            ("fit", "data.csv", "-o", "m", "--bounds", "age=35:"),
            "outside of the bounds",
        ),
        (("score", "data.csv", "data.csv"), "Cannot read 'data.csv'"),
        (("score", "MODEL", "names.csv"), "it lacks 'age', 'income', 'city', 'member'"),
        (("outliers", "data.csv", "--model", "MODEL"), "and no outlier detector"),
        (("info", "data.csv"), "Cannot read 'data.csv': it is no safetensors file"),
        (("info", "no"), "no: No such file or directory"),
    ],
)
def test_bad_input_is_one_message_and_status_1(run, model, args, message):
    Path("ragged.csv").write_text("a,b\n1,2\n1,2,3\n")
    Path("empty.csv").write_text("")
    days = pl.date_range(pl.date(2020, 1, 1), pl.date(2020, 4, 29), eager=True)
    table().with_columns(day=days).write_csv("dates.csv")
    names = [f"person {i}" for i in range(120)]
    pl.DataFrame({"name": names, "x": np.arange(120.0)}).write_csv("names.csv")
    args = [model if one == "MODEL" else one for one in args]
    extra = FAST if args[0] == "fit" else []
    result = run(*args, *extra, code=1)
    errors = [s for s in result.stderr.splitlines() if s.startswith("Error: ")]
    assert len(errors) == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "bounds",
    [
        ["age=0:,income=0:90"],
        ["age=0:", "income=0:90"],
        [" age = 0: , income=0:90,"],
    ],
)
def test_bounds_with_commas_and_repeated(run, bounds):
    args = [part for text in bounds for part in ("--bounds", text)]
    run("fit", "data.csv", "-o", "m", *args, *FAST)
    expected = {"age": [0.0, None], "income": [0.0, 90.0]}
    assert file_info("m")["parameters"]["bounds"] == expected


def test_bounds_of_names_with_commas_and_equals_signs(run):
    table().rename({"age": "a,b=c"}).write_csv("data.csv")
    run("fit", "data.csv", "-o", "m", "--bounds", "income=0:,a,b=c=0:", *FAST)
    expected = {"income": [0.0, None], "a,b=c": [0.0, None]}
    assert file_info("m")["parameters"]["bounds"] == expected


@pytest.mark.parametrize(
    "args, message",
    [
        (("fit", "data.csv"), "Missing option '-o'"),
        (("fit",), "Missing argument 'DATA'"),
        (("fly",), "No such command 'fly'"),
        (("fit", "data.csv", "-o", "m", "--time-limit", "0"), "'--time-limit'"),
        (("fit", "data.csv", "-o", "m", "--bounds", "age"), "'age' is not like COLUMN"),
        (("fit", "data.csv", "-o", "m", "--bounds", "age=0:,b"), "'age=0:,b' is not"),
        (("fit", "data.csv", "-o", "m", "--bounds", "age=a:"), "'age=a:' is not like"),
        (("sample", "m", "-n", "0"), "'-n' / '--n-samples'"),
        (("score", "-", "-"), "cannot both be standard input"),
        (("outliers", "data.csv", "--false-alarm-rate", "0.1"), "needs --model"),
        (
            ("outliers", "data.csv", "--model", "m", "--save", "n"),
            "--save is for a new detector",
        ),
        (
            ("outliers", "data.csv", "--model", "m", "--bounds", "age=0:"),
            "--bounds is for a new detector",
        ),
    ],
)
def test_bad_usage_is_status_2(run, args, message):
    result = run(*args, code=2)
    assert message in result.stderr
    assert "Usage: " in result.stderr


def test_warnings_are_lines(run):
    run("fit", "data.csv", "-o", "m", "--bounds", "age=0:", *FAST)
    new = table(30, seed=1).with_columns(age=pl.lit(-5))
    new.write_csv("new.csv")
    result = run("score", "m", "new.csv")
    assert result.stderr.startswith("Warning: 30 ")
    assert ".py" not in result.stderr
    assert frame(result)["log_density"].is_infinite().all()


def test_scores_of_a_failed_write_leave_the_file(run, model):
    Path("old.csv").write_text("old")
    run("score", model, "gaps.csv", "-o", "old.csv", code=1)
    assert Path("old.csv").read_text() == "old"


def test_every_command_has_help(run):
    text = run("--help").stdout
    for name in ("fit", "score", "sample", "outliers", "info"):
        assert name in text
        assert "Exit status: 0, 1 if the input is bad" in run(name, "--help").stdout


@pytest.mark.slow
def test_pipe_between_processes(tmp_path):
    table().write_csv(tmp_path / "data.csv")
    skjko = f"{sys.executable} -m skjko"
    command = (
        f"cat data.csv | {skjko} fit - -q -o - {' '.join(FAST)} "
        f"| tee model | {skjko} sample - -n 500 --random-state 1"
    )
    root = str(Path(__main__.__file__).parents[1])
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    density = JKOFlowDensity.load(tmp_path / "model")
    drawn = pl.read_csv(io.StringIO(result.stdout))
    assert len(drawn) == 500
    expected = density.score(density.sample(500, random_state=1))
    assert density.score(drawn) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("missing", ["click", "polars"])
def test_without_its_packages_the_command_says_what_to_install(
    missing, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as stop:
        __main__.main()
    assert stop.value.code == 1
    assert 'pip install "skjko[cli]"' in capsys.readouterr().err
