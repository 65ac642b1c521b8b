"""The command line of the fuzzer that is guided by coverage: ``python -m tests.fuzz``."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
DESCRIPTION = """Fuzz the WebSocket driver's parsers. What makes a target fail is written to the current directory.

Other arguments go to libFuzzer as they are, instead of the usual ones. So this puts into the corpus what was found:
python -m tests.fuzz --target url -merge=1 tests/fuzz/corpus/url DIR/url
"""


def main() -> None:
    """Fuzz what the command line asks for."""
    names = sorted(path.name for path in CORPUS.iterdir())
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="for each target; default 60")
    parser.add_argument("--target", choices=names, help="default: all, one after the other")
    parser.add_argument("--found", type=Path, metavar="DIR", help="keep what finds new ways through the code in DIR")
    options, flags = parser.parse_known_args()
    if options.target is None:
        for name in names:
            if code := subprocess.call([sys.executable, "-m", "tests.fuzz", *sys.argv[1:], "--target", name]):
                sys.exit(code)
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = options.found / options.target if options.found else Path(scratch)
        found.mkdir(parents=True, exist_ok=True)
        usual = [f"-max_total_time={options.seconds}", str(found), str(CORPUS / options.target)]
        fuzz(options.target, flags or usual)


def fuzz(target: str, flags: list[str]) -> None:
    """Hand over to the fuzzer, which ends the process."""
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        sys.exit("this needs the package atheris, which is not installed: pip install atheris")
    with atheris.instrument_imports(include=["trio_csp_websocket"]):
        targets = importlib.import_module("tests.fuzz._targets")
    # To merge, libFuzzer starts itself again.
    command = f"{sys.executable} -m tests.fuzz --target {target}"
    atheris.Setup([command, "-max_len=4096", "-timeout=30", *flags], targets.TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
