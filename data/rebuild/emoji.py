"""Rebuild the emoji set: drawings of several artists, 64×64, labelled by their Unicode subgroup.

    python data/rebuild/emoji.py CACHE

fetches pinned packages with the npm client into CACHE, renders them there (a few minutes) and writes
CACHE/emoji.npz (all images, RGBA, for training) and data/images/emoji.zip (the validation images).
Needs: npm, and `pip install resvg-py pillow numpy tqdm`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

SEED = 0
VALIDATION = 0.4
SIZE, LONGEST = 64, 60
LABELS = "emojibase-data@17.0.0"

# set -> package, artist family, sha512 of the package
SETS = {
    "noto": ("@iconify-json/noto@1.2.9", "google", "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw=="),
    "noto-v1": ("@iconify-json/noto-v1@1.2.5", "google", "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA=="),
    "twemoji": ("@iconify-json/twemoji@1.2.5", "twitter", "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw=="),
    "fluent": ("@iconify-json/fluent-emoji@1.2.7", "microsoft", "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA=="),
    "fluent-flat": ("@iconify-json/fluent-emoji-flat@1.2.6", "microsoft", "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw=="),
    "fluent-3d": ("@lobehub/fluent-emoji-3d@1.1.0", "microsoft", "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g=="),
    "emojione": ("@iconify-json/emojione@1.2.3", "emojione", "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg=="),
    "fxemoji": ("@iconify-json/fxemoji@1.2.2", "mozilla", "UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ=="),
    "streamline": ("@iconify-json/streamline-emojis@1.2.4", "streamline", "iNr9T9XuZVTyQPJO8ZlLxBzPkpi7qMl+z1l0C31vpEMqhPMelth3n7CeWQYtixdetDPdI81yeG4ROqjWpYJE6A=="),
}  # fmt: skip
LABELS_HASH = "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA=="

# small or confused subgroups that are taken together
MERGED = {
    "face-sleepy": "face-unwell", "face-hat": "face-costume", "face-glasses": "face-costume", "phone": "computer",
    "science": "medical", "sound": "music", "dishware": "drink", "person-symbol": "family", "arts-crafts": "office",
    "writing": "office", "face-affection": "face-smiling", "face-tongue": "face-smiling",
    "face-hand": "face-neutral-skeptical", "face-negative": "face-concerned",
    "hand-fingers-partial": "hand-fingers-open", "hand-single-finger": "hand-fingers-closed", "place-map": "place-geographic",
    "award-medal": "event", "lock": "tool", "warning": "transport-sign", "av-symbol": "arrow", "transport-air": "transport-water",
    "hotel": "household", "gender": "other-symbol", "math": "punctuation", "currency": "punctuation",
}  # fmt: skip
LEFT_OUT = {"country-flag", "subdivision-flag", "keycap", "skin-tone", "hair-style"}
LEAST_IMAGES = 60


def fetched(package: str, integrity: str, cache: Path) -> tarfile.TarFile:
    """The package's archive, fetched by the npm client where it is not there yet, and checked."""
    path = cache / re.sub(r"^@", "", package).replace("/", "-").replace("@", "-")
    path = path.with_name(path.name + ".tgz")
    if not path.exists():
        subprocess.run(
            ["npm", "pack", "--silent", package, "--pack-destination", str(cache)], check=True, stdout=subprocess.DEVNULL
        )
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if digest != integrity:
        raise SystemExit(f"{path} has another hash than pinned here; remove it and run again")
    return tarfile.open(path)


def squashed(name: str) -> str:
    """A name without case and punctuation, by which sets that carry no code points are matched."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("’", "").replace("&", "and"))


def concept(hexcode: str) -> str:
    """One key for the gender variants of a thing."""
    key = re.sub(r"-200D-264[02](-FE0F)?", "", hexcode.upper())
    parts = ["PERSON" if part in ("1F468", "1F469", "1F9D1") else part for part in key.split("-") if part != "FE0F"]
    return "-".join(parts)


def emoji_table(archive: tarfile.TarFile) -> tuple[dict[str, str], dict[str, str]]:
    """Hexcode → class, and squashed name → hexcode."""
    data = json.load(archive.extractfile("package/en/data.json"))
    subgroups = json.load(archive.extractfile("package/meta/groups.json"))["subgroups"]
    classes: dict[str, str] = {}
    names: dict[str, str] = {}
    for entry in data:
        subgroup = subgroups.get(str(entry.get("subgroup")))
        if subgroup is None or subgroup in LEFT_OUT:
            continue
        classes[entry["hexcode"]] = MERGED.get(subgroup, subgroup)
        if "cat" in entry["label"].split() and "face" in entry["label"]:
            classes[entry["hexcode"]] = "cat-face"
        names.setdefault(squashed(entry["label"]), entry["hexcode"])
    unicode_names = json.load(archive.extractfile("package/meta/unicode-names.json"))
    for key, name in unicode_names.items():
        if key in classes:
            names.setdefault(squashed(name), key)
    for source in ("cldr", "emojibase", "joypixels", "iamcal", "github"):
        for key, codes in json.load(archive.extractfile(f"package/en/shortcodes/{source}.json")).items():
            for code in [codes] if isinstance(codes, str) else codes:
                if key in classes:
                    names.setdefault(squashed(code), key)
    return classes, names


def drawings(name: str, archive: tarfile.TarFile, classes: dict[str, str], names: dict[str, str], flat: dict[str, str]):
    """(hexcode, SVG text or image bytes) of every drawing of a set that has a class."""
    by_plain = {key.replace("-FE0F", ""): key for key in classes}
    if name == "fluent-3d":
        for member in archive.getmembers():
            if member.name.endswith(".webp"):
                key = by_plain.get(Path(member.name).stem.upper().replace("-FE0F", ""))
                if key:
                    yield key, archive.extractfile(member).read()
        return
    icons = json.load(archive.extractfile("package/icons.json"))
    characters = json.load(archive.extractfile("package/chars.json"))
    characters = characters or (flat if name == "fluent" else {})
    of_icon = {icon: by_plain.get(code.upper().replace("-FE0F", "")) for code, icon in characters.items()}
    for icon, drawing in icons["icons"].items():
        key = of_icon.get(icon) if characters else names.get(squashed(icon))
        if key:
            width, height = drawing.get("width", icons["width"]), drawing.get("height", icons["height"])
            left, top = drawing.get("left", 0), drawing.get("top", 0)
            head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{left} {top} {width} {height}">'
            yield key, f"{head}{drawing['body']}</svg>"


def rendered(drawing: str | bytes) -> np.ndarray | None:
    """64×64 RGBA: cropped to what is drawn, longest side 60, centred."""
    import resvg_py  # here, since emoji_words.py renders nothing

    try:
        data = (
            drawing if isinstance(drawing, bytes) else bytes(resvg_py.svg_to_bytes(svg_string=drawing, width=256, height=256))
        )
        picture = Image.open(io.BytesIO(data)).convert("RGBA")
    except Exception as error:
        print("not rendered:", error, file=sys.stderr)
        return None
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    if box is None:
        return None
    picture = picture.crop(box)
    scale = LONGEST / max(picture.size)
    size = [max(1, round(side * scale)) for side in picture.size]
    # premultiplied while resizing, so that hidden colours do not bleed into the edges
    pixels = np.asarray(picture, dtype=np.float32) / 255
    pixels[..., :3] *= pixels[..., 3:]
    small = np.stack(
        [np.asarray(Image.fromarray(pixels[..., c]).resize(size, Image.Resampling.LANCZOS)) for c in range(4)], -1
    ).clip(0, 1)
    alpha = small[..., 3:]
    small[..., :3] = np.where(alpha > 1e-3, small[..., :3] / np.maximum(alpha, 1e-3), 1).clip(0, 1)
    out = np.zeros((SIZE, SIZE, 4), np.uint8)
    out[..., :3] = 255
    top, left = (SIZE - size[1]) // 2, (SIZE - size[0]) // 2
    out[top : top + size[1], left : left + size[0]] = np.round(small * 255)
    return out


def on_white(image: np.ndarray) -> np.ndarray:
    alpha = image[..., 3:].astype(np.float32) / 255
    return np.round(image[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def split(rows: list[dict[str, str]]) -> np.ndarray:
    """Validation mask: 40 % of each class's clusters (artist family, concept), by images, seeded."""
    random = np.random.default_rng(SEED)
    validation = np.zeros(len(rows), bool)
    for name in sorted({row["class"] for row in rows}):
        mine = [i for i, row in enumerate(rows) if row["class"] == name]
        clusters = sorted({rows[i]["cluster"] for i in mine})
        taken, wanted = 0, round(VALIDATION * len(mine))
        for cluster in random.permutation(clusters):
            members = [i for i in mine if rows[i]["cluster"] == cluster]
            if taken >= wanted:
                break
            validation[members] = True
            taken += len(members)
    return validation


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    cache = Path(sys.argv[1])
    cache.mkdir(parents=True, exist_ok=True)
    classes, names = emoji_table(fetched(LABELS, LABELS_HASH, cache))
    archives = {name: fetched(package, integrity, cache) for name, (package, _, integrity) in SETS.items()}
    flat = json.load(archives["fluent-flat"].extractfile("package/chars.json"))
    rows, pictures, seen = [], [], set()
    with ProcessPoolExecutor(2) as pool:
        for name, archive in archives.items():
            found = list(drawings(name, archive, classes, names, flat))
            done = tqdm(pool.map(rendered, [drawing for _, drawing in found], chunksize=32), total=len(found), desc=name)
            keys = set()
            for (key, _), picture in zip(found, done, strict=True):
                if picture is None or key in keys:
                    continue
                # a family draws gender variants and copies alike: one of each picture, before the split
                digest = hashlib.sha256(on_white(picture).tobytes()).hexdigest()
                if digest in seen:
                    continue
                keys.add(key)
                seen.add(digest)
                family = SETS[name][1]
                rows.append({"id": f"{name}-{key.lower()}", "class": classes[key], "cluster": f"{family} {concept(key)}"})
                pictures.append(picture)
    counts = {c: sum(row["class"] == c for row in rows) for c in {row["class"] for row in rows}}
    kept = [i for i, row in enumerate(rows) if counts[row["class"]] >= LEAST_IMAGES]
    print("left out, too few images:", {c: n for c, n in counts.items() if n < LEAST_IMAGES})
    rows, pictures = [rows[i] for i in kept], [pictures[i] for i in kept]
    validation = split(rows)
    categories = sorted({row["class"] for row in rows})
    clusters = sorted({row["cluster"] for row in rows})
    np.savez(
        cache / "emoji.npz",
        images=np.stack(pictures),
        label=np.array([categories.index(row["class"]) for row in rows]),
        validation=validation,
        cluster=np.array([clusters.index(row["cluster"]) for row in rows]),
        categories=np.array(categories),
    )
    path = Path(__file__).parents[1] / "images" / "emoji.zip"
    path.parent.mkdir(exist_ok=True)
    index = []
    order = sorted(np.flatnonzero(validation), key=lambda i: (rows[i]["class"], rows[i]["id"]))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for i in order:
            buffer = io.BytesIO()
            Image.fromarray(on_white(pictures[i])).save(buffer, "WEBP", lossless=True, quality=100, method=6)
            entry = f"{rows[i]['class']}/{rows[i]['id']}.webp"
            archive.writestr(zipfile.ZipInfo(entry, (2020, 1, 1, 0, 0, 0)), buffer.getvalue())
            index.append([entry, clusters.index(rows[i]["cluster"])])
        text = json.dumps({"categories": categories, "images": index}, ensure_ascii=False)
        archive.writestr(zipfile.ZipInfo("index.json", (2020, 1, 1, 0, 0, 0)), text)
    print(
        f"{len(rows)} images, {len(categories)} classes, {validation.sum()} for validation, {path.stat().st_size / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
