"""Write what Unicode and emojibase say of each bundled emoji: group, subgroup before the merges, keywords.

    python data/rebuild/emoji_words.py CACHE

fetches the pinned emojibase-data with the npm client into CACHE and writes data/images/emoji_words.json.
npm is needed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from emoji import LABELS, LABELS_HASH, fetched

IMAGES = Path(__file__).parents[1] / "images"


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from unitlab.bundled_images import bundled_images
    from unitlab.concepts.bundled_tags import emoji_parts

    cache = Path(sys.argv[1])
    cache.mkdir(parents=True, exist_ok=True)
    archive = fetched(LABELS, LABELS_HASH, cache)
    names = json.load(archive.extractfile("package/meta/groups.json"))
    shown = {code for _, code in map(emoji_parts, bundled_images("emoji").ids)}
    words = {
        entry["hexcode"].lower(): [
            names["groups"][str(entry["group"])], names["subgroups"][str(entry["subgroup"])], *sorted(entry.get("tags", []))
        ]
        for entry in json.load(archive.extractfile("package/en/data.json"))
        if entry["hexcode"].lower() in shown
    }  # fmt: skip
    assert set(words) == shown
    lines = ",\n".join(f"{json.dumps(code)}: {json.dumps(words[code], ensure_ascii=False)}" for code in sorted(words))
    path = IMAGES / "emoji_words.json"
    path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    print(f"{len(words)} emoji, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
