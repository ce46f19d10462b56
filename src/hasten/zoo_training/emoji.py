"""The emoji data set: two drawing styles with English captions, read from two npm packages."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hasten.core.errors import HastenError

STYLES = {"noto": "google", "twemoji": "twitter"}
"""Caption word of a style -> its folder in the packages."""

VERSION = "16.0.0"
CPU_CATEGORIES = ("Smileys & Emotion", "Animals & Nature", "Food & Drink", "Objects")
SKINS = {
    "1F3FB": "light skin",
    "1F3FC": "medium light skin",
    "1F3FD": "medium skin",
    "1F3FE": "medium dark skin",
    "1F3FF": "dark skin",
}


@dataclass(frozen=True)
class Emoji:
    """One picture.

    name: in lower-case words, shared by all styles and skin variants.
    style: a word of STYLES.
    category: as the packages name it.
    path: the PNG file.
    skin: the colour in words; empty for the plain one.
    """

    name: str
    style: str
    category: str
    path: Path
    skin: str = ""

    @property
    def caption(self) -> str:
        """Style, name and skin: its own among all pictures."""
        return " ".join(word for word in (self.style, self.name, self.skin) if word)

    @property
    def held_out(self) -> bool:
        """5 % of the names, in every style, that no training sees."""
        return fraction(self.name) < 0.05


def emojis(data: Path | str | None = None) -> list[Emoji]:
    """Every picture of both styles.

    data: folder of the npm packages, which are fetched into it if they are not there; the user's cache if None.
    Raises HastenError if they cannot be fetched.
    """
    pictures = []
    for style, vendor in STYLES.items():
        package = find_package(vendor, Path(data) if data else default_cache())
        for entry in json.loads((package / "emoji.json").read_text()):
            variants = [("", entry)]
            for code, variant in entry.get("skin_variations", {}).items():
                variants.append((" ".join(SKINS[part] for part in code.split("-")), variant))
            for skin, variant in variants:
                path = package / "img" / vendor / "64" / variant["image"]
                if path.exists():
                    pictures.append(Emoji(simple(entry["name"]), style, entry["category"], path, skin))
    return pictures


def choose(all_emojis: Iterable[Emoji], names: int | None = None) -> list[Emoji]:
    """What a text-to-image model trains on: no held-out names, no skin variants.

    all_emojis: every picture.
    names: how many names (chosen by a hash) of faces, animals, food and objects, a CPU's portion; None for all.
    Raises HastenError for fewer than one name or more than there are.
    """
    kept = [e for e in all_emojis if not e.held_out and not e.skin]
    if names is None:
        return kept
    kept = [e for e in kept if e.category in CPU_CATEGORIES]
    known = sorted({e.name for e in kept}, key=lambda name: fraction("choose " + name))
    if not 1 <= names <= len(known):
        raise HastenError(f"names: {names} should be between 1 and {len(known)}, or left out for all emoji")
    chosen = set(known[:names])
    return [e for e in kept if e.name in chosen]


def images(pictures: Sequence[Emoji]) -> Tensor:
    """Pictures on white as (N, 3, 64, 64) in [-1, 1].

    pictures: N emoji.
    """
    import numpy as np
    from PIL import Image

    white = Image.new("RGBA", (64, 64), "white")
    arrays = [
        np.asarray(Image.alpha_composite(white, Image.open(e.path).convert("RGBA").resize((64, 64))).convert("RGB"))
        for e in pictures
    ]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def varied(pictures: Tensor, copies: int, seed: int = 0) -> Tensor:
    """Pictures and copies of them, moved by up to 2 pixels and resized by up to 4 %.

    Nothing is mirrored, turned or recoloured: that would contradict captions ("left arrow", "red apple").

    pictures: in [-1, 1], (N, 3, 64, 64).
    copies: how many of each.
    seed: of the changes.
    Returns (N * (copies + 1), 3, 64, 64): all pictures, then all first copies, and so on.
    """
    from torch.nn import functional as F

    generator = torch.Generator().manual_seed(seed)
    made = [pictures]
    for _ in range(copies):
        draws = 2 * torch.rand(len(pictures), 3, generator=generator) - 1
        zoom, moves = 1 + 0.04 * draws[:, :1], draws[:, 1:] * 2 / 32
        frame = torch.cat([torch.diag_embed(zoom.expand(-1, 2)), moves[..., None]], dim=2)
        places = F.affine_grid(frame, list(pictures.shape), align_corners=False)
        made.append(F.grid_sample(pictures - 1, places, mode="bicubic", align_corners=False).clamp(-2, 0) + 1)
    return torch.cat(made)


def simple(name: str) -> str:
    """Lower case words and digits only: "Woman’s Hat" -> "womans hat"."""
    name = name.lower().replace("&", " and ").replace("’", "").replace("'", "")
    return " ".join(re.findall(r"[^\W_]+", name))


def fraction(text: str) -> float:
    """A fixed pseudo-random number in [0, 1) for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def default_cache() -> Path:
    """Where data lies if no folder is named."""
    return Path.home() / ".cache" / "hasten"


def find_package(vendor: str, data: Path) -> Path:
    """The folder of an unpacked npm package, which is unpacked or fetched where needed.

    vendor: a folder of STYLES.
    data: where packages lie.
    Raises HastenError if it cannot be fetched.
    """
    package = f"emoji-datasource-{vendor}"
    for folder in (data / package, data / vendor, data):
        if (folder / "emoji.json").exists() and (folder / "img" / vendor / "64").is_dir():
            return folder
    archive = data / f"{package}-{VERSION}.tgz"
    if not archive.exists():
        fetch(f"{package}@{VERSION}", data)
    return unpack(archive, data / package, vendor)


def fetch(package: str, data: Path) -> None:
    """Fetch the .tgz of an npm package.

    package: its name and version, with an @ between them.
    data: the folder to fetch it into.
    Raises HastenError if npm is not there or fails.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise HastenError(f"data: {data} has no {package}, and npm, which would fetch it, is not installed")
    data.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([npm, "pack", "--silent", package], cwd=data, capture_output=True, text=True)
    if done.returncode:
        raise HastenError(f"data: `npm pack {package}` failed: {done.stderr.strip() or done.stdout.strip()}")


def unpack(archive: Path, target: Path, vendor: str) -> Path:
    """Extract the captions and the 64-pixel pictures of an npm package, and nothing else; return the folder.

    archive: the .tgz.
    target: the folder, which appears when all is in it.
    vendor: a folder of STYLES.
    """
    wanted = ("package/emoji.json", "package/LICENSE", f"package/img/{vendor}/64/")
    partial = target.with_suffix(".partial")
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.name.startswith(wanted)]
        tar.extractall(partial, members=members, filter="data")
    (partial / "package").rename(target)
    partial.rmdir()
    return target
