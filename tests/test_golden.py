"""The golden tests take all sizes from the files of the folder that they are given."""

from __future__ import annotations

from pathlib import Path

from tests.made_golden import write_hrank, write_soft_share
from tests.processes import run_python

ROOT = Path(__file__).parent


def test_golden_tests_pass_on_a_folder_of_other_sizes(tmp_path: Path) -> None:
    write_hrank(tmp_path, filters=(7, 33, 128))
    write_soft_share(tmp_path, [(3, 2), (5, 5), (4, 9)])
    files = [ROOT / "prune" / "test_golden_hrank.py", ROOT / "recurrence" / "test_golden_soft_share.py"]
    report = tmp_path / "report.xml"
    run_python(
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *map(str, files)],
        SHAPESHIFT_GOLDEN=str(tmp_path),
    )
    found = report.read_text()
    for name in ("test_golden_filters[0.29-7]", "test_golden_filters[0.9-128]", "test_golden_ranks[1]", "(4, 9)"):
        assert name in found
