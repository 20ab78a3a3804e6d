"""Imagewoof v2: ten dog breeds of ImageNet-1k, 9,025 + 3,929 images, by fastai.

Source: https://github.com/fastai/imagenette; harder than Imagenette, same layout, same split made
anew, so the same leak: see :mod:`pqbench.data.imagenette`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pqbench.data.imagenette import Archives, Imagenette

CLASSES = {
    "n02086240": ("Shih-Tzu", 155),
    "n02087394": ("Rhodesian ridgeback", 159),
    "n02088364": ("beagle", 162),
    "n02089973": ("English foxhound", 167),
    "n02093754": ("Border terrier", 182),
    "n02096294": ("Australian terrier", 193),
    "n02099601": ("golden retriever", 207),
    "n02105641": ("Old English sheepdog", 229),
    "n02111889": ("Samoyed", 258),
    "n02115641": ("dingo", 273),
}
# SHA-256 as the Julia package FastAI.jl lists them, sizes as fastai does. Of the archive with
# full-size images ("imagewoof2") no SHA-256 is published: it has to be fetched by hand.
ARCHIVES = {
    "160": (
        "imagewoof2-160",
        "663c22f69c2802d85e2a67103c017e047096702ffddf9149a14011b7002539bf",
        92_612_825,
    ),
    "320": (
        "imagewoof2-320",
        "4e4905ed7643120daaf9bf3b2ef7f3a7e8396d9bdaf254a38c6f01f618b4973d",
        328_387_740,
    ),
}


class Imagewoof(Imagenette):
    """Imagewoof v2; arguments and splits as for Imagenette (no ``full`` download: set ``root``)."""

    by_names: ClassVar[bool] = True
    title: ClassVar[str] = "Imagewoof"
    wnids: ClassVar[Mapping[str, tuple[str, int]]] = CLASSES
    archives: ClassVar[Archives] = ARCHIVES
