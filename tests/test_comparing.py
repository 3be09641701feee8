"""Two runs are compared on the same images, or not at all."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

import tessera
from tessera.cli import main
from tessera.report.tables import read_table, write_table

NAMES = np.array(["ant", "bee", "cat"])


def make_run(
    folder: Path,
    wrong: set[int],
    images: int = 60,
    *,
    split: str = "test",
    kind: str = "csv",
    fingerprint: str | None = "same",
    **columns: Any,
) -> str:
    """A folder as ``evaluate --out`` leaves it, of a model that is wrong for some images."""
    folder.mkdir()
    rows = np.arange(images)
    labels = NAMES[rows % 3]
    predicted = [NAMES[(k + (k in wrong)) % 3] for k in rows]
    table: dict[str, Any] = {
        "image": [f"{k:03}.jpg" for k in rows],
        "label": labels.tolist(),
        "predicted": [str(name) for name in predicted],
        "correct": [k not in wrong for k in rows.tolist()],
        **columns,
    }
    write_table(folder / f"predictions-{split}.{kind}", table)
    if fingerprint is not None:
        data = {"data": {"fingerprint": {split: fingerprint}}}
        (folder / "report.json").write_text(json.dumps(data))
    return str(folder)


def test_the_numbers_are_those_of_the_images(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {0, 1, 2, 3, 4, 5, 6, 7})
    two = make_run(tmp_path / "two", {7, 8}, kind="parquet")
    found = tessera.compare(one, two, out=tmp_path / "out")
    (pair,) = found.pairs
    assert (pair.paired.only_first, pair.paired.only_second) == (1, 7)
    assert pair.paired.p_value == pytest.approx(binomtest(1, 8).pvalue)
    assert pair.p_adjusted == pair.paired.p_value
    assert pair.paired.difference.value == pytest.approx(6 / 60)
    assert "within chance: 2 is ahead of 1 by 10.00 points" in pair.conclusion
    assert found.only(0, 1) == [{"image": "008.jpg", "label": "cat", "predicted": "ant"}]
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written == found.as_dict()
    assert [row["accuracy"] for row in written["runs"]] == [52 / 60, 58 / 60]
    assert len(written["pairs"][0]["only_second"]) == 7
    table = read_table(tmp_path / "out" / "differences.csv")
    assert table["image"] == [f"{k:03}.jpg" for k in (0, 1, 2, 3, 4, 5, 6, 8)]
    assert table["correct_1"] == ["false"] * 7 + ["true"]
    assert table["predicted_2"][7] == "ant"


def test_a_clear_difference_is_called_one_whichever_comes_first(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", set(range(30)))
    two = make_run(tmp_path / "two", set())
    for runs, better, worse in (((one, two), 2, 1), ((two, one), 1, 2)):
        (pair,) = tessera.compare(*runs).pairs
        assert pair.conclusion.startswith(f"{better} is better than {worse} by 50.00 points")
        assert pair.paired.test == "mid-p"
        assert pair.paired.p_value < 1e-6


def test_equal_models_are_not_called_different(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {0, 1})
    two = make_run(tmp_path / "two", {0, 1})
    three = make_run(tmp_path / "three", {2, 3})
    sentences = [pair.conclusion for pair in tessera.compare(one, two, three).pairs]
    assert "nothing here tells them apart" in sentences[0]
    assert "equally often" in sentences[1]


def test_p_values_of_several_pairs_are_made_larger(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "one", set(range(7))),
        make_run(tmp_path / "two", set()),
        make_run(tmp_path / "three", {50}),
    ]
    found = tessera.compare(*runs)
    assert [(pair.first, pair.second) for pair in found.pairs] == [(0, 1), (0, 2), (1, 2)]
    first = found.pairs[0]
    assert first.paired.p_value == pytest.approx(2 / 2**7)
    assert first.p_adjusted == pytest.approx(3 * 2 / 2**7)
    assert "is better" in first.conclusion
    assert found.as_dict()["pairs"][0]["p_value_holm"] == first.p_adjusted


def test_the_order_of_the_images_does_not_matter(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {0, 1}, fingerprint=None)
    two = make_run(tmp_path / "two", {1, 2}, fingerprint=None)
    path = Path(two) / "predictions-test.csv"
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *reversed(rows)]) + "\n")
    (pair,) = tessera.compare(one, two).pairs
    assert (pair.paired.only_first, pair.paired.only_second, pair.paired.both) == (1, 1, 57)


def test_images_of_one_fingerprint_may_be_called_by_other_paths(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {0})
    two = make_run(tmp_path / "two", {1}, image=[f"/elsewhere/{k}.jpg" for k in range(60)])
    (pair,) = tessera.compare(one, two).pairs
    assert (pair.paired.only_first, pair.paired.only_second) == (1, 1)


class TestRefused:
    """What is not the same is not compared, and the message names it."""

    def test_other_images(self, tmp_path: Path) -> None:
        one = make_run(tmp_path / "one", set(), images=60)
        two = make_run(tmp_path / "two", set(), images=55)
        with pytest.raises(ValueError, match=r"5 only in .*one \(055.jpg, 056.jpg, 057.jpg, ...\)"):
            tessera.compare(one, two)

    def test_other_labels(self, tmp_path: Path) -> None:
        labels = NAMES[np.arange(60) % 3].tolist()
        labels[4] = "cat"
        one = make_run(tmp_path / "one", set())
        for name, fingerprint in (("two", "same"), ("three", "other")):
            two = make_run(tmp_path / name, set(), label=labels, fingerprint=fingerprint)
            with pytest.raises(
                ValueError, match=r"labels for 1 of 60 images: 004.jpg is bee and cat"
            ):
                tessera.compare(one, two)

    def test_other_contents(self, tmp_path: Path) -> None:
        one = make_run(tmp_path / "one", set())
        two = make_run(tmp_path / "two", set(), fingerprint="other")
        with pytest.raises(ValueError, match="of other contents: fingerprint same and other"):
            tessera.compare(one, two)

    def test_a_folder_that_is_not_there_or_has_no_answers(self, tmp_path: Path) -> None:
        one = make_run(tmp_path / "one", set(), split="val")
        with pytest.raises(ValueError, match=r"no folder at .*nowhere"):
            tessera.compare(one, tmp_path / "nowhere", split="val")
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="hint: make them with `tessera evaluate"):
            tessera.compare(one, tmp_path / "empty", split="val")
        with pytest.raises(ValueError, match="has no answers for the test split\nhint: it has val"):
            tessera.compare(one, tmp_path / "empty")

    def test_one_run_or_one_twice(self, tmp_path: Path) -> None:
        one = make_run(tmp_path / "one", set())
        with pytest.raises(ValueError, match="1 run given"):
            tessera.compare(one)
        with pytest.raises(ValueError, match="given twice"):
            tessera.compare(one, tmp_path / "one" / ".." / "one")

    def test_tables_of_something_else(self, tmp_path: Path) -> None:
        one = make_run(tmp_path / "one", set())
        other = tmp_path / "other"
        other.mkdir()
        for text, message in (
            ("image,label,predicted,error\na,1,2,1\n", "not right or wrong"),
            ("image,label\na,b\n", "lacks the column predicted"),
            ("image,label,predicted,correct\na,b,b,yes\n", "neither true nor false"),
            ("image,label,predicted,correct\na,b\n", "no whole table"),
        ):
            (other / "predictions-test.csv").write_text(text)
            with pytest.raises(ValueError, match=message):
                tessera.compare(one, other)

    def test_a_folder_in_use(self, tmp_path: Path) -> None:
        one, two = make_run(tmp_path / "one", set()), make_run(tmp_path / "two", {1})
        with pytest.raises(ValueError, match="already holds"):
            tessera.compare(one, two, out=one)


def test_the_command_prints_a_summary_or_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        make_run(tmp_path / "one", set(range(20))),
        make_run(tmp_path / "two", {58}),
        make_run(tmp_path / "three", {59}),
    ]
    out = tmp_path / "out"
    assert main(["compare", *runs, "--limit", "2", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for part in (
        "images      60 of the test split",
        f"{runs[0]}: accuracy 66.67%",
        "2 less 1    +31.67 points  (95 % interval ",
        "among 3 pairs",
        "conclusion  2 is better than 1 by 31.67 points",
        "right only in 2:\n  000.jpg: ant, 1 says bee\n  001.jpg: bee, 1 says cat\n  and 18 more",
        f"written     {out}",
    ):
        assert part in text, part
    assert main(["compare", *runs[:2], "--format", "json", "--limit", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["pairs"][0]["only_second"]) == 2
    assert found["pairs"][0]["only_second_right"] == 20
