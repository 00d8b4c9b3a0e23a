"""The generator, in packages that read as the data flow; imports only point down this list (import-linter checks).

`pools` (training images for downstream tasks) > `fidelity` (what is said about images) > `measuring` (networks that
look at images) > `training` > `sampling` > `stack` (what a generator and its conditions are). `weights`: what ships.
"""

from pathlib import Path

from radpref import torchvision_compat

torchvision_compat.install()

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
"""What is shipped: a folder for each generator, and `measure` with the measuring networks and the proxy."""
