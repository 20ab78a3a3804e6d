"""Put real photographs into three folders: solar cells that are sound, doubtful, or defective.

Stands in for photographs of your own. Needs: pip install elpv-dataset
"""

import random
import shutil
from pathlib import Path

import elpv_dataset

SHARE = {0.0: "sound", 1 / 3: "doubtful", 2 / 3: "doubtful", 1.0: "defective"}

source = Path(elpv_dataset.__file__).parent / "data"
lines = (source / "labels.csv").read_text().splitlines()
random.Random(0).shuffle(lines)
for number, line in enumerate(lines):
    name, probability, _ = line.split()
    label = min(SHARE, key=lambda share: abs(share - float(probability)))
    folder = Path("photos", "val" if number % 4 == 0 else "train", SHARE[label])
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / name, folder / Path(name).name)
